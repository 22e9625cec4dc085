"""Where to look for faces: copies of several sizes, the four turns of an image, and no face twice.

A detector sees faces between some sizes in pixels and about upright ones; here stands what makes
of that all faces of an image. `scripts/measure_detection.py` measures what is found. The numbers
were chosen on training chips of the holdout, alone or on grey, none of which is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.images import shrink
from faceattr.results import Detection, FaceBox

Look: TypeAlias = "Callable[[NDArray[np.uint8]], list[Detection]]"
"""Finds upright faces of a copy `(H, W, 3)` as it is; boxes and points in its pixels."""

USUAL_SIDE = 640
"""Least longer side in pixels of the usual copy (never enlarged)."""

USUAL_PIXELS = 640 * 480
"""Least number of its pixels: a panorama's copy is longer."""

CLOSE_SIDE = 160
"""Longer side of the copy for faces that fill the image, which the usual one shows too large.

YuNet finds all of 100 faces that are 35 to 130 px wide and one in four at 500 px.
"""

CLOSE_FACE = 32.0
"""Least width in pixels of a face in that copy: smaller ones are seen in the usual one."""

CLOSE_SCORE = 0.8
"""Least confidence of a face in that copy; 99 of 100 bare chips reach it."""

THOROUGH_PIXELS = 16 * USUAL_PIXELS
"""Most pixels of the largest copy of a thorough search; 2,560×1,920 for a usual photo."""

MOST_IOU = 0.3
"""Of two boxes that share more, the one of less confidence is dropped."""

MOST_INSIDE = 0.6
"""The same for the share of the smaller box that lies in the larger."""

TRUSTED = 0.85
"""Confidence from which a face is taken from the larger of two copies."""

SURE = 0.9
"""Confidence that hardly any face but one in the right turn reaches.

Of 200 chips at a fifth of the image's side 168 reach it, upside down one does.
"""

SURE_CLOSE = 0.93
"""The same where the face fills much of the image: what is cut away is missing as evidence.

Bare chips reach 0.92 upside down; half of them reach more than this upright.
"""

SURE_BESIDE = 0.86
"""The same beside a face that is surely upright: images rarely mix turns."""

FILLS = 0.35
"""Share of the image's shorter side from which a face's longer side fills much of it.

There are few such faces in an image, so that each may be checked.
"""

TURNS = (180, 90, 270)

PATCH_SIDE = 112
"""Longer side in pixels of the piece around one face that is looked at in all turns."""

PATCH_REACH = 1.6
"""Side of that piece for one of the face's box."""

CLEAR = 0.02
"""Difference of confidence that decides between two turns.

Of 596 pieces around faces it decides for the wrong one in none, and leaves 24 undecided.
"""

TURNED = 0.87
"""Least confidence of the surest face of an image that is read as turned.

It is looked at in copies of 320 px and of the usual size. The highest hundredth that loses fewer
than one such image in twenty: of 1,000 holdout chips on grey at 0.2 to 0.8 of the image's side 39
reach less. Of 20,400 looks at pieces without a whole face, turned by 90 or 270 degrees (edges of
holdout chips, animals, flowers, buildings), 8 reach it. At 0.88 those are 57 and 3, at 0.85 25 and
20; with the copy for close faces as a third witness, at 0.87, 38 and 10.
"""

TURNED_SIDE = 320
"""Longer side of the copies that are turned where an image shows no face that is surely upright."""


def longest_copy(width: int, height: int, thorough: bool = False) -> int:
    """Longer side in pixels of the largest copy that `find` looks at."""
    return max(1, round(max(width, height) * _scale(width, height, thorough)))


def find(look: Look, image: NDArray[np.uint8], *, thorough: bool = False) -> list[Detection]:
    """All faces of an image `(H, W, 3)`, each once, in its pixels and with its turn."""
    seen = _upright(look, image, thorough)
    beside = any(face.score >= _sure(face, image) for face in seen)
    faces = [
        face
        if face.score >= (SURE_BESIDE if beside else _sure(face, image))
        else _checked(look, image, face)
        for face in seen
    ]
    upright = sum(face.turn == 0 and face.turn_sure and face.score >= 0.8 for face in faces)
    if upright <= sum(face.turn != 0 for face in faces):
        faces = _turned_image(look, image, faces, thorough)
    return distinct(faces)


