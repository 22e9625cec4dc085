"""A table of predictions to report.json: every figure that card and pages give for some weights.

Every proportion comes with its count and a 95 % interval. The same table gives the same file,
byte for byte.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, recall_score

from faceattr import __version__
from faceattr.labels import AGE, GENDER, RACE, TASKS, Task
from train.evaluate.bootstrap import DRAWS, SEED, Floats, Resamples, interval
from train.evaluate.cells import CONFIDENCE, FEW_FACES, REPORT_TABLES, Cell
from train.evaluate.fairness import fairness
from train.evaluate.predictions import DATASET_KEYS, Predictions, read_predictions
from train.evaluate.reliability import calibrations, selective
from train.evaluate.remarks import remarks
from train.report import reference as published
from train.tables import TableError, read_json, rounded, write_report

log = logging.getLogger("train")

SCHEMA = 2
"""Version of report.json's layout."""

HISTORY_KEYS = ("epoch", "image_size", "train_loss", "holdout_loss", "holdout_accuracy")
"""What a report keeps of an epoch."""


def check_schema(report: Mapping[str, Any]) -> None:
    """Refuse a report of another layout.

    Raises:
        TableError: saying which was expected.
    """
    if report.get("schema") != SCHEMA:
        raise TableError(
            f"expected a report of schema {SCHEMA}, came {report.get('schema')!r}. "
            "Write it again with `python -m train evaluate`."
        )


def _resampled(counts: Floats) -> dict[str, Floats]:
    """Balanced accuracy and macro F1 `(draws,)` from confusion counts `(draws, K, K)`."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    labels, answers = counts.sum(axis=2), counts.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls, scores = hits / labels, 2 * hits / (labels + answers)
    return {
        "balanced_accuracy": np.nanmean(recalls, axis=1),
        "macro_f1": np.nanmean(scores, axis=1),
        "accuracy": hits.sum(axis=1) / counts.sum(axis=(1, 2)),
    }


def summary(
    task: Task, true: NDArray[np.int64], predicted: NDArray[np.int64], draws: int = DRAWS
) -> dict[str, Any]:
    """Accuracy, balanced accuracy and macro F1 of one task from class positions `(n,)`.

    Balanced accuracy is the mean recall of the classes that occur among the labels; macro F1
    the mean over the classes that occur among labels or predictions. `low` and `high` are
    Wilson's for the accuracy; `bootstrap` holds the intervals of all three over resampled rows.
    """
    found: dict[str, Any] = Cell.of(predicted == true).to_dict()
    if len(true) == 0:
        return {**found, "balanced_accuracy": None, "macro_f1": None, "bootstrap": None}
    size = len(task.classes)
    options = {"labels": range(size), "average": "macro", "zero_division": np.nan}
    drawn = Resamples.draw(len(true), draws).counts(true * size + predicted, (size, size))
    return {
        **found,
        "balanced_accuracy": float(recall_score(true, predicted, **options)),
        "macro_f1": float(f1_score(true, predicted, **options)),
        "bootstrap": {name: interval(values) for name, values in _resampled(drawn).items()},
    }


def _confusion(task: Task, true: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Counts and shares of each line, with true classes down and predicted ones across."""
    size = len(task.classes)
    counts = np.bincount(true * size + predicted, minlength=size**2).reshape(size, size).tolist()
    shares = [[n / sum(line) if sum(line) else None for n in line] for line in counts]
    return {"classes": list(task.classes), "counts": counts, "shares": shares}


def _confusions(predictions: Predictions) -> dict[str, Any]:
    def of(task: Task, rows: NDArray[np.bool_]) -> dict[str, Any]:
        true, predicted = predictions.true[task.name], predictions.predicted(task)
        return _confusion(task, true[rows], predicted[rows])

    everyone = np.ones(predictions.rows, dtype=np.bool_)
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


def _compared_cell(cell: Mapping[str, Any], printed: float) -> dict[str, Any]:
    """A cell of ours beside the report's: `here`, `report`, their difference, and `outside`.

    `outside` says that the printed figure lies outside our interval, its last digit's rounding
    allowed for; the report's own uncertainty is not in it.
    """
    found = {"n": cell["n"], "here": cell["accuracy"], "report": printed}
    if cell["n"] == 0:
        return {**found, "difference": None, "outside": None}
    outside = not cell["low"] - 0.005 <= printed <= cell["high"] + 0.005
    return {**found, "difference": cell["accuracy"] - printed, "outside": outside}


def _comparison(overall: Mapping[str, Any], subgroups: Mapping[str, Any]) -> dict[str, Any]:
    """The report's accuracies and its Tables 4.1 to 4.3 beside ours."""
    tables = {}
    for number, printed in published.SUBGROUPS.items():
        cells = [
            [_compared_cell(*pair) for pair in zip(*lines, strict=True)]
            for lines in zip(subgroups[number]["cells"], printed, strict=True)
        ]
        filled = [cell for line in cells for cell in line if cell["n"]]
        enough = [cell for cell in filled if cell["n"] >= FEW_FACES]
        tables[number] = {
            "cells": cells,
            "compared": len(enough),
            "higher": sum(cell["difference"] > 0 for cell in enough),
            "higher_outside": sum(cell["difference"] > 0 and cell["outside"] for cell in enough),
            "lower_outside": sum(cell["difference"] < 0 and cell["outside"] for cell in enough),
        }
    return {
        "source": f"{published.NAME}, section 4",
        "rows": published.VALIDATION_ROWS,
        "accuracy": {
            name: {"report": printed, "here": here, "difference": here - printed}
            for name, printed in published.ACCURACY.items()
            for here in [overall[name]["accuracy"]]
        },
        "tables": tables,
    }


