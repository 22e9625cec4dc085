"""The remarks of the report's section 4 as numbers, from confusion counts. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.labels import AGE, GENDER, RACE
from train.evaluate.cells import Cell
from train.report import reference as published

TAKEN = ("30-39", "20-29")
"""The report: "a lot of people in 30-39" were predicted as 20-29, females more often."""

PAIRS_NAMED = 4
"""As many confused pairs of races as the report names."""


def _share(count: int, of: int) -> dict[str, Any]:
    found = Cell(of, count).to_dict()
    return {"n": of, "count": count, "share": found["accuracy"]} | {
        end: found[end] for end in ("low", "high")
    }


def age_errors(counts: NDArray[np.int64]) -> dict[str, Any]:
    """How far wrong age groups are, in groups, from counts with labels down.

    `neighbouring`: share of the errors that fall in the group just below or above.
    `mean_distance`: over all faces, right ones at 0; `mean_distance_of_errors`: over errors.
    """
    steps = np.arange(len(counts))
    distance = np.abs(steps[:, None] - steps[None])
    wrong = int(counts[distance > 0].sum())
    total = int((counts * distance).sum())
    faces = int(counts.sum())
    return {
        "errors": wrong,
        "neighbouring": _share(int(counts[distance == 1].sum()), wrong),
        "mean_distance": total / faces if faces else None,
        "mean_distance_of_errors": total / wrong if wrong else None,
    }


def confused_pairs(counts: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """All pairs of classes by the share of their faces taken for the other, highest first."""
    found = []
    for one, other in combinations(range(len(classes)), 2):
        mistaken = int(counts[one, other] + counts[other, one])
        faces = int(counts[one].sum() + counts[other].sum())
        pair = (classes[one], classes[other])
        printed = {frozenset(names) for names in published.CONFUSED_RACES}
        found.append(
            {"pair": list(pair), **_share(mistaken, faces), "in_report": frozenset(pair) in printed}
        )
    return sorted(found, key=lambda entry: -(entry["share"] or 0.0))


def remarks(confusion: Mapping[str, Any]) -> dict[str, Any]:
    """The report's remarks on its confusion matrices, measured here.

    Args:
        confusion: `overall` and `by_gender` matrices as in report.json.
    """

    def counts(matrices: Mapping[str, Any], name: str) -> NDArray[np.int64]:
        return np.array(matrices[name]["counts"], dtype=np.int64)

    overall, genders = confusion["overall"], confusion["by_gender"]
    older, younger = (AGE.classes.index(name) for name in TAKEN)
    by_gender: dict[str, Any] = {}
    for name in GENDER.classes:
        ages, races = counts(genders[name], "age"), counts(genders[name], "race")
        by_gender[name] = {
            "age_errors": age_errors(ages),
            "taken": _share(int(ages[older, younger]), int(ages[older].sum())),
            "race": Cell(int(races.sum()), int(np.trace(races))).to_dict(),
            "age": Cell(int(ages.sum()), int(np.trace(ages))).to_dict(),
        }
    pairs = confused_pairs(counts(overall, "race"), RACE.classes)
    return {
        "age_errors": age_errors(counts(overall, "age")),
        "taken": {"label": TAKEN[0], "answer": TAKEN[1]},
        "by_gender": by_gender,
        "confused_races": pairs[:PAIRS_NAMED],
        "report_pairs_ranks": [
            rank for rank, entry in enumerate(pairs, start=1) if entry["in_report"]
        ],
    }
