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

from faceattr.audit.answers import Answers, Codes, Floats, single
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.resampling import calibration_times, resampled_em, resampled_means
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
        weights: to begin with, at least 0, shape `(draws, n)`.
        classes: by task, of each row, shape `(n,)`.
        shares: by task, wanted in each draw, shape `(draws, classes)`.

    Returns:
        Shape `(draws, n)`; each row sums to 1. Shares that no weights can give are met as nearly
        as the rounds of raking come.
    """
    # Rows of the same classes keep their proportions: raking works on what they sum to.
    codes = np.stack([classes[name] for name in shares])
    combinations, member = np.unique(codes, axis=1, return_inverse=True)
    member = member.reshape(-1)
    sums = weights @ np.eye(combinations.shape[1])[member]
    found = sums.copy()
    for _ in range(_RAKING):
        for own, wanted in zip(combinations, shares.values(), strict=True):
            margin = found @ np.eye(wanted.shape[1])[own]
            found = found * (wanted / np.maximum(margin, 1e-12))[:, own]
    factor = found / np.maximum(sums, 1e-300)
    raked = weights * factor[:, member]
    result: Floats = raked / np.maximum(raked.sum(axis=1, keepdims=True), 1e-12)
    return result


@dataclass(frozen=True, eq=False)
class _Compared:
    """Features of the collection less those of the weighted calibration rows."""

    here: Floats  # (features,)
    draws: Floats  # (draws, features)


def _compare(answers: Answers, table: CalibrationTable, draws: int, seed: int) -> _Compared:
    times = calibration_times(table.rows, draws, seed)
    shares, resampled = {}, {}
    seen, known = [], []
    held = table.as_held({n: np.asarray(p, np.float64) for n, p in answers.probabilities.items()})
    for task in TASKS:
        found = resampled_em(single(task), answers, table, times, seed)
        shares[task.name], resampled[task.name] = found.shares[None], found.draws
        calibration = table.probabilities[task.name]
        edges = _edges(calibration)
        seen.append(_features(task, held[task.name], edges))
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
