"""The statistics of a collection, in the tables of its report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faceattr.audit import present
from faceattr.audit.answers import Answers, Axis
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.collected import Collected
from faceattr.audit.labelling import Labels
from faceattr.audit.prevalence import Shares, measure

MOST_GROUPS = 50
"""Groups that get shares of their own; with more, only what was left out is split."""


@dataclass(frozen=True)
class Question:
    """What is asked of a collection.

    Attributes:
        population: whether the images are a random draw from what is in question.
        reference: "uniform", "fairface", a JSON file, or shares by task and class.
        merge: own bins, as `parse_merge` reads them.
        by: name of the column that splits the collection.
        truth: column with what another system should have said.
        prediction: column with what it said.
        labels: of some faces, by hand.
        seed: of every draw.
    """

    population: bool = False
    reference: str | os.PathLike[str] | Mapping[str, Mapping[str, float]] | None = None
    merge: tuple[str, ...] = ()
    by: str | None = None
    truth: str | None = None
    prediction: str | None = None
    labels: Labels | None = None
    seed: int = 0


def measured(
    found: Collected,
    question: Question,
    calibration: CalibrationTable | None,
    axes: Sequence[Axis],
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    """Tables of everything that needs at least one face.

    Args:
        found: images and faces.
        question: what is asked.
        calibration: as `build_report`.
        axes: of the tables.
        warnings: to which what a reader has to know first is added.

    Returns:
        Entries of the report: "tasks", "joint", "imbalance", "by", "labels", "other_system".
    """
    answers = Answers(found.probabilities, found.image)
    shares = measure(
        answers, calibration, axes=axes, population=question.population, seed=question.seed
    )
    singles = [axis for axis in axes if len(axis.tasks) == 1]
    return {
        "tasks": [present.shares_table(shares[axis.name]) for axis in singles],
        "joint": [present.joint_table(shares[axis.name]) for axis in axes if axis not in singles],
        "by": _by(found, answers, question, calibration, singles, warnings),
    }


def _by(
    found: Collected,
    answers: Answers,
    question: Question,
    calibration: CalibrationTable | None,
    axes: Sequence[Axis],
    warnings: list[dict[str, str]],
) -> dict[str, Any] | None:
    """Shares of each group of the column that splits the collection."""
    if question.by is None:
        return None
    face_group = found.face_group()
    if len(found.groups) > MOST_GROUPS:
        warnings.append(
            {
                "title": f"{question.by!r} has {len(found.groups):,} values.",
                "text": f"Shares are given by group for at most {MOST_GROUPS}; what was left out "
                "is given for each.",
            }
        )
        return {"column": question.by, "association": [], "tables": []}
    by_group: dict[str, dict[str, Shares]] = {}
    for position, name in enumerate(found.groups):
        rows = face_group == position
        if rows.any():
            by_group[name] = measure(
                answers.select(rows),
                calibration,
                axes=axes,
                population=question.population,
                seed=question.seed,
            )
    tables = [
        present.group_table(axis, {name: every[axis.name] for name, every in by_group.items()})
        for axis in axes
    ]
    return {"column": question.by, "association": [], "tables": tables}
