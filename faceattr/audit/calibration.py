"""What a classifier answers for faces whose labels are known: the table that travels with weights.

`audit.json` holds one row for each labelled face that the weights were not trained on: its classes,
and its probabilities as `coding` rounds them. Confusion counts, also of two attributes at once,
and what EM needs are counted from these rows, and they can be resampled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.audit.coding import (
    LEVELS,
    MOST_ROWS,
    Coding,
    decoded,
    from_turns,
    in_turn,
    packed,
    steps_of,
    steps_text,
    unpacked,
)
from faceattr.errors import AuditError
from faceattr.hub import WeightsFiles, find_beside
from faceattr.labels import GENDER, TASKS, Task

AUDIT_NAME = "audit.json"
SCHEMA = 3
_KEYS = ("schema", "weights_sha256", "source", "classes", "counts", "rows", "steps")
_PACKED = ("labels", "likeliest", "levels")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Answers for n labelled faces that the weights were not trained on.

    Attributes:
        weights_sha256: of the `model.safetensors` that answered, hexadecimal.
        source: where the faces come from, for reports: `id`, `part`, `config`, ...
        true: by task, class positions in the order of `faceattr.labels`, shape `(n,)`.
        probabilities: by task, shape `(n, classes)`, rows sum to 1.
        coding: by task, how a file rounded them; None where none did.
    """

    weights_sha256: str
    source: Mapping[str, Any]
    true: Mapping[str, NDArray[np.int64]]
    probabilities: Mapping[str, Floats]
    coding: Mapping[str, Coding] | None = None

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
            self.coding,
        )

    def as_held(self, probabilities: Mapping[str, Floats]) -> Mapping[str, Floats]:
        """Probabilities by task rounded as the table's are, to compare their confidence."""
        if self.coding is None:
            return probabilities
        group = _group(probabilities)
        return {n: one.rounded(probabilities[n], group) for n, one in self.coding.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content of `audit.json`; probabilities are rounded as `coding` says."""
        coding = self.coding or coded(self.probabilities)
        labels = np.stack([self.true[task.name] for task in TASKS])
        likeliest = np.stack([self.probabilities[task.name].argmax(axis=1) for task in TASKS])
        levels = [coding[task.name].levels(self.probabilities[task.name]) for task in TASKS]
        # Rows in the order of their content say nothing of the data set's order, and pack better.
        order = np.lexsort((*np.concatenate(levels, axis=1).T, *likeliest, *labels))
        labels, likeliest = labels[:, order], likeliest[:, order]
        columns = [
            column
            for one, true, top in zip(levels, labels, likeliest, strict=True)
            for column in in_turn(one[order], true, top)
        ]
        return {
            "schema": SCHEMA,
            "weights_sha256": self.weights_sha256,
            "source": dict(self.source),
            "classes": {task.name: list(task.classes) for task in TASKS},
            "counts": {task.name: list(self.counts(task).values()) for task in TASKS},
            "rows": self.rows,
            "steps": {name: steps_text(one.steps) for name, one in coding.items()},
            "labels": packed(labels),
            "likeliest": packed(likeliest),
            "levels": packed(columns),
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
        rows, sizes = values["rows"], np.array([len(task.classes) for task in TASKS])
        if not isinstance(rows, int) or not 0 < rows <= MOST_ROWS:
            raise AuditError(f"'rows' must be 1 to {MOST_ROWS:,}, came {rows!r}")
        labels, likeliest = (unpacked(values[name], sizes) for name in _PACKED[:2])
        columns = unpacked(values["levels"], np.full(sizes.sum(), LEVELS))
        if not labels.shape[1] == likeliest.shape[1] == columns.shape[1] == rows:
            raise AuditError(
                f"'rows' says {rows}, packed are {labels.shape[1]}, {likeliest.shape[1]} and "
                f"{columns.shape[1]}"
            )
        probabilities: dict[str, Floats] = {}
        coding: dict[str, Coding] = {}
        turns = np.split(columns, np.cumsum(sizes)[:-1])
        for task, turn, true, top in zip(TASKS, turns, labels, likeliest, strict=True):
            shape = (len(GENDER.classes), len(task.classes), LEVELS)
            steps = steps_of(values["steps"].get(task.name), shape)
            rounded = decoded(from_turns(turn, true, top), top, steps[likeliest[0]])
            probabilities[task.name] = rounded
            coding[task.name] = Coding(rounded.mean(axis=0), steps)
        table = cls(
            str(values["weights_sha256"]),
            dict(values["source"]),
            {task.name: one.astype(np.int64) for task, one in zip(TASKS, labels, strict=True)},
            probabilities,
            coding,
        )
        found = {task.name: list(table.counts(task).values()) for task in TASKS}
        if found != values["counts"]:
            raise AuditError(f"'counts' says {values['counts']}, the rows say {found}")
        return table


def coded(probabilities: Mapping[str, Floats]) -> dict[str, Coding]:
    """By task, how a file rounds the probabilities of calibration rows."""
    group, groups = _group(probabilities), len(GENDER.classes)
    return {task.name: Coding.fit(probabilities[task.name], group, groups) for task in TASKS}


def _group(probabilities: Mapping[str, Floats]) -> NDArray[np.int64]:
    """The likeliest gender of each face, `(n,)`."""
    group: NDArray[np.int64] = probabilities[GENDER.name].argmax(axis=1)
    return group


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
