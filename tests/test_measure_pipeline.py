"""The measurement pastes chips where it says and compares the same faces."""

from types import SimpleNamespace

import numpy as np
import pytest

from faceattr.labels import TASKS
from faceattr.results import FaceBox
from scripts import measure_pipeline
from scripts.measure_pipeline import FACE_IN_CHIP, HEIGHT, SIZES, WIDTH, compare, paste
from train.data.source import Rows, Source


@pytest.fixture
def dotted():
    """A black chip with a white disc in its middle."""
    y, x = np.mgrid[:224, :224] - 111.5
    disc = (x**2 + y**2 < 30**2).astype(np.uint8) * 255
    return np.repeat(disc[..., None], 3, axis=2)


@pytest.mark.parametrize("seed", range(12))
def test_a_chip_lies_where_the_scene_says(dotted, seed, monkeypatch):
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    monkeypatch.setattr(measure_pipeline, "_background", lambda *_: black.copy())
    scene = paste(dotted, dotted, np.random.default_rng(seed))
    assert scene.image.shape == (HEIGHT, WIDTH, 3)
    assert SIZES[0] <= scene.side <= SIZES[1]
    y, x = np.nonzero((scene.image > 127).all(2))
    left, top, _, _ = FACE_IN_CHIP
    assert x.mean() == pytest.approx(scene.box.x + (0.5 - left) * scene.side, abs=1.0)
    assert y.mean() == pytest.approx(scene.box.y + (0.5 - top) * scene.side, abs=1.0)
    # The disc lies in the middle of the chip, and its area says how large the chip is.
    middle = scene.chip @ (x.mean() + 0.5, y.mean() + 0.5, 1)
    assert middle == pytest.approx((0.5, 0.5), abs=0.5 / scene.side + 0.002)
    assert 1 / np.hypot(*scene.chip[:, 0]) == pytest.approx(scene.side, rel=1e-6)
    assert len(x) == pytest.approx(np.pi * (scene.side * 30 / 224) ** 2, rel=0.15)


@pytest.mark.parametrize("seed", range(4))
def test_within_the_chips_place_is_the_chip_and_around_it_something_else(seed):
    chip = np.full((224, 224, 3), (250, 0, 0), np.uint8)
    scene = paste(chip, chip[..., ::-1], np.random.default_rng(seed))
    y, x = np.mgrid[: scene.image.shape[0], : scene.image.shape[1]] + 0.5
    across, down = np.tensordot(scene.chip, np.stack([x, y, np.ones_like(x)]), 1)
    away = np.maximum(abs(across - 0.5), abs(down - 0.5))
    assert (scene.image[away < 0.48] == (250, 0, 0)).all()
    assert (scene.image[away > 0.52] != (250, 0, 0)).any(1).all()


def test_the_same_seed_gives_the_same_scene(dotted):
    one, two = (paste(dotted, dotted, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image)


def test_a_drop_is_that_of_the_same_faces():
    sides = np.array([70.0, 80.0, 90.0, 95.0])
    chips = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    scenes = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    found = compare(sides, chips, scenes)
    assert found["faces"] == 4
    gender = found[TASKS[0].name]
    assert (gender["chip"], gender["pipeline"], gender["drop"]) == (1.0, 0.75, 0.25)
    error = 1.96 * 0.5 / 2
    assert gender["drop_low"] == pytest.approx(0.25 - error, abs=1e-5)
    assert found[TASKS[1].name]["drop"] == 0.0


class Oracle:
    """Stands for a pipeline: right on every chip, and in scenes too where it finds the face."""

    def __init__(self, rows, lost):
        self.answers = iter([row.targets for row in rows])
        self.pending = []
        self.lost = lost

    def _face(self, box, targets):
        labels = {task.name: task.classes[i] for task, i in zip(TASKS, targets, strict=True)}
        return SimpleNamespace(
            box=box, **{name: SimpleNamespace(label=label) for name, label in labels.items()}
        )

    def classify_crops(self, crops):
        self.pending = [next(self.answers) for _ in crops]
        return [self._face(FaceBox(0, 0, 1, 1), targets) for targets in self.pending]

    def predict_batch(self, pictures):
        found = []
        for targets, (box, number) in zip(self.pending, pictures, strict=True):
            wrong = (1 - targets[0], *targets[1:])
            far = FaceBox(-500, -500, 10, 10)
            faces = [self._face(far, wrong), self._face(box, wrong if number % 4 == 1 else targets)]
            found.append(faces[:1] if number in self.lost else faces)
        return found


def test_only_found_faces_are_compared_each_with_its_own_chip(monkeypatch, tiny_fairface):
    rows = Rows(Source(str(tiny_fairface)), "validation")
    numbers = iter(range(1000))

    def scene(*_):
        box = FaceBox(100, 100, 150, 180)
        return measure_pipeline.Scene((box, next(numbers)), 150.0, box, np.eye(2, 3))

    monkeypatch.setattr(measure_pipeline, "paste", scene)
    pipeline = Oracle(iter(rows), lost={0, 2})
    found = measure_pipeline.measure(pipeline, rows, 24, seed=0)
    assert (found["pasted"], found["found"]) == (24, 22)
    gender = found["all"]["gender"]
    assert gender["chip"] == 1.0
    assert gender["drop"] == pytest.approx(6 / 22, abs=1e-6)
    assert found["all"]["race"]["drop"] == 0.0
    assert list(found["by_side"]) == ["100 to 200 px"]


def test_nothing_found_ends_with_a_message(monkeypatch, tiny_fairface):
    rows = Rows(Source(str(tiny_fairface)), "validation")
    pipeline = Oracle(iter(rows), lost=set(range(1000)))
    box = FaceBox(100, 100, 150, 180)
    numbers = iter(range(1000))

    def scene(*_):
        return measure_pipeline.Scene((box, next(numbers)), 150.0, box, np.eye(2, 3))

    monkeypatch.setattr(measure_pipeline, "paste", scene)
    with pytest.raises(SystemExit, match="only 0 of 8"):
        measure_pipeline.measure(pipeline, rows, 8, seed=0)
