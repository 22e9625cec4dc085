"""Crops: the transform against independent oracles, and pixels against known pictures."""

import cv2
import numpy as np
import pytest

from faceattr.alignment import (
    CHIP_FACE_SIDE,
    CHIP_HAAR_BOX,
    CHIP_LANDMARKS,
    NOSE,
    NOSE_SHIFT,
    NOSE_TURN,
    TIGHTER,
    align_face,
    box_transform,
    face_transform,
    similarity_transform,
)
from faceattr.results import Detection, FaceBox

TEMPLATE = np.array(CHIP_LANDMARKS)


def face(points=None, box=None):
    """A detection; its box is as large as a face of these landmarks has it, unless given."""
    landmarks = None if points is None else tuple((float(x), float(y)) for x, y in points)
    if box is None:
        eyes = np.linalg.norm(np.subtract(points[1], points[0]))
        side = CHIP_FACE_SIDE * eyes / np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
        box = FaceBox(0, 0, side, side)
    return Detection(box, 1.0, landmarks, "test")


def pairs(points):
    return [(float(x), float(y)) for x, y in points]


def turned(points, degrees, scale, shift):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * np.asarray(points) @ turn.T + shift


def scene(x, y):
    """A smooth RGB picture as a function of continuous coordinates, periods 90 to 160 px."""
    waves = [np.sin(x / 20 + y / 25), np.cos(x / 18 - y / 30), np.sin(y / 15)]
    return 127.5 + 120 * np.stack(waves, axis=-1)


def photograph(function, width, height):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.rint(function(x, y)).astype(np.uint8)


@pytest.mark.parametrize("degrees", [-170, -30, 0, 45, 90])
@pytest.mark.parametrize("scale", [2.0, 60.0, 900.0])
def test_a_known_similarity_is_recovered(degrees, scale):
    source = turned(TEMPLATE, degrees, scale, (40, -7))
    matrix = similarity_transform(pairs(source), CHIP_LANDMARKS)
    np.testing.assert_allclose(source @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-9)
    oracle, _ = cv2.estimateAffinePartial2D(source, TEMPLATE * 100)
    np.testing.assert_allclose(matrix * 100, oracle, rtol=1e-3, atol=1e-2)


def test_noisy_points_give_the_least_squares_similarity():
    rng = np.random.default_rng(0)
    for _ in range(20):
        source = turned(TEMPLATE, rng.uniform(-180, 180), 80, rng.uniform(0, 500, 2))
        source += rng.normal(0, 6, source.shape)
        # Unknowns a, b, tx, ty of x' = ax - by + tx, y' = bx + ay + ty: an ordinary linear fit.
        one, nil = np.ones(5), np.zeros(5)
        x, y = source.T
        rows = np.concatenate([np.stack([x, -y, one, nil], 1), np.stack([y, x, nil, one], 1)])
        a, b, tx, ty = np.linalg.lstsq(rows, TEMPLATE.T.ravel(), rcond=None)[0]
        matrix = similarity_transform(pairs(source), CHIP_LANDMARKS)
        np.testing.assert_allclose(matrix, [[a, -b, tx], [b, a, ty]], atol=1e-9)


def test_mirrored_points_are_not_reflected_back():
    mirrored = TEMPLATE * (-1, 1)
    assert np.linalg.det(similarity_transform(pairs(mirrored), CHIP_LANDMARKS)[:, :2]) > 0


@pytest.mark.parametrize("points", [[(3.0, 4.0)] * 5, [(float("nan"), 0.0)] * 5])
def test_points_that_give_no_scale_are_refused(points):
    with pytest.raises(ValueError, match="five finite, different points"):
        similarity_transform(points, CHIP_LANDMARKS)


def test_a_wrong_number_of_points_is_refused():
    with pytest.raises(ValueError, match="expected 5 points, came 4"):
        similarity_transform(CHIP_LANDMARKS[:4], CHIP_LANDMARKS)


