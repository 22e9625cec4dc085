"""The statistics of a collection, in the tables of its report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faceattr.audit import present
from faceattr.audit.answers import Answers, Axis, Floats, single
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.collected import Collected
from faceattr.audit.estimates import Estimates
from faceattr.audit.labelled import FEWEST, powered
from faceattr.audit.measures import association, reference_shares
from faceattr.audit.other_system import rates_by_group
from faceattr.audit.prevalence import Shares, measure
from faceattr.audit.shift import LEVEL, Shift, shift_test
from faceattr.errors import AuditError, said_of
from faceattr.labels import TASKS, task

if TYPE_CHECKING:
    # Only the audit of stored collections has pyarrow; the page goes without.
    from faceattr.audit.labelling import Labels

Reference: TypeAlias = "str | Mapping[str, Mapping[str, float]]"
"""What `read_reference` returns."""

_EXAMPLE = '{"gender": {"Male": 0.5, "Female": 0.5}}'
_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
"""Of JSON, by Python's types."""

MOST_GROUPS = 50
"""Groups that get shares of their own; with more, only what was left out is split."""


@dataclass(frozen=True)
class Question:
    """What is asked of a collection.

    Attributes:
        population: whether the images are a random draw from what is in question.
        reference: "uniform", "fairface", or shares by task and class; see `read_reference`.
        merge: own bins, as `parse_merge` reads them.
        by: name of the column that splits the collection.
        truth: column with what another system should have said.
        prediction: column with what it said.
        labels: of some faces, by hand.
        seed: of every draw.
    """

    population: bool = False
    reference: Reference | None = None
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
        Entries of the report: "tasks", "joint", "imbalance", "by", "labels", "shift" and
        "other_system".
    """
    answers = Answers(found.probabilities, found.image)
    shares = measure(
        answers, calibration, axes=axes, population=question.population, seed=question.seed
    )
    labelled = _labelled(answers, question, axes)
    shift = None if calibration is None else shift_test(answers, calibration, seed=question.seed)
    if shift is not None and shift.trusted is False:
        warnings.insert(0, _not_to_be_trusted(shift, is_labelled=question.labels is not None))
    singles = [axis for axis in axes if len(axis.tasks) == 1]
    references = _references(question, singles, calibration)
    return {
        "tasks": [
            present.shares_table(
                shares[axis.name],
                labelled=labelled.get(axis.name),
                reference=references.get(axis.name),
                warning=_task_warning(shift, axis),
            )
            for axis in singles
        ],
        "joint": [present.joint_table(shares[axis.name]) for axis in axes if axis not in singles],
        "imbalance": [present.imbalance_table(shares[axis.name]) for axis in singles],
        "labels": None if question.labels is None else question.labels.to_dict(),
        "shift": None if shift is None else shift.to_dict(),
        "by": _by(found, answers, question, calibration, singles, warnings),
        "other_system": _other_system(found, answers, question, calibration, singles[: len(TASKS)]),
    }


def _not_to_be_trusted(shift: Shift, *, is_labelled: bool) -> dict[str, str]:
    way_out = (
        "Those with labels assume nothing about FairFace."
        if is_labelled
        else "Label some hundred faces by hand (--label-sample 300, then --labels FILE): those "
        "estimates assume nothing about FairFace."
    )
    return {
        "title": "The corrected shares are not to be trusted.",
        "text": "No mixture of FairFace's classes explains these answers (p = "
        f"{shift.p_value:.3f}): the images differ from FairFace's in more than who appears, such "
        f"as in sharpness, light, or what the labels mean. {way_out}",
    }


def _task_warning(shift: Shift | None, axis: Axis) -> str | None:
    p_value = None if shift is None else shift.by_task.get(axis.tasks[0])
    if p_value is None or p_value >= LEVEL:
        return None
    return f"The correction does not fit these answers (p = {p_value:.3f})."


def _labelled(
    answers: Answers, question: Question, axes: Sequence[Axis]
) -> Mapping[str, Estimates]:
    """Estimates that labels by hand were used for, by axis."""
    if question.labels is None:
        return {}
    labelled = question.labels
    if labelled.rows.max(initial=-1) >= answers.faces:
        raise AuditError("the labels name faces that are not here: they are of another collection")
    found = powered(answers, labelled, axes=tuple(axes), population=question.population)
    if not found:
        raise AuditError(f"too few labels: at least {FEWEST} faces of one task are needed")
    return found


def _references(
    question: Question, axes: Sequence[Axis], calibration: CalibrationTable | None
) -> Mapping[str, Floats]:
    """What shares are compared with, by axis."""
    wanted = question.reference
    if wanted is None:
        return {}
    if wanted == "uniform":
        return {axis.name: reference_shares(axis, "uniform") for axis in axes}
    if wanted == "fairface":
        if calibration is None:
            raise AuditError("--reference fairface needs the calibration table of the weights")
        named: Mapping[str, Mapping[str, float]] = {
            task.name: calibration.counts(task) for task in TASKS
        }
    else:
        assert not isinstance(wanted, str)
        named = wanted
    return {
        axis.name: reference_shares(axis, _by_cell(axis, named[axis.tasks[0]]))
        for axis in axes
        if axis.tasks[0] in named
    }


def read_reference(
    wanted: str | os.PathLike[str] | Mapping[str, Mapping[str, float]],
) -> Reference:
    """What shares are to be compared with.

    Args:
        wanted: "uniform", "fairface", a JSON file, or shares by task and class.

    Raises:
        AuditError: for anything else, and for a task that lacks a class.
    """
    if wanted == "uniform" or wanted == "fairface":
        return str(wanted)
    values = wanted if isinstance(wanted, Mapping) else _from_file(wanted)
    known = [task.name for task in TASKS]
    if not set(values) <= set(known) or not all(isinstance(v, Mapping) for v in values.values()):
        raise AuditError(
            f"the reference: expected shares by class for some of {known}, such as {_EXAMPLE}, "
            f"came {str(dict(values))[:60]}"
        )
    for name, shares in values.items():
        axis = single(task(name))
        try:
            reference_shares(axis, _by_cell(axis, shares))
        except (TypeError, ValueError) as error:
            raise AuditError(f"the reference for {name} holds no numbers: {error}") from error
    return values


def _from_file(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise AuditError(
            f"the reference {str(path)!r} is neither 'uniform', 'fairface' nor a readable JSON "
            f"file of shares by task and class: {said_of(error)}"
        ) from error
    if not isinstance(values, dict):
        came = _KINDS.get(type(values), "a number")
        raise AuditError(
            f"the reference {str(path)!r}: expected a JSON object of shares by task and class, "
            f"such as {_EXAMPLE}, came {came}"
        )
    return values


def _by_cell(axis: Axis, shares: Mapping[str, float]) -> Mapping[str, float]:
    """Shares of classes, by any of their names, as shares of an axis's cells."""
    one = task(axis.tasks[0])
    found = dict.fromkeys(axis.cells, 0.0)
    named = {one.index(name): share for name, share in shares.items()}
    if len(named) != len(one.classes):
        missing = [name for i, name in enumerate(one.classes) if i not in named]
        raise AuditError(f"the reference for {one.name} lacks {missing}")
    for index, share in named.items():
        found[axis.cells[axis.members[0][index]]] += float(share)
    return found


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
    linked = [
        association(
            axis,
            axis.predicted(answers.probabilities),
            face_group,
            found.groups,
            answers.image,
            seed=question.seed,
        )
        for axis in axes
    ]
    values = {
        "column": question.by,
        "association": [present.association_entry(item) for item in linked],
        "tables": [],
    }
    if len(found.groups) > MOST_GROUPS:
        warnings.append(
            {
                "title": f"{question.by!r} has {len(found.groups):,} values.",
                "text": f"Shares are given by group for at most {MOST_GROUPS}; what was left out "
                "is given for each.",
            }
        )
        return values
    by_group: dict[str, Mapping[str, Shares]] = {}
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
    values["tables"] = [
        present.group_table(axis, {name: every[axis.name] for name, every in by_group.items()})
        for axis in axes
    ]
    return values


