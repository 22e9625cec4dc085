import numpy as np
import pytest
import torch

from faceattr.errors import WeightsError
from faceattr.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, resize_chip


def test_halving_averages_two_by_two_pixels():
    rng = np.random.default_rng(0)
    chip = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = chip.reshape(4, 2, 4, 2, 3).astype(float).mean((1, 3))
    assert np.abs(resize_chip(chip, 4) - expected).max() <= 0.5


def test_tensor_is_normalised_as_the_report_says():
    chip = np.full((20, 20, 3), (0, 128, 255), np.uint8)
    tensor = Preprocessing(image_size=16).to_tensor([chip, chip])
    assert tensor.shape == (2, 3, 16, 16)
    for channel, value in enumerate((0, 128, 255)):
        expected = (value / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(tensor[:, channel], torch.full((2, 16, 16), expected))


def test_settings_survive_the_config_file():
    settings = Preprocessing(image_size=96, mean=(0.1, 0.2, 0.3))
    assert Preprocessing.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 4},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (1,)},
        {"image_size": 32.7},
        {"std": (1.0, 1.0, float("nan"))},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(WeightsError):
        Preprocessing(**changes)


def test_the_layout_of_the_pixels_changes_nothing():
    settings = Preprocessing(image_size=16)
    pixels = torch.rand(2, 3, 5, 7) * 255
    last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(settings.normalize(pixels), settings.normalize(last))
    assert settings.normalize(last).is_contiguous(memory_format=torch.channels_last)
