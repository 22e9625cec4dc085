"""The one way a training chip is changed, on bytes, before it becomes a tensor.

A view is a function of the augmentation, seed, row and number of the view, whatever its side,
device or process: stored answers of teachers can be replayed against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.preprocessing import resize_chip
from train.config import Augmentation

Chip = NDArray[np.uint8]

DEGRADED_SIDE = 128
"""Pixels to which a chip is brought before detail is lost, so that all sides lose the same."""
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_LUMA = (0.299, 0.587, 0.114)
_GREY = 127


@dataclass(frozen=True, eq=False)
class Changes:
    """What was drawn for one view; None for what the recipe leaves alone.

    Attributes:
        move: `(2, 3)`, from places in the view to those in the chip, both from -1 to 1.
        colours: factors of brightness, contrast and saturation.
        box: top, left, bottom and right of the grey rectangle, 0 to 1.
        canvas: `(2, 2, 3)`, colours of the corners of what lies beside the chip, 0 to 255.
        losses: by way of losing detail how much, 0 to 1: low resolution, blur, JPEG.
    """

    move: NDArray[np.float64] | None = None
    colours: tuple[float, float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    canvas: NDArray[np.float32] | None = None
    losses: tuple[float | None, float | None, float | None] = (None, None, None)

    @property
    def degraded(self) -> bool:
        """Whether detail is lost."""
        return any(amount is not None for amount in self.losses)


def draw(augmentation: Augmentation, seed: int, row: int, view: int) -> Changes:
    """Draw the changes of a row's view; `seed` is the run's, or the stored answers'."""
    aug = augmentation
    rng = np.random.default_rng((seed, row, view))

    def uniform(amount: float) -> float:
        return float(rng.uniform(-amount, amount))

    move = colours = box = canvas = None
    losses: list[float | None] = [None, None, None]
    if aug.moves_pixels:
        move = _drawn_move(aug, rng)
    if aug.colours_pixels:
        saturation = 1 + uniform(aug.saturation)
        if rng.random() < aug.grey:
            saturation = 0.0
        colours = (1 + uniform(aug.brightness), 1 + uniform(aug.contrast), saturation)
    for way in range(3):
        if rng.random() < aug.degrade:
            losses[way] = float(rng.random())
    if rng.random() < aug.erase:
        area, ratio = 0.02 + 0.13 * rng.random(), math.exp(uniform(math.log(2.0)))
        tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
        top, left = rng.random() * (1 - tall), rng.random() * (1 - wide)
        box = (top, left, top + tall, left + wide)
    # Last: views without a canvas must not depend on it.
    if move is not None and rng.random() < aug.canvas:
        # One colour, and how far from it the four corners lie: plain to sloping.
        slope = rng.random() * rng.uniform(-0.5, 0.5, (2, 2, 1))
        canvas = ((rng.random(3) + slope).clip(0, 1) * 255).astype(np.float32)
    return Changes(move, colours, box, canvas, (losses[0], losses[1], losses[2]))


