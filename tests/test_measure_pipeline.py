"""The measurement pastes chips where it says and compares the same faces."""

import numpy as np
import pytest

from faceattr.labels import TASKS
from scripts import measure_pipeline
from scripts.measure_pipeline import FACE_IN_CHIP, HEIGHT, SIZES, WIDTH, _compare, paste


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
    assert len(x) == pytest.approx(np.pi * (scene.side * 30 / 224) ** 2, rel=0.15)


def test_the_same_seed_gives_the_same_scene(dotted):
    one, two = (paste(dotted, dotted, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.image, two.image)


def test_a_drop_is_that_of_the_same_faces():
    sides = np.array([70.0, 80.0, 90.0, 95.0])
    chips = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    scenes = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    found = _compare(sides, chips, scenes)
    assert found["faces"] == 4
    gender = found[TASKS[0].name]
    assert (gender["chip"], gender["pipeline"], gender["drop"]) == (1.0, 0.75, 0.25)
    error = 1.96 * 0.5 / 2
    assert gender["drop_low"] == pytest.approx(0.25 - error, abs=1e-5)
    assert found[TASKS[1].name]["drop"] == 0.0
