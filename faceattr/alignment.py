"""Cut a face out of a picture so that it looks like a FairFace training chip.

FairFace's pictures are chips: the face upright, its landmarks near fixed places, a margin around
it. What stands here as a fraction of the chip's side was fitted by `scripts/fit_alignment.py` on
training chips (margin 0.25, none of the holdout) that were pasted into larger pictures and found
there; docs/results/alignment.json holds the fit and the error that remains on the holdout.
Coordinates are continuous: a pixel's left edge is an integer, its centre lies half a pixel on.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.images import require_rgb
from faceattr.results import LANDMARKS, Detection, FaceBox

CHIP_SIDE = 224
"""Side of FairFace's chips in pixels."""

CHIP_LANDMARKS = (
    (0.314, 0.297),
    (0.676, 0.296),
    (0.492, 0.514),
    (0.343, 0.678),
    (0.652, 0.679),
)
"""Where YuNet finds the five landmarks on a chip, in the order of `LANDMARKS`; medians."""

NOSE = LANDMARKS.index("nose")

CHIP_FACE_SIDE = 0.916
"""Geometric mean of the sides of YuNet's box; its median."""

NOSE_TURN = 0.964
"""Radians by which a chip is turned for each side length that the nose lies beside its place.

FairFace's chips follow eyes and nose (dlib's five points have no mouth): where a head turns
sideways, the nose takes the chip's tilt and centre along.
"""

NOSE_SHIFT = 0.256
"""How far the face then moves within the chip, likewise."""

TIGHTER = 1.05
"""Crops show so many times less than a chip along each side.

Landmarks place a chip within some hundredths of its side. Where another picture begins beside it,
that shows in the crop's corners and costs accuracy; a crop that is tighter by this much costs none
(`python -m scripts.measure_pipeline --part holdout`, with and without `--background border`).
"""

CHIP_HAAR_BOX = FaceBox(0.015, -0.061, 0.951, 0.951)
"""Where `HaarDetector` finds the face on a chip; medians."""


def align_face(
    image: NDArray[np.uint8], detection: Detection, size: int = CHIP_SIDE, reduction: float = 1
) -> NDArray[np.uint8]:
    """Cut out one face as a training chip shows it.

    With landmarks see `face_transform`; without, the box is brought onto `CHIP_HAAR_BOX`,
    unturned. Both are cut `TIGHTER`. What lies beyond the picture repeats its border.

    Faces are cut one by one: of the 0.4 to 2.6 ms that one of 60 to 700 pixels takes, 0.1 ms go
    into the arithmetic that all faces of a picture could share, the rest into reading its pixels.

    Args:
        image: RGB uint8 `(H, W, 3)`, upright.
        detection: the face, in pixels of the picture.
        size: side of the chip in pixels.
        reduction: pixels of the picture for one of `image`, along each side.

    Returns:
        RGB uint8 `(size, size, 3)`.
    """
    return cut_face(image, crop_transform(detection), size, reduction)


def cut_face(
    image: NDArray[np.uint8],
    transform: NDArray[np.float64],
    size: int = CHIP_SIDE,
    reduction: float = 1,
) -> NDArray[np.uint8]:
    """As `align_face`, with what `crop_transform` gave for the face."""
    require_rgb(image)
    matrix = transform * size
    matrix[:, :2] *= reduction
    return _warp(image, matrix, size)


def crop_pixels(transform: NDArray[np.float64]) -> float:
    """Side in pixels of what `cut_face` cuts out of the image before it is resized."""
    return 1 / float(np.hypot(transform[0, 0], transform[1, 0]))


def crop_transform(detection: Detection) -> NDArray[np.float64]:
    """`(2, 3)`: from pixels of the image to 0..1 of the crop."""
    if detection.landmarks is None:
        matrix = box_transform(detection.box)
    else:
        matrix = face_transform(detection.landmarks, detection.box)
    matrix *= TIGHTER
    matrix[:, 2] += (1 - TIGHTER) / 2
    return matrix


