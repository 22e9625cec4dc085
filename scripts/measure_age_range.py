#!/usr/bin/env python3
"""What ranges of age hold: levels on holdout rows, coverage on validation rows.

The tables come from `python -m train predict --part holdout|validation`. On the holdout every level
is tried, and the rules of `main` name the ones to set in `faceattr/ages.py`; on the validation
rows only the levels set there are looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from faceattr.ages import RANGE_LEVEL, UNDER_20, UNDER_20_LEVEL, AgeRange, likeliest_range  # noqa: E402
from faceattr.labels import AGE, RACE  # noqa: E402

LEVELS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
FLAG_LEVELS = [round(0.01 * step, 2) for step in range(1, 41)]
LEAST_COVERAGE = 0.75
"""Share of every age group with `LEAST_ROWS` holdout rows that a range has to hold."""
LEAST_ROWS = 100
LEAST_FLAGGED = 0.95
"""Share of holdout faces labelled younger than 20 that the flag has to find."""


class Table:
    """A predictions table: probabilities and labels of age, labels of race."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"faceattr"])
        self.model: str = facts["model"]
        self.weights: str = facts["weights_sha256"]
        self.part: str = facts["dataset"]["split"]
        self.probabilities = np.stack([table[f"age:{name}"].to_numpy() for name in AGE.classes], 1)
        self.true = np.array(table["age_true"].to_pylist())
        self.race = np.array(table["race_true"].to_pylist())

    def ranges(self, level: float) -> list[AgeRange]:
        """The range of each face."""
        rows = self.probabilities.astype(float).tolist()
        named = (dict(zip(AGE.classes, row, strict=True)) for row in rows)
        return [likeliest_range(row, level=level) for row in named]

    def holds(self, ranges: list[AgeRange]) -> np.ndarray:
        """Whether each range has the label in it."""
        return np.array([t in r.groups for t, r in zip(self.true, ranges, strict=True)])


def share(hits: np.ndarray) -> dict[str, Any]:
    """Share of true values, with its 95 % Wilson interval and the count."""
    if not len(hits):
        return {"rows": 0, "share": None}
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {
        "rows": len(hits),
        "share": round(float(hits.mean()), 4),
        "low": round(float(interval.low), 4),
        "high": round(float(interval.high), 4),
    }


def choose(table: Table) -> dict[str, Any]:
    """Every level on the holdout, and those that the rules choose."""
    tried, chosen = [], None
    for level in LEVELS:
        ranges = table.ranges(level)
        held = table.holds(ranges)
        groups = {name: held[table.true == name] for name in AGE.classes}
        worst = min(
            (hits.mean() for hits in groups.values() if len(hits) >= LEAST_ROWS), default=0.0
        )
        if chosen is None and worst >= LEAST_COVERAGE:
            chosen = level
        tried.append(
            {
                "level": level,
                "coverage": round(float(held.mean()), 4),
                "worst_group": round(float(worst), 4),
                "stated": round(float(np.mean([r.probability for r in ranges])), 4),
                "groups_in_range": round(float(np.mean([len(r.groups) for r in ranges])), 3),
            }
        )
    young = np.isin(table.true, UNDER_20)
    mass = table.probabilities[:, : len(UNDER_20)].sum(1)
    found = [level for level in FLAG_LEVELS if (mass[young] >= level).mean() >= LEAST_FLAGGED]
    return {
        "levels": tried,
        "chosen_level": chosen,
        "chosen_flag_level": max(found, default=None),
        "rows": len(table.true),
    }


def measure(table: Table) -> dict[str, Any]:
    """Coverage, width and the flag at the levels in use."""
    ranges = table.ranges(RANGE_LEVEL)
    held = table.holds(ranges)
    young = np.isin(table.true, UNDER_20)
    teen = table.true == "10-19"
    flagged = np.array([r.may_be_under_20 for r in ranges])
    best = np.array(AGE.classes)[table.probabilities.argmax(1)]
    adult = ~np.isin(best, UNDER_20)
    widths = np.array([len(r.groups) for r in ranges])
    return {
        "coverage": share(held),
        "stated": round(float(np.mean([r.probability for r in ranges])), 4),
        "group_is_right": share(best == table.true),
        "groups_in_range": round(float(widths.mean()), 3),
        "share_by_number_of_groups": {
            str(n): round(float((widths == n).mean()), 4)
            for n in range(1, 10)
            if (widths == n).any()
        },
        "coverage_by_age": {name: share(held[table.true == name]) for name in AGE.classes},
        "coverage_by_race": {name: share(held[table.race == name]) for name in RACE.classes},
        "labelled_10_19": {
            "group_is_right": share(best[teen] == "10-19"),
            "called_adult": share(adult[teen]),
            "called_adult_and_not_flagged": share((adult & ~flagged)[teen]),
            "flagged": share(flagged[teen]),
        },
        "flagged_of_under_20": share(flagged[young]),
        "flagged_of_20_and_older": share(flagged[~young]),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.parquet")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/age_range.json")
    args = parser.parse_args(argv)
    networks: dict[str, Any] = {}
    for table in map(Table, args.tables):
        if table.part not in ("holdout", "validation"):
            parser.error(f"expected tables of holdout or validation rows, came {table.part!r}")
        facts = networks.setdefault(table.model, {"weights_sha256": table.weights})
        if facts["weights_sha256"] != table.weights:
            parser.error(f"the tables of {table.model} are of different weights")
        facts[table.part] = choose(table) if table.part == "holdout" else measure(table)
    result = {
        "rules": {
            "level": f"lowest of {LEVELS} at which every age group with {LEAST_ROWS} holdout rows "
            f"is held in {LEAST_COVERAGE:.0%}",
            "flag_level": "highest, in hundredths, at which the probability of the groups "
            f"{', '.join(UNDER_20)} flags {LEAST_FLAGGED:.0%} of the holdout faces "
            "labelled so; of several networks the lowest",
        },
        "level": RANGE_LEVEL,
        "flag_level": UNDER_20_LEVEL,
        "networks": networks,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, facts in networks.items():
        if "holdout" in facts:
            found = facts["holdout"]
            print(f"{name}: level {found['chosen_level']}, flag {found['chosen_flag_level']}")
        if "validation" in facts:
            held = facts["validation"]["coverage"]
            print(f"{name}: {held['share']:.1%} held ({held['low']:.1%} to {held['high']:.1%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
