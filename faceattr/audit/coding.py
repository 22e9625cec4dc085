"""Probabilities of many faces in a few kilobytes: five levels each, packed as text.

The likeliest class of a face is kept; its probability is what the others leave. Theirs are told
apart as EM does, by how they compare with the class's mean p̄: level by p / (p + p̄), from 0 to that
of p = 1/2. A level stands for the mean of what was rounded to it, among faces of the same likeliest
gender, scaled so that the mean of each class stays what it was: from it follow EM's shares, from
the likeliest classes those of the matrix. Intervals and pairs of attributes feel the rounding a
little; `python -m scripts.audit_validity` measures with rounded rows.
"""

from __future__ import annotations

import base64
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.errors import AuditError

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

LEVELS = 5
MOST_ROWS = 1_000_000
_FITTING = 300
_NOTHING = 1e-12
_UNIT = 65_535
"""Of steps in a file, which are unsigned numbers of 16 bits."""
_APART = 1e-3
"""By how much the likeliest class is likelier than any other, at least."""
_PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]


@dataclass(frozen=True, eq=False)
class Coding:
    """How the probabilities of k classes are rounded.

    Attributes:
        mean: of each class, shape `(k,)`.
        steps: what the levels of each class stand for in each group, `(groups, k, LEVELS)`.
    """

    mean: Floats
    steps: Floats

    @classmethod
    def fit(cls, probabilities: Floats, group: NDArray[np.integer[Any]], groups: int) -> Coding:
        """The coding of a table's rows `(n, k)`, which are in the groups `(n,)` below `groups`."""
        mean = probabilities.mean(axis=0)
        levels = _levels(probabilities, mean)
        steps = np.empty((groups, len(mean), LEVELS))
        for number in range(groups):
            rows = group == number if (group == number).any() else slice(None)
            steps[number] = _fitted(probabilities[rows], levels[rows])
        return cls(mean, steps_of(steps_text(steps), steps.shape))

    def levels(self, probabilities: Floats) -> Bytes:
        """Rounded probabilities, shape `(n, k)`, below `LEVELS`; 0 for the likeliest class."""
        return _levels(probabilities, self.mean)

    def rounded(self, probabilities: Floats, group: NDArray[np.integer[Any]]) -> Floats:
        """Probabilities `(n, k)` of faces in groups `(n,)` as a table holds them."""
        likeliest = probabilities.argmax(axis=1)
        return decoded(self.levels(probabilities), likeliest, self.steps[group])


def _fitted(probabilities: Floats, levels: Bytes) -> Floats:
    """The steps of a group's rows, shape `(k, LEVELS)`."""
    mean, likeliest = probabilities.mean(axis=0), probabilities.argmax(axis=1)
    # Of levels that no row has; nobody's answers are near them but by chance.
    steps = np.tile(np.arange(LEVELS) / (2 * LEVELS - 2), (len(mean), 1))
    for column, step in enumerate(steps):
        some = likeliest != column
        count = np.bincount(levels[some, column], minlength=LEVELS)
        total = np.bincount(levels[some, column], probabilities[some, column], LEVELS)
        step[count > 0] = total[count > 0] / count[count > 0]
    scale = np.ones(len(mean))
    for _ in range(_FITTING):
        scaled = np.broadcast_to(steps * scale[:, None], (len(levels), *steps.shape))
        found = decoded(levels, likeliest, scaled).mean(axis=0)
        scale *= np.sqrt(np.maximum(mean, _NOTHING) / np.maximum(found, _NOTHING))
    scaled_steps: Floats = steps * scale[:, None]
    return scaled_steps


def _levels(probabilities: Floats, mean: Floats) -> Bytes:
    usual = np.maximum(mean, _NOTHING)
    place = probabilities / (probabilities + usual) * (0.5 + usual) / 0.5
    found = np.minimum(np.rint(place * (LEVELS - 1)), LEVELS - 1).astype(np.uint8)
    found[np.arange(len(found)), probabilities.argmax(axis=1)] = 0
    return found


def decoded(levels: Bytes, likeliest: NDArray[Any], steps: Floats) -> Floats:
    """Probabilities `(n, k)`.

    Args:
        levels: shape `(n, k)`.
        likeliest: classes, `(n,)`.
        steps: of each row, `(n, k, LEVELS)`.
    """
    rows = np.arange(len(levels))
    found: Floats = np.take_along_axis(steps, levels[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    found[rows, likeliest] = 0
    left = 1 - found.sum(axis=1)
    found[rows, likeliest] = np.maximum(left, found.max(axis=1) + _APART)
    found /= found.sum(axis=1, keepdims=True)
    return found


def in_turn(levels: Bytes, true: NDArray[Any], likeliest: NDArray[Any]) -> list[Bytes]:
    """The columns of `levels`, each in an order in which neighbours are alike.

    What the order depends on is known before the column is, so that `from_turns` undoes it.
    """
    columns = range(levels.shape[1])
    return [levels[_order(levels[:, :column], true, likeliest), column] for column in columns]


def from_turns(columns: Bytes, true: NDArray[Any], likeliest: NDArray[Any]) -> Bytes:
    """Levels `(n, k)` of the columns, shape `(k, n)`, that `in_turn` gave."""
    levels = np.zeros(columns.shape[::-1], np.uint8)
    for column, values in enumerate(columns):
        levels[_order(levels[:, :column], true, likeliest), column] = values
    return levels


def _order(known: Bytes, true: NDArray[Any], likeliest: NDArray[Any]) -> NDArray[np.int64]:
    return np.lexsort((true, *known[:, -2:].T, likeliest))


def steps_text(steps: Floats) -> str:
    """Steps, each to 1 / 65,535, as text."""
    whole = np.rint(np.clip(steps, 0, 1) * _UNIT).astype("<u2")
    return base64.b85encode(whole.tobytes()).decode()


def steps_of(text: object, shape: tuple[int, ...]) -> Floats:
    """What `steps_text` wrote of steps of that shape.

    Raises:
        AuditError: for anything else.
    """
    try:
        steps: Floats = np.frombuffer(base64.b85decode(str(text)), "<u2").reshape(shape) / _UNIT
    except ValueError as error:
        raise AuditError(f"steps are damaged: {error}") from error
    return steps


def packed(columns: Sequence[NDArray[Any]] | NDArray[Any]) -> str:
    """Columns of whole numbers below 256, compressed, as text."""
    content = np.stack(list(columns)).astype(np.uint8).tobytes()
    content = lzma.compress(content, lzma.FORMAT_RAW, filters=_PACKING)
    return base64.b85encode(content).decode()


def unpacked(text: object, ends: NDArray[np.integer[Any]]) -> Bytes:
    """What `packed` packed, shape `(columns, n)`.

    Args:
        text: as a file holds it.
        ends: for each column the number that its values are below.

    Raises:
        AuditError: for what is damaged, too large, or no such columns.
    """
    try:
        unpacking = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_PACKING)
        # A small file cannot swell without bound.
        content = unpacking.decompress(base64.b85decode(str(text)), MOST_ROWS * len(ends))
    except (ValueError, lzma.LZMAError) as error:
        raise AuditError(f"packed rows are damaged: {error}") from error
    if len(content) % len(ends) or not unpacking.eof:
        raise AuditError(
            f"packed rows hold {len(content)} bytes, not as many in {len(ends)} columns"
        )
    values: Bytes = np.frombuffer(content, np.uint8).reshape(len(ends), -1)
    if (wrong := values >= ends[:, None]).any():
        raise AuditError(f"{int(wrong.sum())} packed values are of no class or level")
    return values
