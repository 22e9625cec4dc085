"""What a classifier answers for faces whose labels are known: the table that travels with weights.

`audit.json` holds one row for each labelled face that the weights were not trained on: its classes
and its probabilities, coded in 64 steps. Confusion counts, also of two attributes at once, and
what EM needs are counted from these rows, and they can be resampled.
"""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.errors import AuditError
from faceattr.hub import WeightsFiles, find_beside
from faceattr.labels import TASKS, Task

AUDIT_NAME = "audit.json"
SCHEMA = 2
_KEYS = ("schema", "weights_sha256", "source", "classes", "counts", "rows")
_PACKED = ("labels", "likeliest", "others")
_LEVELS = 63
"""Steps of the cube root of a probability; that of the likeliest class is what others leave."""
_PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "pb": 0}]
_MAX_ROWS = 1_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Answers for n labelled faces that the weights were not trained on.

    Attributes:
        weights_sha256: of the `model.safetensors` that answered, hexadecimal.
        source: where the faces come from, for reports: `id`, `part`, `config`, ...
        true: by task, class positions in the order of `faceattr.labels`, shape `(n,)`.
        probabilities: by task, shape `(n, classes)`, rows sum to 1.
    """

    weights_sha256: str
    source: Mapping[str, Any]
    true: Mapping[str, NDArray[np.int64]]
    probabilities: Mapping[str, Floats]

    def __post_init__(self) -> None:
        rows = {len(self.true[task.name]) for task in TASKS}
        rows |= {len(self.probabilities[task.name]) for task in TASKS}
        if len(rows) != 1 or 0 in rows:
            raise AuditError(f"a calibration table needs as many rows of each task, came {rows}")
        for task in TASKS:
            if missing := [n for n, count in self.counts(task).items() if not count]:
                raise AuditError(
                    f"the calibration rows hold no face of {task.name} {missing}; every class "
                    "needs some"
                )

    @property
    def rows(self) -> int:
        """Number of labelled faces."""
        return len(self.true[TASKS[0].name])

    def counts(self, task: Task) -> dict[str, int]:
        """Labelled faces by class name."""
        found = np.bincount(self.true[task.name], minlength=len(task.classes))
        return dict(zip(task.classes, found.tolist(), strict=True))

    def select(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> CalibrationTable:
        """The table of some of its rows."""
        return CalibrationTable(
            self.weights_sha256,
            self.source,
            {name: values[rows] for name, values in self.true.items()},
            {name: values[rows] for name, values in self.probabilities.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content of `audit.json`; probabilities lose what 64 steps cannot hold."""
        labels = np.stack([self.true[task.name] for task in TASKS], 1)
        likeliest = np.stack([self.probabilities[task.name].argmax(1) for task in TASKS], 1)
        others = np.concatenate([_without_largest(self.probabilities[t.name]) for t in TASKS], 1)
        coded = np.rint(np.cbrt(others) * _LEVELS)
        # Rows in the order of their content say nothing of the data set's order, and pack better.
        order = np.lexsort((*coded.T, *likeliest.T, *labels.T))
        packed = (_packed(part[order]) for part in (labels, likeliest, coded))
        return {
            "schema": SCHEMA,
            "weights_sha256": self.weights_sha256,
            "source": dict(self.source),
            "classes": {task.name: list(task.classes) for task in TASKS},
            "counts": {task.name: list(self.counts(task).values()) for task in TASKS},
            "rows": self.rows,
            **dict(zip(_PACKED, packed, strict=True)),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CalibrationTable:
        """Read the content of `audit.json`.

        Raises:
            AuditError: for unknown or missing keys, other classes, or damaged rows.
        """
        if sorted(values) != sorted((*_KEYS, *_PACKED)) or values["schema"] != SCHEMA:
            raise AuditError(
                f"expected schema {SCHEMA} with the keys {[*_KEYS, *_PACKED]}, came schema "
                f"{values.get('schema')!r} with {list(values)}"
            )
        for task in TASKS:
            if values["classes"].get(task.name) != list(task.classes):
                raise AuditError(
                    f"classes of {task.name!r}: expected {list(task.classes)}, came "
                    f"{values['classes'].get(task.name)}"
                )
        rows, sizes = values["rows"], [len(task.classes) for task in TASKS]
        if not isinstance(rows, int) or not 0 < rows <= _MAX_ROWS:
            raise AuditError(f"'rows' must be 1 to {_MAX_ROWS:,}, came {rows!r}")
        labels = _unpacked(values["labels"], np.array(sizes))
        likeliest = _unpacked(values["likeliest"], np.array(sizes))
        coded = _unpacked(values["others"], np.full(sum(sizes), _LEVELS + 1))
        others = np.split((coded / _LEVELS) ** 3, np.cumsum(sizes)[:-1], axis=1)
        if not len(labels) == len(likeliest) == len(coded) == rows:
            raise AuditError(
                f"'rows' says {rows}, packed are {len(labels)}, {len(likeliest)} and {len(coded)}"
            )
        table = cls(
            str(values["weights_sha256"]),
            dict(values["source"]),
            {task.name: labels[:, i].astype(np.int64) for i, task in enumerate(TASKS)},
            {
                task.name: _with_largest(part, likeliest[:, i])
                for i, (task, part) in enumerate(zip(TASKS, others, strict=True))
            },
        )
        found = {task.name: list(table.counts(task).values()) for task in TASKS}
        if found != values["counts"]:
            raise AuditError(f"'counts' says {values['counts']}, the rows say {found}")
        return table


def coded(probabilities: Floats) -> Floats:
    """Probabilities `(n, classes)` as a file holds them, which tells none below 1e-6 from 0.

    What is compared with a table's levels of confidence has to be coded as it is.
    """
    steps = np.rint(np.cbrt(_without_largest(probabilities)) * _LEVELS)
    return _with_largest((steps / _LEVELS) ** 3, probabilities.argmax(axis=1))


def _without_largest(probabilities: Floats) -> Floats:
    """Probabilities `(n, classes)` with 0 for each row's likeliest class."""
    others: Floats = probabilities.copy()
    others[np.arange(len(others)), others.argmax(1)] = 0
    return others


def _with_largest(others: Floats, likeliest: NDArray[Any]) -> Floats:
    """What `_without_largest` left, completed to a sum of 1; the likeliest class stays so."""
    rows = np.arange(len(others))
    others[rows, likeliest] = 0
    left = np.maximum(1 - others.sum(axis=1), others.max(axis=1) + 0.1 / _LEVELS)
    others[rows, likeliest] = left
    found: Floats = others / others.sum(axis=1, keepdims=True)
    return found


def _packed(values: NDArray[Any]) -> str:
    """Whole numbers below 256, columns one after the other, compressed, as text."""
    content = values.astype(np.uint8).tobytes("F")
    packed = lzma.compress(content, lzma.FORMAT_RAW, filters=_PACKING)
    return base64.b85encode(packed).decode()


def _unpacked(text: object, ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What `_packed` packed: a column for each of `ends`, whose values are below it."""
    try:
        unpacking = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_PACKING)
        # A small file cannot swell without bound.
        content = unpacking.decompress(base64.b85decode(str(text)), _MAX_ROWS * len(ends))
    except (ValueError, lzma.LZMAError) as error:
        raise AuditError(f"packed rows are damaged: {error}") from error
    if len(content) % len(ends) or not unpacking.eof:
        raise AuditError(
            f"packed rows hold {len(content)} bytes, not as many in {len(ends)} columns"
        )
    values: NDArray[np.uint8] = np.frombuffer(content, np.uint8).reshape(len(ends), -1).T
    if (wrong := values >= ends).any():
        raise AuditError(f"{int(wrong.sum())} packed values are of no class or step")
    return values


def read_table(path: Path) -> CalibrationTable:
    """Read an `audit.json`.

    Raises:
        AuditError: saying what is wrong with the file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise AuditError("expected a JSON object")
        return CalibrationTable.from_dict(values)
    except (OSError, ValueError, TypeError, AttributeError, AuditError) as error:
        raise AuditError(
            f"{path.name} is no calibration table: {error}. "
            "`python -m train audit-table` writes one."
        ) from error


def write_table(table: CalibrationTable, path: Path) -> None:
    """Write an `audit.json`; the same rows give the same bytes."""
    path.write_text(json.dumps(table.to_dict(), ensure_ascii=False) + "\n", "utf-8")


def find_table(files: WeightsFiles, weights_sha256: str | None = None) -> CalibrationTable | None:
    """The table that lies beside the weights; None where there is none.

    Args:
        files: of the weights, from `faceattr.hub.find_weights`.
        weights_sha256: of the `model.safetensors` in use, if known; the table must be of these.

    Raises:
        AuditError: for a damaged table, or one of other weights.
    """
    path = find_beside(files, AUDIT_NAME)
    if path is None:
        return None
    table = read_table(path)
    if weights_sha256 is not None and table.weights_sha256 != weights_sha256:
        raise AuditError(
            f"{AUDIT_NAME} of {files.name!r} was written for the weights "
            f"{table.weights_sha256[:12]}, these are {weights_sha256[:12]}; write it again with "
            "`python -m train audit-table`"
        )
    return table
