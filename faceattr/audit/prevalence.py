"""Shares of a collection: as counted, and corrected for the classifier's errors, with intervals.

Two corrections. *Matrix* (adjusted count; Forman 2008, Tasche doi 10.3390/make1030047): the shares
whose mixture of the calibration classes' answers comes nearest to the answers counted. *EM*
(Saerens, Latinne and Decaestecker 2002): the shares under which the answers' probabilities are
likeliest; the class shares the probabilities were made for are taken as their mean over the
calibration rows (Alexandari, Kundaje and Shrikumar, arXiv 1901.06852).

Intervals are bootstrapped over images, so faces of one image stay together, and over calibration
rows. Two questions: what the shares *in these images* are (a finite collection), where only the
classifier errs; and what they are in the *population* the images were drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceattr.audit import em
from faceattr.audit.answers import DEFAULT_AXES, Answers, Axis, Codes, Floats, single
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.estimates import (
    DRAWS,
    Estimates,
    exact,
    holding,
    including,
    interval,
    of_population,
)
from faceattr.audit.matrix import adjusted, confusion
from faceattr.audit.resampling import (
    alike,
    calibration_times,
    gradient_noise,
    imputed,
    resampled_means,
)
from faceattr.audit.simplex import minimise, minimise_sum
from faceattr.errors import AuditError
from faceattr.labels import task

MOST_FACES = 400_000
"""Of a larger collection EM and the bootstrap read a random part of its images; see `measure`."""

RECOMMENDED = "em"
LEANING = {"age": 0.02, "gender × age": 0.02}
"""Strength of EM's pull towards the calibration shares by axis; 0 elsewhere. See docs/audit.md.

It moves the value only: the interval is that of EM without it.
"""


_BORDER = 1e-6
"""Share below which EM has left nothing of a class."""


@dataclass(frozen=True, eq=False)
class Shares:
    """The shares of one axis.

    Attributes:
        axis: what the cells are.
        faces: N.
        counts: faces by cell of their likeliest classes, shape `(cells,)`.
        counted: counts / N; with an interval for a population only.
        matrix: corrected by the confusion matrix; None without a calibration table.
        em: corrected by EM; None without a calibration table.
        corrected: "matrix" or "em": which one is recommended for this axis.
        rival: EM corrected by what the calibration rows say of its probabilities, where the
            interval of `em` holds that one's too.
    """

    axis: Axis
    faces: int
    counts: Codes
    counted: Estimates
    matrix: Estimates | None
    em: Estimates | None
    corrected: str = RECOMMENDED
    rival: Estimates | None = None

    @property
    def best(self) -> Estimates | None:
        """The recommended corrected shares."""
        found: Estimates | None = getattr(self, self.corrected)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "axis": self.axis.name,
            "tasks": list(self.axis.tasks),
            "cells": list(self.axis.cells),
            "faces": self.faces,
            "counts": self.counts.tolist(),
            "counted": self.counted.to_dict(),
            "matrix": None if self.matrix is None else self.matrix.to_dict(),
            "em": None if self.em is None else self.em.to_dict(),
            "corrected": self.corrected,
        }


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One axis before the bootstrap. Shapes: k cells, n calibration rows."""

    axis: Axis
    counts: Codes  # of all faces, (k,)
    scores: Floats  # of the faces that are read, (N, k)
    predicted: Codes  # (N,)
    curve: Floats  # (k, k)
    em: Floats  # (k,), with the axis's leaning
    plain: Floats  # (k,), without it
    known_soft: Floats  # (n, k)
    known_scores: Floats  # (n, k)
    known_predicted: Codes  # (n,)
    known_true: Codes  # (n,)
    alike: Floats  # faces that have each face's answers, (N,)
    images: int


def _fit(axis: Axis, counts: Codes, answers: Answers, table: CalibrationTable) -> _Fitted:
    soft, known = axis.soft(answers.probabilities), axis.soft(table.probabilities)
    prior = known.mean(axis=0)
    likelihood = em.ratios(soft, prior)
    plain = leaning = em.fit(likelihood)
    true = axis.cell_of(table.true)
    if strength := LEANING.get(axis.name, 0.0):
        shares = np.bincount(true, minlength=len(axis.cells)) / len(true)
        leaning = em.fit(likelihood, towards=shares, strength=strength)
    given = em.scores(likelihood, plain)
    return _Fitted(
        axis,
        counts,
        given,
        axis.predicted(answers.probabilities),
        given.T @ given / len(given),
        leaning,
        plain,
        known,
        em.scores(em.ratios(known, prior), plain),
        axis.predicted(table.probabilities),
        true,
        alike(answers),
        len(np.unique(answers.image)),
    )


