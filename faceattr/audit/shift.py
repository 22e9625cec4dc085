"""Can a collection's answers come from any mixture of the calibration classes?

The corrections assume that faces of a class look to the classifier as the calibration faces of that
class do, whatever the shares. The test weights the calibration rows to the shares that EM finds for
gender, age and race (raking; Deming and Stephan 1940) and asks whether the answers are then spread
as the collection's are: over classes and over levels of confidence. What is left over is judged
against its bootstrap, in which images and calibration rows are drawn again, EM and weights
included: a Wald statistic with the p-value that the draws give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceattr.audit import em
from faceattr.audit.answers import Answers, Codes, Floats, single
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.prevalence import gradient_noise, resampled_means
from faceattr.audit.simplex import minimise
from faceattr.labels import TASKS, Task

LEVEL = 0.02
"""p-value below which the corrected shares are not to be trusted."""
FEWEST = 100
"""Faces below which the test says nothing: it would hardly ever warn."""
MOST_FACES = 50_000
DRAWS = 400
_LEVELS = 4
_RAKING = 12


@dataclass(frozen=True)
class Shift:
    """What the test found.

    Attributes:
        p_value: 0 to 1; how often a collection without a shift looks as odd as this one. None
            for fewer than `FEWEST` faces.
        by_task: p-values of each task's answers alone.
        faces: how many the test looked at.
    """

    p_value: float | None
    by_task: Mapping[str, float]
    faces: int

    @property
    def trusted(self) -> bool | None:
        """Whether the corrected shares may be believed; None where the test cannot say."""
        return None if self.p_value is None else self.p_value >= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "p_value": self.p_value,
            "by_task": dict(self.by_task),
            "level": LEVEL,
            "faces": self.faces,
            "trusted": self.trusted,
        }


def _features(task: Task, probabilities: Floats, edges: Floats) -> Floats:
    """Which class is likeliest and at which level of confidence; one of each left out."""
    classes, levels = len(task.classes), len(edges) + 1
    sure = probabilities.max(axis=1)
    shown = np.eye(classes)[probabilities.argmax(axis=1)][:, 1:]
    level = np.eye(levels)[np.searchsorted(edges, sure)][:, 1:]
    return np.concatenate([shown, level], axis=1)


def _edges(probabilities: Floats) -> Floats:
    """Levels of confidence that hold equally many calibration rows."""
    found: Floats = np.quantile(probabilities.max(axis=1), np.arange(1, _LEVELS) / _LEVELS)
    return found


def rake(weights: Floats, classes: Mapping[str, Codes], shares: Mapping[str, Floats]) -> Floats:
    """Weights under which each task's classes have the wanted shares.

    Args:
        weights: to begin with, shape `(draws, n)`.
        classes: by task, of each row, shape `(n,)`.
        shares: by task, wanted in each draw, shape `(draws, classes)`.

    Returns:
        Shape `(draws, n)`; each row sums to 1.
    """
    found = weights / weights.sum(axis=1, keepdims=True)
    for _ in range(_RAKING):
        for name, codes in classes.items():
            sums = found @ np.eye(shares[name].shape[1])[codes]
            found = found * (shares[name] / np.maximum(sums, 1e-12))[:, codes]
    total: Floats = found.sum(axis=1, keepdims=True)
    result: Floats = found / np.maximum(total, 1e-12)
    return result


@dataclass(frozen=True, eq=False)
class _Compared:
    """Features of the collection less those of the weighted calibration rows."""

    here: Floats  # (features,)
    draws: Floats  # (draws, features)


def _compare(answers: Answers, table: CalibrationTable, draws: int, seed: int) -> _Compared:
    rng = np.random.default_rng([seed, 3])
    drawn = rng.multinomial(table.rows, np.full(table.rows, 1 / table.rows), size=draws)
    times = drawn.astype(np.float64)
    shares, resampled = {}, {}
    seen, known = [], []
    for task in TASKS:
        axis = single(task)
        soft = axis.soft(answers.probabilities)
        calibration = table.probabilities[task.name]
        prior = calibration.mean(axis=0)
        likelihood = em.ratios(soft, prior)
        found = em.fit(likelihood)
        given = em.scores(likelihood, found)
        curve = given.T @ given / len(given)
        slopes = resampled_means(answers.image, given, draws, seed)
        slopes = slopes + gradient_noise(
            calibration,
            em.scores(em.ratios(calibration, prior), found),
            table.true[task.name],
            found,
            curve,
            times,
        )
        curves = np.broadcast_to(curve, (draws, *curve.shape))
        shares[task.name] = found[None]
        resampled[task.name] = minimise(curves, curve @ found + slopes)
        edges = _edges(calibration)
        seen.append(_features(task, soft, edges))
        known.append(_features(task, calibration, edges))
    features, expected = np.concatenate(seen, axis=1), np.concatenate(known, axis=1)
    usual = rake(np.ones((1, table.rows)), table.true, shares) @ expected
    again = rake(times + 1e-9, table.true, resampled) @ expected
    means = resampled_means(answers.image, features, draws, seed)
    return _Compared(features.mean(axis=0) - usual[0], means - again)


def _p_value(here: Floats, draws: Floats) -> float:
    """Share of draws whose statistic is at least as large; the observed one counts as a draw."""
    centred = draws - draws.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(draws))
    kept = values > 1e-9 * values.max()
    root = vectors[:, kept] / np.sqrt(values[kept])
    statistic = ((here @ root) ** 2).sum()
    usual = ((centred @ root) ** 2).sum(axis=1)
    return float((1 + (usual >= statistic).sum()) / (1 + len(usual)))


def _part(answers: Answers, seed: int) -> Answers:
    if answers.faces <= MOST_FACES:
        return answers
    images, number = np.unique(answers.image, return_inverse=True)
    keep = np.random.default_rng([seed, 4]).random(len(images)) < MOST_FACES / answers.faces
    return answers.select(keep[number])


def shift_test(
    answers: Answers, table: CalibrationTable, *, draws: int = DRAWS, seed: int = 0
) -> Shift:
    """Test whether the corrections apply to a collection.

    Args:
        answers: of the collection; of more than `MOST_FACES` faces, a random part of the images.
        table: beside the weights that answered.
        draws: of the bootstrap; the smallest p-value is 1 / (draws + 1).
        seed: of the generator.
    """
    part = _part(answers, seed)
    if part.faces < FEWEST:
        return Shift(None, {}, part.faces)
    compared = _compare(part, table, draws, seed)
    ends = np.cumsum([len(task.classes) - 1 + _LEVELS - 1 for task in TASKS])[:-1]
    by_task = {
        task.name: _p_value(here, some)
        for task, here, some in zip(
            TASKS,
            np.split(compared.here, ends),
            np.split(compared.draws, ends, axis=1),
            strict=True,
        )
    }
    return Shift(_p_value(compared.here, compared.draws), by_task, part.faces)
