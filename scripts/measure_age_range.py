"""What ranges of age hold: levels on holdout rows, coverage on validation rows.

The tables come from `python -m train predict --part holdout|validation`. On the holdout every level
is tried, and the rules of `main` name the ones to set in `faceattr/ages.py`; on the validation
rows only the levels set there are looked at:

    python -m scripts.measure_age_range HOLDOUT.parquet VALIDATION.parquet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.ages import RANGE_LEVEL, UNDER_20, UNDER_20_LEVEL, AgeRange, likeliest_range
from faceattr.labels import AGE, RACE
from train.evaluate.cells import Cell
from train.evaluate.predictions import Predictions, read_predictions
from train.tables import rounded, write_json

LEVELS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
FLAG_LEVELS = [round(0.01 * step, 2) for step in range(1, 41)]
LEAST_COVERAGE = 0.75
"""Share of every age group with `LEAST_ROWS` holdout rows that a range has to hold."""
LEAST_ROWS = 100
LEAST_FLAGGED = 0.95
"""Share of holdout faces labelled younger than 20 that the flag has to find."""
YOUNG = len(UNDER_20)


def ranges_of(table: Predictions, level: float) -> tuple[list[AgeRange], NDArray[np.bool_]]:
    """The range of each face, and whether it holds the label."""
    named = (dict(zip(AGE.classes, row, strict=True)) for row in table.probabilities["age"])
    ranges = [likeliest_range(probabilities, level=level) for probabilities in named]
    labels = (AGE.classes[index] for index in table.true["age"])
    return ranges, np.array([t in r.groups for t, r in zip(labels, ranges, strict=True)])


def choose(table: Predictions) -> dict[str, Any]:
    """Every level on the holdout, and those that the rules choose."""
    true, tried, chosen = table.true["age"], [], None
    for level in LEVELS:
        ranges, held = ranges_of(table, level)
        groups = (held[true == index] for index in range(len(AGE.classes)))
        worst = min((hits.mean() for hits in groups if len(hits) >= LEAST_ROWS), default=0.0)
        if chosen is None and worst >= LEAST_COVERAGE:
            chosen = level
        tried.append(
            {
                "level": level,
                "coverage": float(held.mean()),
                "worst_group": float(worst),
                "stated": float(np.mean([r.probability for r in ranges])),
                "groups_in_range": float(np.mean([len(r.groups) for r in ranges])),
            }
        )
    mass = table.probabilities["age"][:, :YOUNG].sum(1)[true < YOUNG]
    found = [level for level in FLAG_LEVELS if (mass >= level).mean() >= LEAST_FLAGGED]
    return {
        "levels": tried,
        "chosen_level": chosen,
        "chosen_flag_level": max(found, default=None),
        "rows": table.rows,
    }


def measure(table: Predictions) -> dict[str, Any]:
    """Coverage, width and the flag at the levels in use."""
    ranges, held = ranges_of(table, RANGE_LEVEL)
    true, best = table.true["age"], table.predicted(AGE)
    teen = true == AGE.classes.index("10-19")
    flagged = np.array([r.may_be_under_20 for r in ranges])
    widths = np.array([len(r.groups) for r in ranges])

    def share(hits: NDArray[np.bool_]) -> dict[str, Any]:
        return Cell.of(hits).to_dict()

    return {
        "coverage": share(held),
        "stated": float(np.mean([r.probability for r in ranges])),
        "group_is_right": share(best == true),
        "groups_in_range": float(widths.mean()),
        "share_by_number_of_groups": {
            str(n): float((widths == n).mean()) for n in sorted(set(widths.tolist()))
        },
        **{
            f"coverage_by_{task.name}": {
                name: share(held[table.true[task.name] == index])
                for index, name in enumerate(task.classes)
            }
            for task in (AGE, RACE)
        },
        "labelled_10_19": {
            "group_is_right": share((best == true)[teen]),
            "called_adult": share((best >= YOUNG)[teen]),
            "called_adult_and_not_flagged": share(((best >= YOUNG) & ~flagged)[teen]),
            "flagged": share(flagged[teen]),
        },
        "flagged_of_under_20": share(flagged[true < YOUNG]),
        "flagged_of_20_and_older": share(flagged[true >= YOUNG]),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.parquet")
    parser.add_argument("--output", type=Path, default=Path("docs/results/age_range.json"))
    args = parser.parse_args(argv)
    networks: dict[str, Any] = {}
    for table in map(read_predictions, args.tables):
        part = table.metadata["dataset"]["split"]
        if part not in ("holdout", "validation"):
            parser.error(f"expected tables of holdout or validation rows, came {part!r}")
        weights = table.metadata["weights_sha256"]
        facts = networks.setdefault(table.metadata["model"], {"weights_sha256": weights})
        if facts["weights_sha256"] != weights:
            parser.error(f"the tables of {table.metadata['model']} are of different weights")
        facts[part] = choose(table) if part == "holdout" else measure(table)
    rules = {
        "level": f"lowest of {LEVELS} at which every age group with {LEAST_ROWS} holdout rows is "
        f"held in {LEAST_COVERAGE:.0%}",
        "flag_level": "highest, in hundredths, at which the probability of the groups "
        f"{', '.join(UNDER_20)} flags {LEAST_FLAGGED:.0%} of the holdout faces labelled so; of "
        "several networks the lowest",
    }
    levels = {"level": RANGE_LEVEL, "flag_level": UNDER_20_LEVEL}
    write_json(args.output, rounded({"rules": rules, **levels, "networks": networks}, 4))
    return 0


if __name__ == "__main__":
    sys.exit(main())
