"""Corruptions by what they must do to pictures, and the measurement on made-up rows."""

import json

import cv2
import numpy as np
import pytest
import torch

from faceattr import labels
from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.preprocessing import Preprocessing
from train.__main__ import main
from train.data.batches import decode
from train.data.source import Rows, Source
from train.evaluate.corruptions import (
    CORRUPTIONS,
    EYE_LINE,
    blur,
    eyes,
    greyscale,
    jpeg,
    low_light,
    low_resolution,
    lower_face,
    rotation,
)


@pytest.fixture
def chip():
    """A smooth colourful picture with some texture."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def distance(one, other):
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_step_costs_more_than_the_one_before_and_leaves_the_original(chip, name):
    corruption, before = CORRUPTIONS[name], chip.copy()
    steps = [corruption.apply(chip, level) for level in corruption.levels]
    assert all(step.shape == chip.shape and step.dtype == np.uint8 for step in steps)
    distances = [distance(chip, step) for step in steps]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert (chip == before).all()
    assert all(
        (corruption.apply(chip, level) == s).all()
        for level, s in zip(corruption.levels, steps, strict=True)
    )


def test_jpeg_is_what_pillow_would_write(chip):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(chip).save(buffer, "JPEG", quality=30)
    theirs = np.asarray(Image.open(buffer))
    assert distance(jpeg(chip, 30), theirs) < 2


def test_blur_keeps_an_even_picture_and_the_mean(chip):
    even = np.full((64, 64, 3), 90, np.uint8)
    assert (blur(even, 4) == 90).all()
    assert abs(float(blur(chip, 2).mean()) - float(chip.mean())) < 2


def test_half_the_light_is_half_the_linear_intensity():
    # sRGB 188 is half of 255's light (IEC 61966-2-1).
    white = np.full((2, 2, 3), 255, np.uint8)
    assert low_light(white, 2)[0, 0, 0] == 188
    assert (low_light(white, 1) == white).all()


def test_low_resolution_leaves_no_more_detail_than_the_pixels(chip):
    small = low_resolution(chip, 16)
    assert distance(small, low_resolution(small, 32)) < distance(chip, small) / 3


def test_all_colour_lost_leaves_three_equal_channels(chip):
    grey = greyscale(chip, 100)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)).all()


def test_a_quarter_turn_is_a_quarter_turn(chip):
    assert distance(rotation(chip, 90), np.rot90(chip)) < 1


def test_the_covered_parts_are_where_they_should_be(chip):
    half = lower_face(chip, 50)
    assert (half[56:] == 127).all()
    assert (half[:56] == chip[:56]).all()
    band = eyes(chip, 20)
    line = round(112 * EYE_LINE)
    assert (band[line] == 127).all()
    assert (band[: line - 12] == chip[: line - 12]).all()
    assert (band[line + 12 :] == chip[line + 12 :]).all()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig(
        sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8},
        preprocessing=Preprocessing(image_size=32),
    )
    folder = tmp_path_factory.mktemp("robustness") / "weights"
    LightweightMTLNet224(config).save_pretrained(folder)
    return folder


def test_the_command_counts_what_a_plain_loop_counts(tmp_path, weights, tiny_fairface):
    output = tmp_path / "robustness.json"
    command = ["robustness", "--weights", str(weights), "--data", str(tiny_fairface)]
    assert main([*command, "--rows", "12", "--device", "cpu", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    rows = Rows(Source(str(tiny_fairface)), "validation")
    rows = [rows[k * 30 // 12] for k in range(12)]
    assert found["dataset"]["rows"] == len(rows) == 12
    model = LightweightMTLNet224.from_pretrained(weights)

    def right(change):
        worse = [change(decode(row.image)) for row in rows]
        with torch.inference_mode():
            logits = model(model.config.preprocessing.to_tensor(worse))
        return {
            task.name: sum(
                int(logits[task.name][k].argmax()) == row.targets[column]
                for k, row in enumerate(rows)
            )
            for column, task in enumerate(labels.TASKS)
        }

    def counted(step):
        return {task.name: step[task.name]["correct"] for task in labels.TASKS}

    assert counted(found["clean"]) == right(lambda chip: chip)
    for name in ("jpeg", "eyes"):
        for step in found["corruptions"][name]["levels"]:
            assert counted(step) == right(
                lambda chip, n=name, level=step["level"]: CORRUPTIONS[n].apply(chip, level)
            )
    steps = sum(len(c["levels"]) for c in found["corruptions"].values())
    assert steps == sum(len(c.levels) for c in CORRUPTIONS.values())


def test_a_row_count_below_one_is_refused(tmp_path, capsys):
    command = ["robustness", "--rows", "0", "--output", str(tmp_path / "r.json")]
    assert main(command) == 1
    assert "--rows must be at least 1" in capsys.readouterr().err
