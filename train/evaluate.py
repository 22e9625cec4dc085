"""A table of predictions to report.json: accuracy overall and by group, confusion, calibration.

Every proportion comes with its count and a 95 % Wilson interval. The same table gives the same
file, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, recall_score

from faceattr import __version__
from faceattr.errors import LabelError
from faceattr.labels import AGE, GENDER, RACE, TASKS, Task
from train.subgroups import CONFIDENCE, REPORT_TABLES, Cell
from train.tables import TableError, rounded, write_json

log = logging.getLogger("train")

SCHEMA = 1
"""Version of report.json's layout."""

CALIBRATION_BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 5."""

REPORT_ACCURACY = {"gender": 0.8735, "age": 0.5083, "race": 0.5933}
"""Of the report's own network (section 4)."""

REPORT_ROWS = 10_954
"""FairFace's whole validation split, on which the report measured (section 3.4.1)."""

CHANCE_DRAWS = 1_000
"""For the calibration error that is chance's doing; seed fixed."""

METADATA_KEYS = ("model", "weights_sha256", "config", "network", "dataset", "augmentation")
DATASET_KEYS = ("id", "config", "split", "revision", "rows")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted for n faces, and what their labels are.

    Attributes:
        service_test: the data set's mark, shape `(n,)`.
        true: by task, class positions in canonical order, shape `(n,)`.
        probabilities: by task, shape `(n, classes)`.
        metadata: the JSON that `python -m train predict` stored with the table.
    """

    service_test: NDArray[np.bool_]
    true: Mapping[str, NDArray[np.int64]]
    probabilities: Mapping[str, NDArray[np.float64]]
    metadata: Mapping[str, Any]

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
    expected = ["row", "file", "service_test"]
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
        facts = json.loads(stored)
    except ValueError as error:
        raise TableError(f"the metadata 'faceattr' is no JSON: {error}") from error
    if not isinstance(facts, dict):
        raise TableError("the metadata 'faceattr' is no JSON object")
    for where, keys in (
        ("", METADATA_KEYS),
        ("dataset", DATASET_KEYS),
        ("config", ("training", "preprocessing", "temperatures")),
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
    return Predictions(
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


def summary(
    task: Task, true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> dict[str, float | int | None]:
    """Accuracy with its interval, balanced accuracy and macro F1 of one task.

    Balanced accuracy is the mean recall of the classes that occur among the labels; macro F1
    the mean over the classes that occur among labels or predictions.

    Args:
        task: whose classes.
        true: class positions, shape `(n,)`.
        predicted: likewise.
    """
    found: dict[str, Any] = Cell.of(predicted == true).to_dict()
    if len(true) == 0:
        return {**found, "balanced_accuracy": None, "macro_f1": None}
    options = {"labels": range(len(task.classes)), "average": "macro", "zero_division": np.nan}
    return {
        **found,
        "balanced_accuracy": float(recall_score(true, predicted, **options)),
        "macro_f1": float(f1_score(true, predicted, **options)),
    }


def _bin(top: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)
    return found


def _error_if_calibrated(top: NDArray[np.float64], bins: int) -> dict[str, float]:
    """The error that chance alone gives a perfectly calibrated model with these probabilities.

    Answers are drawn right with exactly the probability claimed; mean and 95th percentile of
    the error over `CHANCE_DRAWS` such draws.
    """
    rng = np.random.default_rng(0)
    place = _bin(top, bins)
    errors = []
    for _ in range(CHANCE_DRAWS):
        gap = (rng.random(len(top)) < top) - top
        errors.append(np.abs(np.bincount(place, gap, bins)).sum() / len(top))
    return {"mean": float(np.mean(errors)), "p95": float(np.quantile(errors, 0.95))}


def calibration(
    probabilities: NDArray[np.float64], true: NDArray[np.int64], bins: int = CALIBRATION_BINS
) -> dict[str, Any]:
    """Expected calibration error of the top probability (Guo et al., ICML 2017, section 2).

    The mean over equal-width bins of |accuracy - mean top probability|, weighted by faces; a
    bin holds its upper edge. 0 means that of the faces given a probability p, a share p is right.

    Args:
        probabilities: shape `(n, classes)`.
        true: class positions, shape `(n,)`.
        bins: number of bins between 0 and 1.
    """
    top = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == true
    place = _bin(top, bins)
    reliability = []
    error = 0.0
    for index in range(bins):
        inside = place == index
        entry: dict[str, Any] = {"from": index / bins, "to": (index + 1) / bins}
        entry |= {"n": int(inside.sum()), "confidence": None, "accuracy": None}
        if inside.any():
            entry["confidence"] = float(top[inside].mean())
            entry["accuracy"] = float(correct[inside].mean())
            error += abs(entry["accuracy"] - entry["confidence"]) * entry["n"] / len(true)
        reliability.append(entry)
    return {
        "expected_calibration_error": error,
        "if_calibrated": _error_if_calibrated(top, bins),
        "reliability": reliability,
    }


def _confusion(task: Task, true: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Counts with true classes down and predicted ones across."""
    size = len(task.classes)
    # scikit-learn refuses to count nothing when labels are given.
    counts = (
        confusion_matrix(true, predicted, labels=range(size))
        if len(true)
        else np.zeros((size, size), dtype=np.int64)
    )
    return {"classes": list(task.classes), "counts": counts.tolist()}