@pytest.fixture
def untightened(monkeypatch):
    """Crops as large as chips."""
    monkeypatch.setattr("faceattr.alignment.TIGHTER", 1.0)


def test_a_chip_whose_landmarks_are_the_template_stays_as_it_is(untightened):
    chip = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    difference = align_face(chip, face(TEMPLATE * 224)).astype(int) - chip
    assert np.abs(difference).max() <= 1


def test_a_chip_with_the_template_haar_box_stays_as_it_is(untightened):
    chip = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    box = FaceBox(*(v * 224 for v in (CHIP_HAAR_BOX.x, CHIP_HAAR_BOX.y, CHIP_HAAR_BOX.width)), 0)
    box = FaceBox(box.x, box.y, box.width, CHIP_HAAR_BOX.height * 224)
    difference = align_face(chip, face(box=box)).astype(int) - chip
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("larger", "expected"), [(1.2, 1.2), (0.9, 0.9), (3.0, 1.5), (0.1, 1 / 1.5)]
)
def test_the_box_sets_the_scale_within_limits_and_the_landmarks_the_rest(larger, expected):
    points = turned(TEMPLATE, 20, 150, (40, 70))
    side = CHIP_FACE_SIDE * 150 * larger
    matrix = face_transform(pairs(points), FaceBox(5, 5, side / 2, side * 2))
    plain = similarity_transform(pairs(points), CHIP_LANDMARKS)
    np.testing.assert_allclose(matrix[:, :2] * expected, plain[:, :2], rtol=1e-9)
    centre = matrix @ (*points.mean(axis=0), 1)
    np.testing.assert_allclose(centre, TEMPLATE.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("degrees", [-25, 0, 10])
def test_a_nose_to_the_side_turns_and_moves_the_chip_with_it(degrees):
    points = TEMPLATE.copy()
    points[NOSE] += (0.1, 0)
    # Least squares puts four points left of their places and the nose right of its own.
    nose = float((similarity_transform(pairs(points), CHIP_LANDMARKS) @ (*points[NOSE], 1))[0])
    nose -= TEMPLATE[NOSE, 0]
    assert 0.05 < nose < 0.1
    source = turned(points, degrees, 200, (50, 60))
    box = FaceBox(0, 0, *2 * [200 * CHIP_FACE_SIDE])
    matrix = face_transform(pairs(source), box)
    # On the chip the face hangs over towards the nose's side, clockwise as y points down.
    right, left = matrix @ (*source[0], 1), matrix @ (*source[1], 1)
    plain = similarity_transform(pairs(points), CHIP_LANDMARKS)
    before = np.subtract(plain @ (*points[1], 1), plain @ (*points[0], 1))
    after = left - right
    turn = np.arctan2(after[1], after[0]) - np.arctan2(before[1], before[0])
    assert turn == pytest.approx(NOSE_TURN * nose, abs=1e-9)
    centre = matrix @ (*source.mean(axis=0), 1)
    np.testing.assert_allclose(centre, TEMPLATE.mean(axis=0) + (NOSE_SHIFT * nose, 0), atol=1e-9)


@pytest.mark.parametrize("landmarks", [True, False])
def test_a_crop_shows_the_middle_of_the_chip(landmarks, monkeypatch):
    picture = photograph(scene, 700, 640)
    found = face(turned(TEMPLATE, 0, 300, (200, 150)), FaceBox(220, 140, 270, 270))
    found = found if landmarks else face(box=found.box)
    crop = align_face(picture, found, 200)
    monkeypatch.setattr("faceattr.alignment.TIGHTER", 1.0)
    chip = align_face(picture, found, 1000)
    rim = round(1000 * (1 - 1 / TIGHTER) / 2)
    middle = cv2.resize(chip[rim:-rim, rim:-rim], (200, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(crop.astype(int) - middle).mean() < 1.5
    assert np.abs(crop.astype(int) - cv2.resize(chip, (200, 200))).mean() > 2 * 1.5


def test_a_haar_box_maps_onto_the_template_box():
    box = FaceBox(311.0, 87.0, 64.0, 64.0)
    matrix = box_transform(box)
    for share_x, share_y in ((0, 0), (1, 0), (0.5, 1)):
        point = matrix @ (box.x + share_x * box.width, box.y + share_y * box.height, 1)
        expected = (
            CHIP_HAAR_BOX.x + share_x * CHIP_HAAR_BOX.width,
            CHIP_HAAR_BOX.y + share_y * CHIP_HAAR_BOX.height,
        )
        np.testing.assert_allclose(point, expected, atol=0.002)


@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize(("degrees", "scale"), [(0, 200), (25, 150), (-100, 330), (12, 410)])
def test_pixels_are_those_of_the_scene_at_the_chips_pixel_centres(
    size, degrees, scale, untightened
):
    picture = photograph(scene, 700, 640)
    corners = turned([(0.5, 0.5)], degrees, scale, 0)[0]
    shift = np.array([350.0, 320.0]) - corners
    chip = align_face(picture, face(turned(TEMPLATE, degrees, scale, shift)), size)
    x, y = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    seen = turned(np.stack([x.ravel(), y.ravel()], 1), degrees, scale, shift)
    inside = ((seen > 2) & (seen < (698, 638))).all(axis=1).reshape(size, size)
    expected = scene(seen[:, 0], seen[:, 1]).reshape(size, size, 3)
    error = np.abs(chip - expected)[inside]
    assert inside.mean() > 0.8
    assert error.mean() < 2
    assert error.max() < 9


def test_a_large_face_is_shrunk_without_aliasing():
    # Stripes of one pixel: any sampling that skips pixels shows beats instead of even grey.
    picture = np.zeros((1600, 1600, 3), np.uint8)
    picture[:, ::2] = 255
    for degrees in (0, 8):
        chip = align_face(picture, face(turned(TEMPLATE, degrees, 1400, (150, 60))))
        assert np.abs(chip[30:-30, 30:-30].astype(float) - 127.5).max() < 12


@pytest.mark.parametrize("box", [FaceBox(-40, -50, 100, 100), FaceBox(950, 930, 100, 100)])
def test_beyond_the_pictures_edge_its_border_is_repeated(box):
    picture = np.full((1000, 1000, 3), 50, np.uint8)
    picture[:, :2], picture[:, -2:] = (200, 10, 10), (10, 10, 200)
    chip = align_face(picture, face(box=box))
    outer = chip[:, :40] if box.x < 0 else chip[:, -40:]
    expected = (200, 10, 10) if box.x < 0 else (10, 10, 200)
    np.testing.assert_allclose(outer, np.broadcast_to(expected, outer.shape), atol=1)


@pytest.mark.parametrize("box", [FaceBox(900, 10, 30, 30), FaceBox(-500, -500, 30, 300)])
def test_a_box_wholly_outside_shows_the_nearest_border(box):
    picture = np.full((40, 60, 3), 77, np.uint8)
    assert (align_face(picture, face(box=box)) == 77).all()


def test_pictures_longer_than_opencvs_warp_limit_are_cut():
    picture = np.full((40, 40_000, 3), 9, np.uint8)
    picture[:, 39_900:] = 200
    chip = align_face(picture, face(box=FaceBox(39_940, 5, 30, 30)))
    assert (chip == 200).all()


def test_the_callers_picture_is_not_changed():
    picture = photograph(scene, 300, 300)
    before = picture.copy()
    align_face(picture, face(TEMPLATE * 150))
    np.testing.assert_array_equal(picture, before)


def test_other_arrays_are_refused():
    with pytest.raises(ValueError, match="float64"):
        align_face(np.zeros((9, 9, 3)), face(TEMPLATE))