def _resampled_rates(fitted: _Fitted, times: Floats) -> Floats:
    """Confusion shares of each draw of the calibration rows, `(draws, k, k)`."""
    k = len(fitted.axis.cells)
    pair = np.zeros((len(fitted.known_true), k * k))
    pair[np.arange(len(pair)), fitted.known_predicted * k + fitted.known_true] = 1
    counts = (times @ pair).reshape(-1, k, k)
    sums = counts.sum(axis=1, keepdims=True)
    usual = confusion(fitted.known_predicted, fitted.known_true, k)
    rates: Floats = np.where(sums > 0, counts / np.maximum(sums, 1), usual)
    return rates


def _shares(fitted: _Fitted, means: Floats, times: Floats, population: bool, seed: int) -> Shares:
    """The three estimates of an axis with their intervals.

    Args:
        fitted: of the axis.
        means: predicted shares and mean scores in each draw, `(draws, 2 k)`.
        times: how often each calibration row was drawn, `(draws, n)`.
        population: which question the intervals answer.
        seed: of the generator.
    """
    k, faces = len(fitted.axis.cells), len(fitted.scores)
    counted = fitted.counts / max(fitted.counts.sum(), 1)
    here = np.bincount(fitted.predicted, minlength=k) / faces
    shifts, slopes = means[:, :k] - here, means[:, k:]
    rates = confusion(fitted.known_predicted, fitted.known_true, k)
    matrix = adjusted(rates[None], counted[None])[0]
    matrices = adjusted(_resampled_rates(fitted, times), np.clip(counted + shifts, 0, 1))
    gradient = slopes + gradient_noise(
        fitted.known_soft,
        fitted.known_scores,
        fitted.known_true,
        fitted.plain,
        fitted.curve,
        times,
    )
    curves = np.broadcast_to(fitted.curve, (len(means), k, k))
    ems = minimise(curves, fitted.curve @ fitted.plain + gradient)
    truth: Floats = np.zeros((len(means), k))
    if not population:
        labelled = imputed(fitted.scores, fitted.alike, fitted.plain, slopes, seed)
        truth = labelled - fitted.plain
    uncertain = interval(fitted.plain, ems - fitted.plain - truth)
    uncertain = _off_border(fitted, uncertain, gradient, truth)
    rival = _rival(fitted, gradient, truth) if fitted.axis.name in LEANING else None
    if rival is not None:
        uncertain = holding(uncertain, rival)
    return Shares(
        fitted.axis,
        int(fitted.counts.sum()),
        fitted.counts,
        of_population(counted, shifts, fitted.images) if population else exact(counted, len(means)),
        interval(matrix, matrices - matrix - truth),
        including(uncertain, fitted.em),
        rival=rival,
    )


def _off_border(fitted: _Fitted, found: Estimates, gradient: Floats, truth: Floats) -> Estimates:
    """The interval with upper ends for shares of which EM left nothing.

    Draws stay at such a border and do not say how large the share may be; draws that may cross it
    do.
    """
    border = fitted.plain <= _BORDER
    if not border.any():
        return found
    curves = np.broadcast_to(fitted.curve, (len(gradient), *fitted.curve.shape))
    slope = fitted.curve @ fitted.plain + gradient - fitted.scores.mean(axis=0)
    errors = minimise_sum(curves, slope) - fitted.plain - truth
    free = interval(fitted.plain, errors)
    return Estimates(
        found.value,
        found.low,
        np.where(border, np.maximum(found.high, free.high), found.high),
        np.where(border, free.draws, found.draws),
    )


def _rival(fitted: _Fitted, gradient: Floats, truth: Floats) -> Estimates:
    """EM corrected by the calibration rows.

    Were the probabilities exact, the mean scores of the classes, weighted by the shares found,
    would be 1 on the calibration rows. What they are instead moves EM (one Newton step).
    """
    bias = np.zeros_like(fitted.plain)
    for cell in np.flatnonzero(fitted.plain > 0):
        rows = fitted.known_true == cell
        if rows.any():
            bias += fitted.plain[cell] * (fitted.known_scores[rows].mean(axis=0) - 1)
    usual = fitted.curve @ fitted.plain
    slope = usual + fitted.scores.mean(axis=0) - bias
    moved = minimise(fitted.curve[None], slope[None])[0]
    curves = np.broadcast_to(fitted.curve, (len(gradient), *fitted.curve.shape))
    draws = minimise(curves, usual + gradient - bias)
    return interval(moved, draws - moved - truth)


def _part(answers: Answers, seed: int) -> Answers:
    """At most about `MOST_FACES` faces: all of some images, chosen at random."""
    if answers.faces <= MOST_FACES:
        return answers
    images, number = np.unique(answers.image, return_inverse=True)
    keep = np.random.default_rng(seed).random(len(images)) < MOST_FACES / answers.faces
    return answers.select(keep[number])


