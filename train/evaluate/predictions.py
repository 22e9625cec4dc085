"""The table that `python -m train predict` wrote, read and checked. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceattr.errors import LabelError
from faceattr.labels import TASKS, Task
from train.tables import TableError

METADATA_KEYS = ("model", "weights_sha256", "config", "network", "dataset", "augmentation")
DATASET_KEYS = ("id", "config", "split", "revision", "rows")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted for n faces, and what their labels are.

    Attributes:
        sha256: of each encoded picture, hexadecimal; n of them.
        service_test: the data set's mark, shape `(n,)`.
        true: by task, class positions in canonical order, shape `(n,)`.
        probabilities: by task, shape `(n, classes)`.
        metadata: the JSON that `python -m train predict` stored with the table.
    """

    sha256: tuple[str, ...]
    service_test: NDArray[np.bool_]
    true: Mapping[str, NDArray[np.int64]]
    probabilities: Mapping[str, NDArray[np.float64]]
    metadata: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Number of faces."""
        return len(self.sha256)

    def predicted(self, task: Task) -> NDArray[np.int64]:
        """Position of the likeliest class, shape `(n,)`; the first of equals."""
        found: NDArray[np.int64] = np.argmax(self.probabilities[task.name], axis=1)
        return found

    def correct(self, task: Task) -> NDArray[np.bool_]:
        """Whether the likeliest class is the label, shape `(n,)`."""
        return np.equal(self.predicted(task), self.true[task.name])


def _class_columns(task: Task) -> list[str]:
    return [f"{task.name}:{name}" for name in task.classes]


def _check_columns(found: list[str]) -> None:
    expected = ["row", "file", "sha256", "service_test"]
    for task in TASKS:
        expected += [f"{task.name}_true", *_class_columns(task)]
    if missing := [name for name in expected if name not in found]:
        raise TableError(f"columns {missing} are missing")
    prefixes = tuple(f"{task.name}:" for task in TASKS)
    if unknown := [n for n in found if n.startswith(prefixes) and n not in expected]:
        raise TableError(f"columns {unknown} belong to no class of faceattr.labels")
    if repeated := sorted({name for name in found if found.count(name) > 1}):
        raise TableError(f"columns {repeated} occur more than once")


def _metadata(table: pa.Table) -> dict[str, Any]:
    stored = (table.schema.metadata or {}).get(b"faceattr")
    if stored is None:
        raise TableError("the schema's metadata has no key 'faceattr'")
    try:
        facts = dict(json.loads(stored))
    except (ValueError, TypeError) as error:
        raise TableError(f"the metadata 'faceattr' holds no JSON object: {error}") from error
    for where, keys in (
        ("", METADATA_KEYS),
        ("dataset", DATASET_KEYS),
        ("config", ("training", "preprocessing", "temperatures", "thresholds")),
    ):
        values = facts[where] if where else facts
        if missing := [key for key in keys if key not in values]:
            raise TableError(f"metadata {where or 'faceattr'!r} lacks {missing}")
    if facts["dataset"]["rows"] != table.num_rows:
        raise TableError(
            f"the metadata says {facts['dataset']['rows']} rows, the table holds {table.num_rows}"
        )
    return facts


def _true_classes(table: pa.Table, task: Task) -> NDArray[np.int64]:
    names = table[f"{task.name}_true"].to_pylist()
    try:
        known = {name: task.index(name) for name in sorted(set(names))}
    except LabelError as error:
        raise TableError(f"column '{task.name}_true': {error}") from error
    return np.array([known[name] for name in names], dtype=np.int64)


def _probabilities(table: pa.Table, task: Task) -> NDArray[np.float64]:
    """Checked probabilities `(n, classes)`: finite, 0 to 1, rows that sum to 1 within 1e-3."""
    columns = [table[name].to_numpy().astype(np.float64) for name in _class_columns(task)]
    values = np.stack(columns, axis=1)
    for wrong, what in (
        (~np.isfinite(values).all(axis=1), "are not all finite"),
        ((values < 0).any(axis=1) | (values > 1).any(axis=1), "do not all lie in 0 to 1"),
        (np.abs(values.sum(axis=1) - 1) > 1e-3, "do not sum to 1 within 0.001"),
    ):
        if wrong.any():
            first = int(wrong.argmax())
            raise TableError(
                f"probabilities of {task.name!r} {what} in {int(wrong.sum())} rows, first in "
                f"line {first} (file {table['file'][first].as_py()!r}): {values[first].tolist()}"
            )
    return values


def _check_table(table: pa.Table) -> Predictions:
    _check_columns(table.column_names)
    metadata = _metadata(table)
    if table.num_rows == 0:
        raise TableError("the table has no rows")
    if empty := [name for name in table.column_names if table[name].null_count]:
        raise TableError(f"columns {empty} have missing values")
    for column in ("row", "file"):
        values = table[column].to_pylist()
        if repeated := len(values) - len(set(values)):
            raise TableError(f"column {column!r} must be unique, {repeated} values came before")
    if table.schema.field("service_test").type != pa.bool_():
        raise TableError("column 'service_test' must be bool")
    hashes = table["sha256"].to_pylist()
    if wrong := [value for value in hashes if not _SHA256.fullmatch(str(value))]:
        raise TableError(f"column 'sha256' must hold 64 hexadecimal digits, came {wrong[0]!r}")
    return Predictions(
        sha256=tuple(hashes),
        service_test=np.array(table["service_test"].to_pylist(), dtype=np.bool_),
        true={task.name: _true_classes(table, task) for task in TASKS},
        probabilities={task.name: _probabilities(table, task) for task in TASKS},
        metadata=metadata,
    )


def read_predictions(path: Path) -> Predictions:
    """Read and check a table that `python -m train predict` wrote.

    Raises:
        TableError: saying what is wrong with the table.
    """
    try:
        return _check_table(pq.read_table(path))
    except (TableError, pa.ArrowInvalid) as error:
        raise TableError(
            f"{path} is no table of predictions: {error}. Write it with `python -m train predict`."
        ) from error
