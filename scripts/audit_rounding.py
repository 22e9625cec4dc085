"""What rounding the calibration rows for their file changes: docs/results/audit_rounding.json.

The collections of `scripts.audit_validity` are measured with the predictions that `audit.json` was
made of, as they are and as the file holds them, with the same seeds and rows; beside it stands
what another seed changes. The cache is that script's.

    python -m scripts.audit_rounding --predictions holdout.parquet --cache FOLDER \
        --output docs/results/audit_rounding.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from faceattr.audit.answers import single
from faceattr.audit.calibration import AUDIT_NAME, CalibrationTable, coded
from faceattr.audit.coding import LEVELS
from faceattr.audit.prevalence import Shares, measure
from faceattr.hub import find_weights
from faceattr.labels import TASKS
from scripts.audit_validity import CLEAN, FACES, WORSE, Tally, collections_of, name_of, warnings
from train.evaluate.audit_table import audit_table
from train.evaluate.predictions import read_predictions
from train.tables import read_json, rounded, write_report

Changes = dict[str, dict[str, list[float]]]
"""By axis and kind of change, one number a draw."""


def both_tables(predictions: Path, weights: str | None) -> tuple[CalibrationTable, ...]:
    """The rows that `audit.json` was made of, and these rows as it holds them."""
    exact = audit_table(read_predictions(predictions))
    path = find_weights(weights).config.with_name(AUDIT_NAME)
    if exact.to_dict() != read_json(path):
        raise SystemExit(f"{path} was not made of {predictions}")
    held = replace(exact, coding=coded(exact.probabilities))
    return exact, replace(held, probabilities=held.as_held(exact.probabilities))


def changes(cache: Path, exact: CalibrationTable, held: CalibrationTable, draws: int) -> Changes:
    """Of each axis's shares, over draws of each head."""
    found: Changes = {}
    for task in TASKS:
        for answers, _, _, number in collections_of(cache, CLEAN, task, draws):
            usual = measure(answers, exact, seed=number)
            _add(found, "rounding", usual, measure(answers, held, seed=number))
            _add(found, "seed", usual, measure(answers, exact, seed=number + draws))
    return found


def _add(found: Changes, why: str, usual: Mapping[str, Shares], new: Mapping[str, Shares]) -> None:
    for name, shares in new.items():
        lists = found.setdefault(name, {})
        for key in ("matrix", "em"):
            one, other = getattr(shares, key), getattr(usual[name], key)
            moved = {
                "value": np.abs(one.value - other.value).max(),
                "end": np.abs([one.low - other.low, one.high - other.high]).max(),
                "width": (one.high - one.low).mean() / (other.high - other.low).mean(),
            }
            for what, change in moved.items():
                lists.setdefault(f"{why} {key} {what}", []).append(float(change))


def coverage(cache: Path, table: CalibrationTable, draws: int) -> dict[str, Any]:
    """By head, error, coverage and width of EM."""
    found = {}
    for task in TASKS:
        tally, axis = Tally(), single(task)
        for answers, _, true, number in collections_of(cache, CLEAN, task, draws):
            truth = np.bincount(true[task.name], minlength=len(task.classes)) / FACES
            shares = measure(answers, table, axes=(axis,), seed=number)[axis.name]
            assert shares.em is not None
            tally.add(shares.em, truth)
        found[task.name] = tally.to_dict()
    return found


def rounding(cache: Path, predictions: Path, weights: str | None, draws: int) -> dict[str, Any]:
    """The whole content of the JSON file."""
    files = find_weights(weights)
    exact, held = both_tables(predictions, weights)
    found: dict[str, Any] = {"exact": {}, "held": {}}
    for key, table in (("exact", exact), ("held", held)):
        found[key]["em"] = coverage(cache, table, 6 * draws)
        found[key]["warnings"] = {
            name_of(variant): warnings(cache, variant, table, draws) for variant in (CLEAN, *WORSE)
        }
        print(key, json.dumps(rounded(found[key], 4)), file=sys.stderr, flush=True)
    moved = {
        name: {what: [min(some), float(np.mean(some)), max(some)] for what, some in lists.items()}
        for name, lists in changes(cache, exact, held, draws).items()
    }
    return {
        "schema": 1,
        "command": "python -m scripts.audit_rounding",
        "model": files.name,
        "weights_sha256": exact.weights_sha256,
        "bytes": files.config.with_name(AUDIT_NAME).stat().st_size,
        "levels": LEVELS,
        "draws": {"changes": draws, "em": 6 * draws, "warnings": draws},
        **found,
        "least, mean and largest change": moved,
    }


def main() -> None:
    """Parse the command line and carry it out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", type=Path, required=True, help="of the holdout")
    parser.add_argument("--cache", type=Path, required=True, help="of scripts.audit_validity")
    parser.add_argument("--weights", help="folder or Hub id; the default weights if left out")
    parser.add_argument(
        "--draws", type=int, default=10, help="of each head; six times as many for EM's coverage"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    found = rounding(args.cache, args.predictions, args.weights, args.draws)
    write_report(args.output, rounded(found))


if __name__ == "__main__":
    main()