def distinct(faces: Iterable[Detection]) -> list[Detection]:
    """Each face once, most confident first."""
    kept: list[Detection] = []
    for face in sorted(faces, key=_score, reverse=True):
        if not any(_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def turn_image(image: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """An image turned clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(image, -turn // 90))


def turn_back(face: Detection, turn: int, width: float, height: float) -> Detection:
    """A face of an image that was turned by `turn`, in pixels of the image before.

    Args:
        face: in pixels of the turned image.
        turn: degrees clockwise.
        width: of the image before it was turned.
        height: of it, too.
    """

    def back(x: float, y: float) -> tuple[float, float]:
        return {
            0: (x, y),
            90: (y, height - x),
            180: (width - x, height - y),
            270: (width - y, x),
        }[turn]

    box = face.box
    corners = (back(box.x, box.y), back(box.x + box.width, box.y + box.height))
    (left, right), (top, down) = (sorted(pair) for pair in zip(*corners, strict=True))
    points = None if face.landmarks is None else tuple(back(x, y) for x, y in face.landmarks)
    box = FaceBox(left, top, right - left, down - top)
    return replace(face, box=box, landmarks=points, turn=turn)


def resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """A copy with both sides `scale` times as long, rounded; at least one pixel."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        return shrink(image, *size)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _scale(width: int, height: int, thorough: bool) -> float:
    """Of the largest copy that is looked at, at most 1."""
    pixels = width * height
    scale = max(USUAL_SIDE / max(width, height), (USUAL_PIXELS / pixels) ** 0.5)
    if thorough:
        scale = max(scale, (THOROUGH_PIXELS / pixels) ** 0.5)
    return float(min(1.0, scale))


def _looked(look: Look, image: NDArray[np.uint8], copy: NDArray[np.uint8]) -> list[Detection]:
    """Faces of a copy, in pixels of the image."""
    across, down = image.shape[1] / copy.shape[1], image.shape[0] / copy.shape[0]
    return [face.scaled(across, down) for face in look(copy)]


def _upright(look: Look, image: NDArray[np.uint8], thorough: bool) -> list[Detection]:
    """Upright faces of every size, each once."""
    return _with_close(look, image, *_usual(look, image, thorough))


def _usual(
    look: Look, image: NDArray[np.uint8], thorough: bool
) -> tuple[NDArray[np.uint8], list[Detection]]:
    """The usual copy, and the faces of it and of the larger one of a thorough search."""
    height, width = image.shape[:2]
    usual, longer = _scale(width, height, False), max(width, height)
    faces: list[Detection] = []
    copy = image
    if thorough and (largest := _scale(width, height, True)) > usual:
        copy = resized(copy, largest)
        faces += _looked(look, image, copy)
    copy = resized(copy, usual * longer / max(copy.shape[:2]))
    return copy, faces + _looked(look, image, copy)


def _with_close(
    look: Look, image: NDArray[np.uint8], copy: NDArray[np.uint8], faces: Sequence[Detection]
) -> list[Detection]:
    """Those faces, and the ones that fill much of the image, each once; `copy` is one of it."""
    # Points lie more exactly in the larger copy: the smaller one is asked where that is not sure.
    trusted = [face.box for face in faces if face.score >= TRUSTED]
    close = _close(look, image, copy)
    return distinct([*faces, *(f for f in close if not any(_same(f.box, box) for box in trusted))])


def _close(look: Look, image: NDArray[np.uint8], copy: NDArray[np.uint8]) -> list[Detection]:
    """Faces that fill much of the image; `copy` is one of it, of any size."""
    if max(copy.shape[:2]) <= CLOSE_SIDE:
        return []
    close = resized(copy, CLOSE_SIDE / max(copy.shape[:2]))
    least = CLOSE_FACE * image.shape[1] / close.shape[1]
    faces = _looked(look, image, close)
    return [face for face in faces if face.box.width >= least and face.score >= CLOSE_SCORE]


def _score(face: Detection) -> float:
    return face.score


def _same(one: FaceBox, other: FaceBox) -> bool:
    shared = one.shared(other)
    smaller = min(one.area, other.area)
    return shared > MOST_IOU * (one.area + other.area - shared) or shared > MOST_INSIDE * smaller


def _sure(face: Detection, image: NDArray[np.uint8]) -> float:
    """Confidence from which a face of an image is surely upright."""
    fills = max(face.box.width, face.box.height) >= FILLS * min(image.shape[:2])
    return SURE_CLOSE if fills else SURE


def _checked(look: Look, image: NDArray[np.uint8], face: Detection) -> Detection:
    """The face in the turn that is likeliest, seen in a small piece of the image around it."""
    box = face.box
    side = PATCH_REACH / 2 * max(box.width, box.height)
    x, y = box.x + box.width / 2, box.y + box.height / 2
    left, top = max(0, round(x - side)), max(0, round(y - side))
    patch = image[top : max(top + 1, round(y + side)), left : max(left + 1, round(x + side))]
    if patch.size == 0:
        return face
    patch = np.ascontiguousarray(patch)

    def seen(turn: int, side: int) -> list[Detection]:
        small = resized(patch, min(1.0, side / max(patch.shape[:2])))
        found = (other.moved(left, top) for other in _turned_copy(look, patch, small, turn))
        return [other for other in found if _same(other.box, box)]

    found = seen(0, PATCH_SIDE) + seen(180, PATCH_SIDE)
    # A face on its side that is seen all the same has little confidence.
    if max(map(_score, found), default=0.0) < TURNED:
        found += seen(90, PATCH_SIDE) + seen(270, PATCH_SIDE)
    best = max(found, key=_score, default=face)
    second = max((other.score for other in found if other.turn != best.turn), default=0.0)
    # Points lie more exactly in a larger copy.
    exact = max(seen(best.turn, 2 * PATCH_SIDE), key=_score, default=best) if best.turn else face
    return replace(exact, turn_sure=best.score - second >= CLEAR)


def _turned_copy(
    look: Look, image: NDArray[np.uint8], copy: NDArray[np.uint8], turn: int
) -> Iterator[Detection]:
    """Faces of a copy that is turned for looking at it, in pixels of the image."""
    height, width = copy.shape[:2]
    for face in look(turn_image(copy, turn)):
        back = turn_back(face, turn, width, height)
        yield back.scaled(image.shape[1] / width, image.shape[0] / height)


def _turned_image(
    look: Look, image: NDArray[np.uint8], faces: Sequence[Detection], thorough: bool
) -> list[Detection]:
    """The faces as the likeliest of the other turns shows them, where one of them is sure there."""
    height, width = image.shape[:2]
    copy = resized(image, min(1.0, TURNED_SIDE / max(height, width)))
    seen = {turn: list(_turned_copy(look, image, copy, turn)) for turn in TURNS}
    best = max(TURNS, key=lambda turn: _evidence(seen[turn]))
    if _evidence(seen[best]) <= _evidence(face for face in faces if face.turn == 0):
        return list(faces)
    turned = turn_image(image, best)
    usual = _usual(look, turned, thorough)
    # The copy for faces that fill the image is no witness: it sees faces in more that is none.
    if max(map(_score, [*seen[best], *usual[1]])) < TURNED:
        return list(faces)
    found = [turn_back(face, best, width, height) for face in _with_close(look, turned, *usual)]
    others = [face for face in faces if face.turn]
    return found + [face for face in others if not any(_same(face.box, f.box) for f in found)]


def _evidence(faces: Iterable[Detection]) -> float:
    """How much speaks for faces in this turn: confidence above that of any find, summed up."""
    return sum(max(0.0, face.score - 0.7) for face in faces)
