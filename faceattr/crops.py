"""Faces of an image as crops for the network, and crops that are handed in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceattr.alignment import CHIP_SIDE, TIGHTER, crop_pixels, crop_transform, cut_face
from faceattr.detection import FaceDetector
from faceattr.errors import CropWarning
from faceattr.images import OpenedImage, shrink
from faceattr.results import Detection, FaceBox
from faceattr.search import USUAL_SIDE, longest_copy, resized, turn_image

LARGEST_CROP = 4 * CHIP_SIDE
"""Side in pixels to which larger crops are shrunk: made square, a thin one would be enormous."""

LOOSE = 1.35
"""Crops that show so many times as much as a training chip along each side are loose.

Of 150 chips of the holdout 1 % measured more, of the same chips shown at 1.5 times 85 %.
"""

TIGHT = 0.92
"""Crops that show less than this are tight: 1 % of those chips, most of their central 70 %."""


@dataclass(frozen=True)
class Cut:
    """One face as the network is to see it.

    Attributes:
        pixels: RGB uint8 `(side, side, 3)`, upright.
        box: where it comes from, in pixels of the image.
        face: what the detector said of it; None for a crop that is taken as it is.
        turn: degrees clockwise by which the image was turned.
        sure: whether the turn is clear.
        note: what is wrong with a crop that was handed in, or None.
    """

    pixels: NDArray[np.uint8]
    box: FaceBox
    face: Detection | None
    turn: int = 0
    sure: bool = True
    note: str | None = None


def find_faces(
    detector: FaceDetector,
    image: OpenedImage,
    *,
    min_face: float = 0.0,
    max_faces: int | None = None,
    thorough: bool = False,
) -> list[Cut]:
    """The faces of an image, largest first.

    A large JPEG is decoded at a half to an eighth of its size, and again, larger, only where a
    crop would have to be enlarged. Twice the side of the usual search is kept at first: a smaller
    copy costs hardly less to decode, and with this one few faces need the second time.
    """
    side = longest_copy(image.longer_side, image.shorter_side, thorough)
    reduction = image.reduction(max(2 * USUAL_SIDE, side))
    pixels = image.decode(reduction)
    options = {"thorough": True} if thorough else {}
    found = detector.detect(pixels, reduction, **options)
    faces = [face for face in found if _width(face) >= min_face][:max_faces]
    transforms = [crop_transform(face) for face in faces]
    smallest = min(map(crop_pixels, transforms), default=np.inf)
    if reduction > 1 and smallest < reduction * CHIP_SIDE:
        reduction = max(r for r in (1, 2, 4) if r == 1 or smallest >= r * CHIP_SIDE)
        pixels = image.decode(reduction)
    return [
        _cut(face, cut_face(pixels, matrix, reduction=reduction))
        for face, matrix in zip(faces, transforms, strict=True)
    ]


def _width(face: Detection) -> float:
    """From ear to ear, in pixels of the image, however the face is turned."""
    return face.box.height if face.turn in (90, 270) else face.box.width


def read_crop(detector: FaceDetector, image: OpenedImage, *, align: bool = False) -> Cut:
    """A crop that was handed in, made square, turned upright and held against a training chip.

    Args:
        detector: one that gives landmarks.
        image: the crop; one larger than `LARGEST_CROP` is shrunk to it.
        align: cut the face anew where one is found.
    """
    square = _square(image.decode(image.reduction(LARGEST_CROP)))
    whole, side = FaceBox(0, 0, *image.size), square.shape[0]
    copy = resized(square, min(1.0, CHIP_SIDE / side))
    faces = detector.detect(copy, side / copy.shape[0])
    if not faces:
        unseen = "no face was found in the crop, so that its answers are unsure"
        return Cut(square, whole, None, 0, False, unseen)
    face = faces[0]
    transform = crop_transform(face)
    if align:
        scale, (width, height) = max(image.size) / side, image.size
        padded = (width - max(image.size)) / 2, (height - max(image.size)) / 2
        placed = face.scaled(scale, scale).moved(*padded)
        return _cut(placed, cut_face(square, transform))
    note = _note(side / (crop_pixels(transform) * TIGHTER), face)
    return Cut(turn_image(square, face.turn), whole, None, face.turn, face.turn_sure, note)


def _cut(face: Detection, pixels: NDArray[np.uint8]) -> Cut:
    return Cut(pixels, face.box, face, face.turn, face.turn_sure)


def warn(cuts: Sequence[Cut]) -> None:
    """One Python warning for all crops whose face lies otherwise than in a training chip."""
    wrong = [(i, cut.note) for i, cut in enumerate(cuts, 1) if cut.note and cut.sure]
    if wrong:
        number, note = wrong[0]
        warnings.warn(
            f"{len(wrong)} of {len(cuts)} crops differ from what the network was trained on; "
            f"crop {number}: {note}; align=True (--align) cuts faces anew",
            CropWarning,
            stacklevel=3,
        )


def _note(scale: float, face: Detection) -> str | None:
    """What is wrong with a crop that shows `scale` times as much as a chip."""
    advice = "answers are less exact"
    if not face.turn_sure:
        return "it cannot be told which side of the crop is up, so that its answers are unsure"
    if scale > LOOSE:
        return f"the crop is loose, it shows {scale:.1f} times as much as a training chip: {advice}"
    if scale < TIGHT:
        return f"the crop is tight, it shows {scale:.2f} of a training chip: {advice}"
    if face.turn:
        return f"the crop had to be turned by {face.turn}° clockwise"
    return None


def _square(chip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad the shorter side by repeating the edge, half on either end; shrink before if large."""
    height, width = chip.shape[:2]
    side = max(height, width)
    if side > LARGEST_CROP:
        scale, side = LARGEST_CROP / side, LARGEST_CROP
        width, height = (max(1, round(n * scale)) for n in (width, height))
        chip = shrink(chip, width, height)
    down, across = side - height, side - width
    pads = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return np.pad(chip, pads, mode="edge")
