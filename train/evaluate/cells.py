"""Accuracy by group, with counts and intervals: the report's Tables 4.1 to 4.3. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from faceattr.labels import AGE, GENDER, RACE, Task

CONFIDENCE = 0.95
"""Coverage of every interval in reports and cards."""

FEW_FACES = 30
"""Groups of fewer faces are marked, and left out where best and worst are named."""


def wilson_interval(
    correct: int, count: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, JASA 22 (1927), 209-212), no continuity correction.

    Unlike p ± z sqrt(p (1 - p) / n) it keeps its coverage for small groups and proportions near 1
    (Newcombe, Statistics in Medicine 17 (1998), 857-872).

    Args:
        correct: successes, 0 to `count`.
        count: trials, at least 1.
        confidence: coverage, between 0 and 1.

    Raises:
        ValueError: for arguments outside their range.
    """
    interval = binomtest(correct, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Cell:
    """How many of a group's `count` faces were labelled rightly."""

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
    """The report's table `number`: accuracy of `task` by two attributes."""

    number: str
    task: Task
    rows: Task
    columns: Task

    def to_dict(
        self, correct: NDArray[np.bool_], true: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, Any]:
        """The table with its class names; `cells[row][column]` as in `Cell.to_dict`.

        Args:
            correct: for each face, whether `task` was predicted as labelled; shape `(n,)`.
            true: by task, class positions of shape `(n,)`.
        """
        down, across = true[self.rows.name], true[self.columns.name]
        cells = [
            [
                Cell.of(correct[(down == row) & (across == column)]).to_dict()
                for column in range(len(self.columns.classes))
            ]
            for row in range(len(self.rows.classes))
        ]
        sides = {"rows": self.rows, "columns": self.columns}
        named = {k: {"task": t.name, "classes": list(t.classes)} for k, t in sides.items()}
        return {"task": self.task.name, **named, "cells": cells}


REPORT_TABLES = (
    SubgroupTable("4.1", GENDER, rows=AGE, columns=RACE),
    SubgroupTable("4.2", AGE, rows=GENDER, columns=RACE),
    SubgroupTable("4.3", RACE, rows=GENDER, columns=AGE),
)
"""The tables of the report's section 4."""
