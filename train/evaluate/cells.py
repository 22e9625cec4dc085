"""Accuracy by group, with counts and intervals: the report's Tables 4.1 to 4.3. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.labels import AGE, GENDER, RACE, Task

CONFIDENCE = 0.95
"""Coverage of every interval in reports and cards."""

FEW_FACES = 30
"""Groups of fewer faces are marked, and left out where best and worst are named."""


def wilson_interval(
    correct: int, count: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Score interval of a proportion, without continuity correction.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927), 209-212. It stays within 0 to 1
    and keeps its coverage for small groups and proportions near 1, where the usual
    p ± z sqrt(p (1 - p) / n) fails (Newcombe, Statistics in Medicine 17 (1998), 857-872).

    Args:
        correct: successes, 0 to `count`.
        count: trials, at least 1.
        confidence: coverage, between 0 and 1.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: for arguments outside their range.
    """
    if not (0 <= correct <= count and count > 0 and 0 < confidence < 1):
        raise ValueError(
            f"expected 0 <= correct <= count, count > 0 and 0 < confidence < 1, "
            f"came {correct}, {count}, {confidence}"
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / count
    centre = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    low = 0.0 if correct == 0 else (centre - reach) / scale
    high = 1.0 if correct == count else (centre + reach) / scale
    return low, high


@dataclass(frozen=True)
class Cell:
    """How many of a group's faces were labelled rightly.

    Attributes:
        count: faces in the group.
        correct: of these, predicted as labelled.
    """

    count: int
    correct: int

    @classmethod
    def of(cls, correct: NDArray[np.bool_]) -> Cell:
        """Count a boolean vector, one entry for each face of the group."""
        return cls(len(correct), int(correct.sum()))

    def to_dict(self) -> dict[str, Any]:
        """`n`, `correct`, `accuracy` and its interval `low`, `high`; null for an empty group."""
        if self.count == 0:
            return {"n": 0, "correct": 0, "accuracy": None, "low": None, "high": None}
        low, high = wilson_interval(self.correct, self.count)
        return {
            "n": self.count,
            "correct": self.correct,
            "accuracy": self.correct / self.count,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class SubgroupTable:
    """Which accuracy by which two attributes.

    Attributes:
        number: of the table in the report.
        task: whose accuracy.
        rows: attribute down the side.
        columns: attribute across the top.
    """

    number: str
    task: Task
    rows: Task
    columns: Task

    def cells(
        self, correct: NDArray[np.bool_], true: Mapping[str, NDArray[np.int64]]
    ) -> list[list[Cell]]:
        """Count every combination of the two attributes' true classes.

        Args:
            correct: for each face, whether `task` was predicted as labelled; shape `(n,)`.
            true: by task, class positions of shape `(n,)`.
        """
        down, across = true[self.rows.name], true[self.columns.name]
        return [
            [
                Cell.of(correct[(down == row) & (across == column)])
                for column in range(len(self.columns.classes))
            ]
            for row in range(len(self.rows.classes))
        ]

    def to_dict(
        self, correct: NDArray[np.bool_], true: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, Any]:
        """The table with its class names; `cells[row][column]` as in `Cell.to_dict`."""
        return {
            "task": self.task.name,
            "rows": {"task": self.rows.name, "classes": list(self.rows.classes)},
            "columns": {"task": self.columns.name, "classes": list(self.columns.classes)},
            "cells": [[cell.to_dict() for cell in row] for row in self.cells(correct, true)],
        }


REPORT_TABLES = (
    SubgroupTable("4.1", GENDER, rows=AGE, columns=RACE),
    SubgroupTable("4.2", AGE, rows=GENDER, columns=RACE),
    SubgroupTable("4.3", RACE, rows=GENDER, columns=AGE),
)
"""The tables of the report's section 4."""