def _drawn_move(aug: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    angle = math.radians(rng.uniform(-aug.rotation, aug.rotation))
    zoom = 1 / (1 + rng.uniform(-aug.scale, aug.scale))
    mirror = -1.0 if rng.random() < aug.flip else 1.0
    shift_x, shift_y = rng.uniform(-2 * aug.shift, 2 * aug.shift, 2)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return np.array([[mirror * cos, -sin, shift_x], [mirror * sin, cos, shift_y]])


def apply(chip: Chip, side: int, changes: Changes, *, plain: bool = False) -> Chip:
    """A view `(side, side, 3)` of an RGB uint8 chip of any size.

    Positions are rounded to 1/32 pixel and pixels to whole grey levels after each change.

    Args:
        chip: never changed in place.
        side: of the view, in pixels.
        changes: what to do.
        plain: leave the canvas out, for teachers, who need not learn to overlook it.
    """
    if changes.degraded:
        chip = degrade(chip, changes.losses)
    if changes.move is None:
        view = resize_chip(chip, side)
        view = view.copy() if view is chip else view
    else:
        view = _moved(chip, side, changes.move)
    if changes.colours is not None:
        view = np.asarray(cv2.transform(view, _colour_matrix(changes.colours, view)), np.uint8)
    if changes.box is not None:
        top, left, bottom, right = (math.ceil(edge * side - 0.5) for edge in changes.box)
        view[top:bottom, left:right] = _GREY
    if changes.canvas is not None and changes.move is not None and not plain:
        view = _laid(view, chip, changes.move, changes.canvas)
    return view


def _sampling(move: NDArray[np.float64], chip: Chip, side: int) -> NDArray[np.float64]:
    """A move as OpenCV has it: `(2, 3)`, from pixels of the view to the chip's."""
    half = np.array(chip.shape[1::-1])[:, None] / 2
    matrix = move.copy()
    # OpenCV counts from pixel centres: -1 to 1 is -0.5 to S - 0.5.
    matrix[:, 2] += matrix[:, :2].sum(1) * (1 / side - 1)
    matrix[:, 2:] = half * (matrix[:, 2:] + 1) - 0.5
    matrix[:, :2] *= half * 2 / side
    return np.asarray(matrix, np.float64)


def _shrunk(chip: Chip, side: int) -> Chip:
    """At most a quarter larger than the view, averaged: a warp reads four neighbours only."""
    return resize_chip(chip, side) if min(chip.shape[:2]) > 1.25 * side else chip


def _moved(chip: Chip, side: int, move: NDArray[np.float64]) -> Chip:
    chip = _shrunk(chip, side)
    matrix, size = _sampling(move, chip, side), (side, side)
    view = cv2.warpAffine(chip, matrix, size, flags=_WARP, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(view, np.uint8)


def _colour_matrix(colours: tuple[float, float, float], view: Chip) -> NDArray[np.float64]:
    """Brightness, then contrast about the mean, then saturation, as one `(3, 4)`."""
    brightness, contrast, saturation = colours
    mean = sum(cv2.sumElems(view)) / view.size
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.array(_LUMA))
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    return np.concatenate([matrix, offset], 1)


def _laid(view: Chip, chip: Chip, move: NDArray[np.float64], corners: NDArray[np.float32]) -> Chip:
    """The view on made-up colours, in place of the border that was repeated."""
    side = len(view)
    white = np.full(_shrunk(chip, side).shape[:2], 255, np.uint8)
    matrix, size = _sampling(move, white, side), (side, side)
    inside = cv2.warpAffine(white, matrix, size, flags=_WARP, borderMode=cv2.BORDER_CONSTANT)
    share = inside[..., None].astype(np.float32) / 255
    # Corners at the outer pixels: the middle of an enlargement by bilinear interpolation.
    canvas = cv2.resize(corners, (2 * side, 2 * side), interpolation=cv2.INTER_LINEAR)
    canvas = canvas[side // 2 : side // 2 + side, side // 2 : side // 2 + side]
    mixed = canvas + share * (view - canvas)
    return np.asarray(mixed.round(), np.uint8)


def degrade(chip: Chip, losses: tuple[float | None, float | None, float | None]) -> Chip:
    """Lose detail as images on the web do, at `DEGRADED_SIDE`; losses as `Changes.losses`."""
    low, blur, quality = losses
    side = DEGRADED_SIDE
    chip = resize_chip(chip, side)
    if low is not None:
        chip = resize_chip(resize_chip(chip, round(side * (0.2 + 0.3 * low))), side)
    if blur is not None:
        chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), side * (0.002 + 0.018 * blur)), np.uint8)
    if quality is not None:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(20 + 71 * quality)]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(chip, cv2.COLOR_RGB2BGR), options)[1]
        chip = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
    return chip
