"""Pictures made worse in steps, to measure what it costs; cv2 and numpy only.

Each corruption takes an RGB uint8 chip `(S, S, 3)` and a level, and returns a chip of the same
shape; nothing is random. Amounts are relative to the side, so they mean the same at any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.preprocessing import resize_chip

Chip: TypeAlias = NDArray[np.uint8]

EYE_LINE = 0.304
"""Height of the eyes on FairFace's chips, as a fraction of the side: mean of 2,000 chips."""

_GREY = 127


def jpeg(chip: Chip, quality: float) -> Chip:
    """Encode and decode as JPEG; quality 1 to 100."""
    encoded = cv2.imencode(".jpg", chip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)


def blur(chip: Chip, percent: float) -> Chip:
    """Gaussian blur; standard deviation in percent of the side."""
    return np.asarray(cv2.GaussianBlur(chip, (0, 0), chip.shape[0] * percent / 100), np.uint8)


def low_light(chip: Chip, divisor: float) -> Chip:
    """A `divisor`-th of the light: sRGB to linear, divided, and back to 8 bits; no sensor noise.

    IEC 61966-2-1 defines the curve.
    """
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) / divisor
    back = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    table = np.rint(255 * back).astype(np.uint8)
    return np.asarray(cv2.LUT(chip, table), np.uint8)


def low_resolution(chip: Chip, pixels: float) -> Chip:
    """Through a side of `pixels` and back."""
    return resize_chip(resize_chip(chip, int(pixels)), chip.shape[0])


def greyscale(chip: Chip, percent: float) -> Chip:
    """Lose `percent` of the colour."""
    grey = cv2.cvtColor(cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = percent / 100
    return np.asarray(cv2.addWeighted(grey, share, chip, 1 - share, 0), np.uint8)


def rotation(chip: Chip, degrees: float) -> Chip:
    """Turn about the centre, anticlockwise; the edge is repeated outwards."""
    side = chip.shape[0]
    centre = (side - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), degrees, 1.0)
    turned = cv2.warpAffine(chip, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


def lower_face(chip: Chip, percent: float) -> Chip:
    """Cover the lowest `percent` of the height with mid grey, as a mask does."""
    covered: Chip = chip.copy()
    covered[round(chip.shape[0] * (1 - percent / 100)) :] = _GREY
    return covered


def eyes(chip: Chip, percent: float) -> Chip:
    """Cover a band of `percent` of the height over the eyes with mid grey, as a bar does."""
    side = chip.shape[0]
    covered: Chip = chip.copy()
    top = round(side * max(0.0, EYE_LINE - percent / 200))
    covered[top : round(side * (EYE_LINE + percent / 200))] = _GREY
    return covered


@dataclass(frozen=True)
class Corruption:
    """One way to make pictures worse, at levels from mild to severe, counted in `unit`."""

    title: str
    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Chip, float], Chip]


CORRUPTIONS: dict[str, Corruption] = {
    "jpeg": Corruption("JPEG compression", "quality", (50, 30, 15, 5), jpeg),
    "blur": Corruption("Gaussian blur", "% of the side", (1, 2, 3, 4), blur),
    "low_light": Corruption("Low light", "times less light", (2, 4, 8, 16), low_light),
    "low_resolution": Corruption("Low resolution", "px", (64, 48, 32, 16), low_resolution),
    "greyscale": Corruption("Loss of colour", "%", (50, 100), greyscale),
    "rotation": Corruption("Rotation", "degrees", (10, 20, 30, 45), rotation),
    "lower_face": Corruption("Lower face covered", "% of the height", (20, 30, 40, 50), lower_face),
    "eyes": Corruption("Eyes covered", "% of the height", (10, 20, 30), eyes),
}