def _other_system(
    found: Collected,
    answers: Answers,
    question: Question,
    calibration: CalibrationTable | None,
    axes: Sequence[Axis],
) -> dict[str, Any] | None:
    """How often another system is right, by perceived group."""
    if question.truth is None or question.prediction is None:
        return None
    if calibration is None:
        raise AuditError("--truth and --prediction need the calibration table of the weights")
    known, right = _judged(found, question.truth, question.prediction)
    rates = [
        rates_by_group(answers.select(known), right, calibration, axis, seed=question.seed)
        for axis in axes
    ]
    return present.other_system(rates, question.truth, question.prediction, int((~known).sum()))


def _judged(
    found: Collected, truth: str, prediction: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which faces have both values, and whether the two agree for each of these.

    Raises:
        AuditError: where no face has both, and where the two columns share no value.
    """
    true, said = ([_comparable(value) for value in found.columns[n]] for n in (truth, prediction))
    pairs = [(a, b) for a, b in zip(true, said, strict=True) if a and b]
    if not pairs:
        raise AuditError(
            f"no face has both {truth!r} and {prediction!r}; name columns of the source that hold "
            "the truth and what the other system said"
        )
    truths, answers = ({pair[side] for pair in pairs} for side in (0, 1))
    if not truths & answers:
        raise AuditError(
            f"no value of {prediction!r} ({_some(answers)}) occurs in {truth!r} ({_some(truths)}); "
            "expected both columns to call the same things by the same names"
        )
    known = np.array([bool(a and b) for a, b in zip(true, said, strict=True)], np.bool_)
    return known, np.array([a == b for a, b in pairs], np.bool_)


def _comparable(value: str | None) -> str:
    """A value to compare: 1.0, as tables with gaps hold whole numbers, is 1; "" for none."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", value or "")


def _some(values: set[str]) -> str:
    shown = ", ".join(repr(value) for value in sorted(values)[:3])
    return shown + (", …" if len(values) > 3 else "")