def _merged(base: Shares, axis: Axis, images: int) -> Shares:
    """The shares of own bins: sums over classes that were corrected one by one.

    A bin of one class keeps its interval.

    Args:
        base: shares of the classes.
        axis: of the bins.
        images: as `of_population`.
    """
    gather = np.eye(len(axis.cells))[list(axis.members[0])]
    is_one = gather.sum(axis=0) == 1

    def summed(found: Estimates) -> Estimates:
        value = found.value @ gather
        return interval(value, found.draws @ gather - value)

    def joined(found: Estimates | None, rival: Estimates | None = None) -> Estimates | None:
        if found is None:
            return None
        value = found.value @ gather
        if np.isnan(found.low).all():
            return exact(value, len(found.draws))
        whole = summed(found)
        if found is base.counted:
            whole = of_population(value, found.draws @ gather - value, images)
        if rival is not None:
            whole = holding(whole, summed(rival))
        low = np.where(is_one, found.low @ gather, whole.low)
        high = np.where(is_one, found.high @ gather, whole.high)
        return Estimates(whole.value, low, high, whole.draws)

    counted = joined(base.counted)
    assert counted is not None
    return Shares(
        axis,
        base.faces,
        np.rint(base.counts @ gather).astype(np.int64),
        counted,
        joined(base.matrix),
        joined(base.em, base.rival),
        base.corrected,
    )


def _base(axis: Axis) -> Axis:
    """The axis of single classes that an axis of own bins sums up; others stay as they are."""
    if len(axis.tasks) == 1 and axis.members[0] != tuple(range(len(axis.cells))):
        return single(task(axis.tasks[0]))
    return axis


def measure(
    answers: Answers,
    table: CalibrationTable | None,
    *,
    axes: Sequence[Axis] = DEFAULT_AXES,
    population: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Shares]:
    """Shares of each axis as counted and corrected, with 95 % intervals, by name of the axis.

    Args:
        answers: at least one face. Of more than `MOST_FACES` all are counted; EM and the bootstrap
            read the faces of a random part of the images.
        table: beside the weights that answered; None leaves the corrected shares out.
        axes: `DEFAULT_AXES`, and any of `parse_merge`.
        population: False asks for the shares in these images, where a counted share has no
            sampling error; True for those where the images were drawn from.
        draws: of the bootstrap.
        seed: of the generator; the same seed gives the same intervals.

    Raises:
        AuditError: without any face.
    """
    if not answers.faces:
        raise AuditError("shares need at least one face, came none")
    bases = [_base(axis) for axis in axes]
    distinct = {axis.name: axis for axis in bases}
    part = _part(answers, seed)
    counts = {
        name: np.bincount(axis.predicted(answers.probabilities), minlength=len(axis.cells))
        for name, axis in distinct.items()
    }
    if table is None:
        found = _counted(distinct, counts, part, population, draws, seed)
    else:
        found = _corrected(distinct, counts, part, table, population, draws, seed)
    images = len(np.unique(part.image))
    return {
        axis.name: found[base.name] if base is axis else _merged(found[base.name], axis, images)
        for axis, base in zip(axes, bases, strict=True)
    }


def _one_hot(codes: Codes, cells: int) -> Floats:
    found: Floats = np.eye(cells)[codes]
    return found


def _counted(
    axes: Mapping[str, Axis],
    counts: Mapping[str, Codes],
    part: Answers,
    population: bool,
    draws: int,
    seed: int,
) -> dict[str, Shares]:
    found = {}
    for name, axis in axes.items():
        value = counts[name] / counts[name].sum()
        estimates = exact(value, draws)
        if population:
            shown = _one_hot(axis.predicted(part.probabilities), len(axis.cells))
            means = resampled_means(part.image, shown, draws, seed)
            images = len(np.unique(part.image))
            estimates = of_population(value, means - shown.mean(axis=0), images)
        total = int(counts[name].sum())
        found[name] = Shares(axis, total, counts[name], estimates, None, None)
    return found


def _corrected(
    axes: Mapping[str, Axis],
    counts: Mapping[str, Codes],
    part: Answers,
    table: CalibrationTable,
    population: bool,
    draws: int,
    seed: int,
) -> dict[str, Shares]:
    times = calibration_times(table.rows, draws, seed)
    found = {}
    for number, (name, axis) in enumerate(axes.items()):
        fitted = _fit(axis, counts[name], part, table)
        shown = _one_hot(fitted.predicted, len(axis.cells))
        features = np.concatenate([shown, fitted.scores], axis=1)
        means = resampled_means(part.image, features, draws, seed)
        found[name] = _shares(fitted, means, times, population, seed + 2 + number)
    return found