def _duplicates(predictions: Predictions) -> dict[str, Any]:
    """Pictures that occur more than once, by the SHA-256 of their encoded bytes.

    `rows` counts all rows of such pictures, `labels_differ` the pictures whose rows carry
    different labels, by task.
    """
    places = defaultdict(list)
    for row, digest in enumerate(predictions.sha256):
        places[digest].append(row)
    repeated = [rows for rows in places.values() if len(rows) > 1]
    return {
        "pictures": len(repeated),
        "rows": sum(map(len, repeated)),
        "labels_differ": {
            task.name: sum(len(set(predictions.true[task.name][rows])) > 1 for rows in repeated)
            for task in TASKS
        },
    }


def measured(predictions: Predictions, draws: int = DRAWS) -> dict[str, Any]:
    """Everything that a table of predictions tells, floats not rounded."""

    def summaries(rows: NDArray[np.bool_]) -> dict[str, Any]:
        true, answers = predictions.true, predictions.predicted
        return {t.name: summary(t, true[t.name][rows], answers(t)[rows], draws) for t in TASKS}

    overall = summaries(np.ones(predictions.rows, dtype=np.bool_))
    subgroups = {
        table.number: table.to_dict(predictions.correct(table.task), predictions.true)
        for table in REPORT_TABLES
    }
    confusion = _confusions(predictions)
    return {
        "confidence": CONFIDENCE,
        "bootstrap": {"draws": draws, "seed": SEED},
        "few_faces": FEW_FACES,
        "overall": overall,
        "report_comparison": _comparison(overall, subgroups),
        "service_test": summaries(predictions.service_test),
        "duplicates": _duplicates(predictions),
        "calibration": calibrations(predictions),
        "selective": {task.name: selective(predictions, task) for task in TASKS},
        "per_class": {task.name: _per_class(predictions, task) for task in TASKS},
        "confusion": confusion,
        "remarks": remarks(confusion),
        "subgroups": subgroups,
        "fairness": fairness(predictions, draws),
    }


def _checked_robustness(found: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    if found.get("weights_sha256") != metadata["weights_sha256"]:
        raise TableError(
            "the robustness results are of other weights than the predictions: SHA-256 "
            f"{found.get('weights_sha256')} and {metadata['weights_sha256']}. Measure these with "
            "`python -m train robustness`."
        )
    return {key: value for key, value in found.items() if key not in ("schema", "created_by")}


def evaluate(
    predictions: Predictions,
    *,
    robustness: Mapping[str, Any] | None = None,
    duplicates: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """All results of a table of predictions, JSON-ready; floats have six decimals.

    Args:
        predictions: the table.
        robustness: what `python -m train robustness` wrote for the same weights.
        duplicates: what `python -m train duplicates` wrote for the data set.
        history: what `fit` measured after each epoch, the lines of its history.jsonl.
        draws: resamples of the bootstrap intervals.

    Raises:
        TableError: when `robustness` is about other weights.
    """
    metadata = predictions.metadata
    config = metadata["config"]
    report = {
        "schema": SCHEMA,
        "created_by": {"command": "python -m train evaluate", "faceattr": __version__},
        "model": metadata["model"],
        "weights_sha256": metadata["weights_sha256"],
        "dataset": {key: metadata["dataset"][key] for key in DATASET_KEYS},
        "augmentation": metadata["augmentation"],
        "network": metadata["network"],
        "training": {k: v for k, v in config["training"].items() if k != "runs"},
        "preprocessing": config["preprocessing"],
        "temperatures": config["temperatures"],
        "thresholds": config["thresholds"],
        **rounded(measured(predictions, draws)),
    }
    if robustness is not None:
        report["robustness"] = _checked_robustness(robustness, metadata)
    if duplicates is not None:
        report["data_duplicates"] = duplicates["splits"]
    if history is not None:
        report["history"] = list(history)
    return report


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read a run's history.jsonl: one JSON object a line.

    Raises:
        TableError: naming a line that is none, or lacks a loss.
    """
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            for key in ("train_loss", "holdout_loss"):
                entry[key] = {task.name: float(entry[key][task.name]) for task in TASKS}
            entries.append({key: entry[key] for key in HISTORY_KEYS})
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{path}, line {number} is no epoch of `fit`: {error}") from error
    if not entries:
        raise TableError(f"{path} holds no epoch")
    return entries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train evaluate`."""
    parser.add_argument("predictions", type=Path, help="table of `python -m train predict`")
    parser.add_argument("--output", type=Path, required=True, metavar="REPORT.json")
    for name, words in (
        ("robustness", "of `python -m train robustness` for the same weights, to take in"),
        ("duplicates", "of `python -m train duplicates`, to take in"),
        ("history", "history.jsonl of the run, to take in"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=words)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train evaluate`."""
    report = evaluate(
        read_predictions(args.predictions),
        robustness=read_json(args.robustness) if args.robustness else None,
        duplicates=read_json(args.duplicates) if args.duplicates else None,
        history=read_history(args.history) if args.history else None,
    )
    write_report(args.output, report)
    for task in TASKS:
        found = report["overall"][task.name]
        shares = [100 * found[key] for key in ("accuracy", "low", "high")]
        log.info("%-6s %.2f %% (%.2f to %.2f) of %d faces", task.name, *shares, found["n"])
    log.info("-> %s", args.output)
