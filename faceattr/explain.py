"""Heat maps: which parts of a face an answer hangs on, by covering them one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceattr import labels
from faceattr.backends.classify import ask
from faceattr.pipeline import FacePipeline

CAVEAT = (
    "The map shows how much the answer's probability falls (orange) or rises (blue) when a patch "
    "of the face is covered in grey. It shows where the network looks, not why, and nothing about "
    "the person; neighbouring patches overlap, and what matters only together does not show."
)
_WINDOW, _STRIDE = 4, 8
_ORANGE, _BLUE = np.array((230, 120, 0)), np.array((0, 114, 210))


@dataclass(frozen=True)
class Explanation:
    """One heat map.

    Attributes:
        label: the class that is explained, the most probable one.
        probability: its probability on the whole face.
        drop: `(side, side)` floats, the mean fall of that probability while a pixel is covered.
        picture: RGB uint8, the face with the map laid over it.
    """

    label: str
    probability: float
    drop: NDArray[np.float32]
    picture: NDArray[np.uint8]


def explain(pipeline: FacePipeline, chip: NDArray[np.uint8], task: str) -> Explanation:
    """Cover patches of a quarter of the face's width, an eighth apart (Zeiler and Fergus 2014).

    Args:
        pipeline: whose network answers.
        chip: RGB uint8 `(side, side, 3)`, as `FaceResult.crop`.
        task: name of the task.

    Raises:
        LabelError: for an unknown task.
    """
    known = labels.task(task)
    preprocessing = pipeline.config.preprocessing
    (face,) = preprocessing.to_pixels([chip])
    grey = np.rint(np.multiply(preprocessing.mean, 255)).astype(np.uint8)
    mirror = pipeline.info.mirror
    shares = ask(pipeline.classifier, face[None], mirror=mirror)[task][0]
    best = int(shares.argmax())

    def answers(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return ask(pipeline.classifier, pixels, mirror=mirror)[task][:, best]

    drop = _occlusion(answers, face, grey)
    return Explanation(known.classes[best], float(shares[best]), drop, _overlay(chip, drop))


def _occlusion(
    answers: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    face: NDArray[np.uint8],
    grey: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Mean fall `(side, side)` of the answer over all patches that cover a pixel.

    Args:
        answers: RGB faces `(N, side, side, 3)` to one probability each.
        face: RGB `(side, side, 3)`.
        grey: RGB `(3,)` to cover with.
    """
    side = len(face)
    window, stride = max(1, side // _WINDOW), max(1, side // _STRIDE)
    # The last patch of a row may reach over the edge: then it is cut off there.
    starts = range(0, side - window + stride, stride)
    patches = [(slice(y, y + window), slice(x, x + window)) for y in starts for x in starts]
    covered = np.repeat(face[None], len(patches), axis=0)
    for image, patch in zip(covered, patches, strict=True):
        image[patch] = grey
    falls = answers(face[None]) - answers(covered)
    total, count = np.zeros((2, side, side))
    for fall, patch in zip(falls, patches, strict=True):
        total[patch] += fall
        count[patch] += 1
    return (total / count).astype(np.float32)


def _overlay(chip: NDArray[np.uint8], drop: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The chip in grey with orange where covering lowers the probability, blue where it raises."""
    height, width = chip.shape[:2]
    strength = np.asarray(
        Image.fromarray(drop).resize((width, height), Image.Resampling.BICUBIC), np.float32
    )
    # A map of changes below 5 points stays pale: hardly anything hangs on one patch.
    scale = max(float(np.abs(strength).max()), 0.05)
    share = np.clip(np.abs(strength) / scale, 0, 1)[:, :, None] * 0.75
    colour = np.where((strength > 0)[:, :, None], _ORANGE, _BLUE)
    grey = np.asarray(Image.fromarray(chip).convert("L"), np.float32)[:, :, None].repeat(3, 2)
    return np.rint(grey * (1 - share) + colour * share).astype(np.uint8)
