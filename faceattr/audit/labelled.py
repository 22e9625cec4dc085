"""Shares from some faces labelled by hand and the answers for all: prediction-powered inference.

The answers' mean over the collection is corrected by what the labels say of the answers on a random
sample (Angelopoulos et al., Science 2023). How much the answers count is tuned for each class so
that useless ones cost nothing (PPI++, arXiv 2311.01453). Nothing is assumed of how the classifier
errs, so the estimates hold where the corrections by calibration rows do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from faceattr.audit.answers import DEFAULT_AXES, Answers, Axis, Codes, Floats
from faceattr.audit.estimates import Estimates
from faceattr.errors import AuditError
from faceattr.labels import AGE, GENDER, RACE, TASKS

FEWEST = 50
"""Labelled faces below which no estimate is given."""
_Z = 1.959963984540054


@dataclass(frozen=True, eq=False)
class LabelSample:
    """Faces to label by hand.

    Attributes:
        rows: positions among the answers, ascending, shape `(n,)`.
        inclusion: probability with which each was chosen, shape `(n,)`.
    """

    rows: Codes
    inclusion: Floats


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels by hand.

    Attributes:
        rows: positions of the faces among the answers, all distinct, shape `(n,)`.
        inclusion: as of the sample.
        true: by task, class positions; -1 where nobody could tell, shape `(n,)`.
    """

    rows: Codes
    inclusion: Floats
    true: Mapping[str, Codes]

    def __post_init__(self) -> None:
        if len(np.unique(self.rows)) != len(self.rows):
            raise AuditError("a labelled face occurs more than once")
        if not ((self.inclusion > 0) & (self.inclusion <= 1)).all():
            raise AuditError("inclusion probabilities must lie above 0 and at most at 1")
        for task in TASKS:
            codes = self.true[task.name]
            if len(codes) != len(self.rows) or (codes >= len(task.classes)).any():
                raise AuditError(f"labels of {task.name!r} do not fit the rows or the classes")


def label_sample(answers: Answers, n: int, seed: int = 0) -> LabelSample:
    """Choose faces to label: each equally likely, spread over the answers.

    Faces are put in the order of their likeliest gender, race and age group and of how sure these
    are, and every `faces / n`-th is taken from a random start (systematic sampling), so that each
    stratum of answers is met in its proportion.

    Args:
        answers: of the collection.
        n: faces wanted, at least 1; all of them where there are fewer.
        seed: of the generator.

    Raises:
        AuditError: for n below 1 or no faces.
    """
    if n < 1 or not answers.faces:
        raise AuditError(f"expected at least one face to label, came {n} of {answers.faces}")
    n = min(n, answers.faces)
    rng = np.random.default_rng(seed)
    strata = [answers.probabilities[task.name].argmax(axis=1) for task in (GENDER, RACE, AGE)]
    sure = answers.probabilities[RACE.name].max(axis=1)
    # Ties, as of repeated faces, are broken by chance.
    order = np.lexsort((rng.random(answers.faces), sure, *strata[::-1]))
    step = answers.faces / n
    positions = np.floor(rng.random() * step + step * np.arange(n)).astype(np.int64)
    rows = np.sort(order[np.minimum(positions, answers.faces - 1)])
    return LabelSample(rows, np.full(n, n / answers.faces))


