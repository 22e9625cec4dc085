"""What tables say of a face: its place, its answers, and flags."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.results import FaceResult

SMALL = 50.0
"""A face narrower than this, in pixels of the image, is flagged as small."""

BLURRED = 13.0
"""A crop whose Laplacian has a smaller variance is flagged as blurred (Pech-Pacheco 2000).

Of grey levels 0 to 255 after the crop was brought to `BLUR_SIDE` pixels. Of FairFace's first 2,000
training chips 1 % lie below; blurred by a Gaussian of 2 % of their side, 95 % do.
"""
BLUR_SIDE = 112

CUT = 0.02
"""A box that reaches past the image's border by this share of its side is flagged as cut."""

SOURCE_PREFIX = "source:"
"""Before the names of the source's own columns, which may be called like ours."""


def face_values(number: int, face: FaceResult, width: int, height: int) -> dict[str, Any]:
    """A face's columns as `face_fields` names them.

    Args:
        number: within the image, from 0.
        face: what the pipeline answered.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    box = face.box
    beyond = (-box.x, -box.y, box.x + box.width - width, box.y + box.height - height)
    side = max(box.width, box.height)
    values: dict[str, Any] = {
        "face": number,
        "x": box.x,
        "y": box.y,
        "width": box.width,
        "height": box.height,
        "score": face.score,
        "detector": face.detector,
        "turn": face.turn,
        "crop_note": face.crop_note,
        "small": box.width < SMALL,
        "blurred": sharpness(face.crop) < BLURRED,
        "cut": max(beyond) > CUT * side,
    }
    for answer in face.attributes:
        values[answer.task] = answer.label
        values[f"{answer.task}_unsure"] = answer.unsure
        for name, probability in answer.probabilities.items():
            values[f"{answer.task}:{name}"] = probability
    return values


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Variance of a crop's Laplacian at `BLUR_SIDE` pixels, in grey levels squared."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (BLUR_SIDE, BLUR_SIDE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(small, cv2.CV_32F).var())