def similarity_transform(
    source: Sequence[tuple[float, float]], target: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """The turn, scale and shift that brings five points nearest to five others.

    Least squares in the target's units (Umeyama 1991); never a reflection.

    Returns:
        `(2, 3)`: `target ≈ matrix[:, :2] @ source + matrix[:, 2]`.

    Raises:
        ValueError: for a wrong number of points, or points that coincide.
    """
    if not len(source) == len(target) == len(LANDMARKS):
        raise ValueError(f"expected {len(LANDMARKS)} points, came {len(source)} and {len(target)}")
    # In the plane a turn with scale is one complex factor, which can hold no reflection.
    start = np.array([complex(x, y) for x, y in source])
    end = np.array([complex(x, y) for x, y in target])
    centred = start - start.mean()
    spread = np.vdot(centred, centred).real
    if not spread > 0:
        raise ValueError(f"expected five finite, different points, came {list(source)}")
    factor = np.vdot(centred, end - end.mean()) / spread
    shift = end.mean() - factor * start.mean()
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    )


def face_transform(landmarks: Sequence[tuple[float, float]], box: FaceBox) -> NDArray[np.float64]:
    """Bring landmarks nearest to `CHIP_LANDMARKS`, then correct for scale and for turned heads.

    Five landmarks move together or apart as a head turns sideways, so their spread says little
    about the size of a face; the box says more. It may differ from them by a factor of 1.5 at most.
    What the nose says about turn and centre, see `NOSE_TURN`.

    Returns:
        `(2, 3)`: from pixels of the picture to 0..1 of the chip.

    Raises:
        ValueError: for a wrong number of landmarks, or landmarks that coincide.
    """
    matrix = similarity_transform(landmarks, CHIP_LANDMARKS)
    spread = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    larger = float(np.clip(CHIP_FACE_SIDE / np.sqrt(box.area) / spread, 1 / 1.5, 1.5))
    nose = float((matrix @ (*landmarks[NOSE], 1))[0]) - CHIP_LANDMARKS[NOSE][0]
    cos, sin = larger * np.cos(NOSE_TURN * nose), larger * np.sin(NOSE_TURN * nose)
    centre = np.mean(CHIP_LANDMARKS, axis=0)
    matrix[:, 2] -= centre
    matrix = np.array([[cos, -sin], [sin, cos]]) @ matrix
    matrix[:, 2] += centre + (NOSE_SHIFT * nose, 0)
    return matrix


def box_transform(box: FaceBox) -> NDArray[np.float64]:
    """The scale and shift that brings a Haar box onto `CHIP_HAAR_BOX`: `(2, 3)`, to 0..1."""
    scale = float(np.sqrt(CHIP_HAAR_BOX.area / box.area))
    shift_x = CHIP_HAAR_BOX.x + CHIP_HAAR_BOX.width / 2 - scale * (box.x + box.width / 2)
    shift_y = CHIP_HAAR_BOX.y + CHIP_HAAR_BOX.height / 2 - scale * (box.y + box.height / 2)
    return np.array([[scale, 0.0, shift_x], [0.0, scale, shift_y]])


def _warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Sample a chip; `matrix` maps continuous picture coordinates to chip pixels.

    A large face is shrunk by area averaging first, since bilinear sampling alone would skip
    pixels and alias.
    """
    left, top, right, bottom = _covered(matrix, size, image.shape[1], image.shape[0])
    region = image[top:bottom, left:right]
    height, width = region.shape[:2]
    scale = min(1.0, float(np.hypot(matrix[0, 0], matrix[1, 0])))
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    if scale < 1:
        region = cv2.resize(region, (new_width, new_height), interpolation=cv2.INTER_AREA)
    # Region pixels back to picture coordinates, then on to the chip.
    back = np.array([[width / new_width, 0, left], [0, height / new_height, top], [0, 0, 1]])
    warp = matrix @ back
    # OpenCV's coordinates count from pixel centres: shift by half a pixel on both sides.
    warp[:, 2] += warp[:, :2] @ (0.5, 0.5) - 0.5
    chip: NDArray[np.uint8] = cv2.warpAffine(
        region, warp, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return chip


def _covered(
    matrix: NDArray[np.float64], size: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Part of the picture that the chip shows: left, top, right, bottom; never empty."""
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)], dtype=np.float64)
    seen = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T)
    # One chip pixel, and two of the picture, more for the interpolation at the rim.
    rim = 2 + 1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))
    low = np.floor(seen.min(axis=1) - rim)
    high = np.ceil(seen.max(axis=1) + rim)
    left, top = (int(np.clip(v, 0, n - 1)) for v, n in zip(low, (width, height), strict=True))
    right, bottom = (int(np.clip(v, 1, n)) for v, n in zip(high, (width, height), strict=True))
    return left, top, max(right, left + 1), max(bottom, top + 1)