def _interval(value: Floats, variance: Floats, faces: int) -> tuple[Floats, Floats]:
    """Wilson's interval for shares, with the sample size that the variance is worth.

    Args:
        value: shares, 0 to 1.
        variance: of their estimates.
        faces: labelled ones; a share near 0 or 1 is taken to be known as from these alone.
    """
    binomial = value * (1 - value)
    known = (binomial > 0) & (variance > 0)
    worth = np.where(known, binomial / np.where(known, variance, 1.0), faces)
    # Where hardly any face of a class was met, the variance found is too small to be believed.
    rare = np.minimum(value, 1 - value) * faces
    trust = np.clip(rare / 10, 0, 1)
    worth = np.where(worth > faces, faces + (worth - faces) * trust, worth)
    square = _Z**2 / worth
    centre = (value + square / 2) / (1 + square)
    half = _Z / (1 + square) * np.sqrt(binomial / worth + square / (4 * worth))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def _rectified(
    known: Floats, shown: Floats, everywhere: Floats, weight: Floats
) -> tuple[Floats, Floats]:
    """Shares and the variance of each, from n labelled faces.

    Args:
        known: whether each labelled face is of each cell, `(n, cells)`.
        shown: what the answers say of it, `(n, cells)`.
        everywhere: mean of the answers over all faces, `(cells,)`.
        weight: inverse inclusion probability over its sum, `(n,)`.
    """
    mean_known, mean_shown = weight @ known, weight @ shown
    spread = weight @ (shown - mean_shown) ** 2
    together = weight @ ((shown - mean_shown) * (known - mean_known))
    power = np.clip(together / np.maximum(spread, 1e-12), 0, 1)
    value = mean_known + power * (everywhere - mean_shown)
    residual = known - mean_known - power * (shown - mean_shown)
    n = len(known)
    # One degree of freedom goes to the mean, one to the tuning.
    variance = (weight[:, None] ** 2 * residual**2).sum(axis=0) * n / max(n - 2, 1)
    return value, variance


def powered_shares(
    answers: Answers, labelled: Labelled, axis: Axis, *, population: bool = False
) -> Estimates:
    """Shares of one axis from the labelled faces and all answers, with 95 % intervals.

    Args:
        answers: of the whole collection.
        labelled: a random sample of its faces with labels.
        axis: of whose cells; faces without all its labels are left out, as if by chance.
        population: whether the intervals speak of where the images were drawn from.

    Returns:
        Estimates whose draws are normal around them.

    Raises:
        AuditError: for fewer than `FEWEST` labelled faces.
    """
    told = np.all([labelled.true[name] >= 0 for name in axis.tasks], axis=0)
    n = int(told.sum())
    if n < FEWEST:
        raise AuditError(
            f"{axis.name} has {n} labelled faces; at least {FEWEST} are needed for an estimate"
        )
    rows = labelled.rows[told]
    cells = axis.cell_of({name: labelled.true[name][told] for name in axis.tasks})
    known = np.eye(len(axis.cells))[cells]
    soft = axis.soft(answers.probabilities)
    weight = 1 / labelled.inclusion[told]
    weight = weight / weight.sum()
    value, variance = _rectified(known, soft[rows], soft.mean(axis=0), weight)
    value = np.clip(value, 0, 1)
    value = value / value.sum()
    # The labels tell the collection's own shares, wholly where every face has one.
    variance = variance * (1 - n / answers.faces)
    low = high = value
    if population:
        variance = variance + _between_images(answers.image, soft, value)
    if population or n < answers.faces:
        low, high = _interval(value, variance, n)
    noise = np.random.default_rng(0).standard_normal((500, len(value))) * np.sqrt(variance)
    draws = np.clip(value + noise, 0, 1)
    return Estimates(value, np.minimum(low, value), np.maximum(high, value), draws)


def _between_images(image: Codes, soft: Floats, value: Floats) -> Floats:
    """Variance of the collection's own shares, had other images been drawn.

    Faces of one image are alike by as much as their answers are.
    """
    n = len(soft)
    centred = soft - soft.mean(axis=0)
    number = np.unique(image, return_inverse=True)[1]
    sums = np.zeros((number.max() + 1, soft.shape[1]))
    np.add.at(sums, number, centred)
    alike = (sums**2).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-12)
    between: Floats = value * (1 - value) / n * np.maximum(alike, 1.0)
    return between


def powered(
    answers: Answers,
    labelled: Labelled,
    *,
    axes: tuple[Axis, ...] = DEFAULT_AXES,
    population: bool = False,
) -> dict[str, Estimates]:
    """`powered_shares` of each axis that has enough labels, by its name."""
    found = {}
    for axis in axes:
        told = np.all([labelled.true[name] >= 0 for name in axis.tasks], axis=0)
        if told.sum() >= FEWEST:
            found[axis.name] = powered_shares(answers, labelled, axis, population=population)
    return found
