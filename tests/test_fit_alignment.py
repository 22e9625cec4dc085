"""The fit finds again what made-up detections were built with."""

import numpy as np
import pytest

from faceattr import alignment
from faceattr.alignment import (
    CHIP_FACE_SIDE,
    CHIP_HAAR_BOX,
    CHIP_LANDMARKS,
    NOSE,
    face_transform,
)
from faceattr.results import Detection, FaceBox
from scripts.fit_alignment import Found, find, fit_box, fit_landmarks, onto, remaining
from train.data.source import Rows, Source


def similarity(degrees, scale, shift):
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def chips(rng, count):
    """Transforms from pictures to chips of 80 to 300 pixels, turned by up to 15°."""
    for _ in range(count):
        yield similarity(rng.uniform(-15, 15), 1 / rng.uniform(80, 300), rng.uniform(-2, 0, 2))


def detection(chip, points, box, name):
    """A face whose landmarks and box centre lie at these places of the chip."""
    back = onto(chip, np.eye(2, 3))
    x, y = back @ (box.x + box.width / 2, box.y + box.height / 2, 1)
    side = box.width * np.hypot(*back[:, 0])
    found = FaceBox(x - side / 2, y - side / 2, side, side)
    if points is None:
        return Found(Detection(found, 1.0, None, name), chip)
    moved = tuple((float(x), float(y)) for x, y in points @ back[:, :2].T + back[:, 2])
    return Found(Detection(found, 1.0, moved, name), chip)


def test_a_box_is_found_at_its_place_on_the_chip_however_the_chip_is_turned():
    rng = np.random.default_rng(0)
    truth = FaceBox(0.05, -0.02, 0.9, 0.9)
    found = [detection(chip, None, truth, "haar") for chip in chips(rng, 20)]
    assert fit_box(found)["CHIP_HAAR_BOX"] == pytest.approx([0.05, -0.02, 0.9, 0.9], abs=1e-3)


def test_the_constants_that_faces_were_cut_by_are_found_despite_outliers(monkeypatch):
    monkeypatch.setattr(alignment, "NOSE_TURN", 0.8)
    monkeypatch.setattr(alignment, "NOSE_SHIFT", 0.2)
    rng = np.random.default_rng(1)
    template = np.array(CHIP_LANDMARKS)
    found = []
    for i, nose in enumerate(rng.permutation(np.linspace(-0.2, 0.2, 401))):
        points = template.copy()
        points[NOSE, 0] += nose
        turned = similarity(rng.uniform(-15, 15), rng.uniform(80, 300), (300, 200))
        points = points @ turned[:, :2].T + turned[:, 2]
        side = CHIP_FACE_SIDE * np.hypot(*turned[:, 0])
        box = FaceBox(0, 0, side, side)
        chip = face_transform(points.tolist(), box)
        points += rng.normal(0, 20 if i % 20 == 0 else 0.3, points.shape)
        found.append(Found(Detection(box, 1.0, tuple(map(tuple, points)), "yunet"), chip))
    fit = fit_landmarks(found)
    np.testing.assert_allclose(fit["CHIP_LANDMARKS"], template, atol=0.01)
    assert fit["CHIP_FACE_SIDE"] == pytest.approx(CHIP_FACE_SIDE, rel=0.05)
    assert fit["NOSE_TURN"] == pytest.approx(0.8, abs=0.08)
    assert fit["NOSE_SHIFT"] == pytest.approx(0.2, abs=0.04)


def test_a_face_at_the_templates_place_leaves_no_error():
    rng = np.random.default_rng(2)
    side = FaceBox(0, 0, CHIP_FACE_SIDE, CHIP_FACE_SIDE)
    template = np.array(CHIP_LANDMARKS)
    found = [detection(chip, template, side, "yunet") for chip in chips(rng, 5)]
    for numbers in remaining(found).values():
        assert numbers == pytest.approx({"mean": 0, "std": 0, "p5": 0, "p95": 0}, abs=1e-3)


def test_a_turned_face_without_landmarks_leaves_its_turn_and_a_looser_box_its_scale():
    chip = similarity(-10, 1 / 200, (-1.2, -0.7))
    box = CHIP_HAAR_BOX
    grown = FaceBox(box.x - 0.05, box.y - 0.05, box.width + 0.1, box.height + 0.1)
    error = remaining([detection(chip, None, grown, "haar")])
    assert error["turn"]["mean"] == pytest.approx(10, abs=1e-3)
    looser = np.log(box.width / grown.width)
    assert error["log_scale"]["mean"] == pytest.approx(looser, abs=1e-3)


class Blind:
    """Sees a face as large as the picture in every second one."""

    name = "haar"

    def __init__(self):
        self.calls = 0

    def detect(self, image):
        self.calls += 1
        return [] if self.calls % 2 else [Detection(FaceBox(0, 0, 640, 480), 1.0, None, "haar")]


def test_missed_faces_and_false_ones_are_left_out(tiny_fairface):
    rows = Rows(Source(str(tiny_fairface)), "train")
    often, seldom = Blind(), Blind()
    found = find({often: 1}, rows, 10, seed=0)["haar"]
    find({seldom: 4}, rows, 10, seed=0)
    assert (often.calls, seldom.calls) == (10, 3)
    assert len(found) < 5
    assert all(item.chip.shape == (2, 3) for item in found)