def _confusions(predictions: Predictions) -> dict[str, Any]:
    def of(task: Task, rows: NDArray[np.bool_]) -> dict[str, Any]:
        return _confusion(
            task, predictions.true[task.name][rows], predictions.predicted(task)[rows]
        )

    everyone = np.ones(len(predictions.service_test), dtype=np.bool_)
    gender = predictions.true[GENDER.name]
    return {
        "overall": {task.name: of(task, everyone) for task in TASKS},
        "by_gender": {
            name: {task.name: of(task, gender == index) for task in (AGE, RACE)}
            for index, name in enumerate(GENDER.classes)
        },
    }


def _per_class(predictions: Predictions, task: Task) -> list[dict[str, Any]]:
    true, correct = predictions.true[task.name], predictions.correct(task)
    return [
        {"class": name, **Cell.of(correct[true == index]).to_dict()}
        for index, name in enumerate(task.classes)
    ]


def _comparison(overall: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": "Kemprai 2024, section 4",
        "rows": REPORT_ROWS,
        "accuracy": {
            name: {
                "report": accuracy,
                "here": overall[name]["accuracy"],
                "difference": overall[name]["accuracy"] - accuracy,
            }
            for name, accuracy in REPORT_ACCURACY.items()
        },
    }


def evaluate(predictions: Predictions) -> dict[str, Any]:
    """All results of a table of predictions, JSON-ready; floats have six decimals."""
    metadata = predictions.metadata

    def summaries(rows: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            task.name: summary(
                task, predictions.true[task.name][rows], predictions.predicted(task)[rows]
            )
            for task in TASKS
        }

    overall = summaries(np.ones(len(predictions.service_test), dtype=np.bool_))
    measured = {
        "confidence": CONFIDENCE,
        "overall": overall,
        "report_comparison": _comparison(overall),
        "service_test": summaries(predictions.service_test),
        "calibration": {
            "bins": CALIBRATION_BINS,
            **{
                t.name: calibration(predictions.probabilities[t.name], predictions.true[t.name])
                for t in TASKS
            },
        },
        "per_class": {task.name: _per_class(predictions, task) for task in TASKS},
        "confusion": _confusions(predictions),
        "subgroups": {
            table.number: table.to_dict(predictions.correct(table.task), predictions.true)
            for table in REPORT_TABLES
        },
    }
    return {
        "schema": SCHEMA,
        "created_by": {"command": "python -m train evaluate", "faceattr": __version__},
        "model": metadata["model"],
        "weights_sha256": metadata["weights_sha256"],
        "dataset": {key: metadata["dataset"][key] for key in DATASET_KEYS},
        "augmentation": metadata["augmentation"],
        "network": metadata["network"],
        "training": metadata["config"]["training"],
        "preprocessing": metadata["config"]["preprocessing"],
        "temperatures": metadata["config"]["temperatures"],
        **rounded(measured),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train evaluate`."""
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS.parquet",
        help="table written by `python -m train predict`",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="REPORT.json", help="file to write"
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train evaluate`."""
    report = evaluate(read_predictions(args.predictions))
    write_json(args.output, report)
    for task in TASKS:
        found = report["overall"][task.name]
        log.info(
            "%-6s %.2f %% (%.2f to %.2f) of %d faces; the report's network %.2f %%",
            task.name,
            *(100 * found[key] for key in ("accuracy", "low", "high")),
            found["n"],
            100 * REPORT_ACCURACY[task.name],
        )
    log.info("-> %s", args.output)
