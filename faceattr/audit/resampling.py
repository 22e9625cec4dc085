"""A collection and its calibration rows drawn again: what the bootstrap of an audit is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faceattr.audit import em
from faceattr.audit.answers import Answers, Axis, Codes, Floats
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.simplex import minimise

_CHUNK = 8_192
"""Images whose resampled weights are in memory at once."""


_POISSON = np.repeat(
    np.arange(9, dtype=np.float32),
    [24109, 24109, 12055, 4018, 1005, 201, 33, 5, 1],
)
"""65,536 draws of a Poisson variable of mean 1, each value as often as it is likely."""


def resampled_means(image: Codes, features: Floats, draws: int, seed: int) -> Floats:
    """Means of features over faces when images are drawn again with replacement.

    Args:
        image: of each face, shape `(N,)`.
        features: shape `(N, d)`.
        draws: how often.
        seed: of the generator.

    Returns:
        Shape `(draws, d)`. The number of times an image is drawn is Poisson with mean 1.
    """
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[order], prepend=image[order[0]] - 1))
    faces = np.diff(starts, append=len(image)).astype(np.float32)
    sums = np.zeros((draws, features.shape[1]))
    total = np.zeros(draws)
    rng = np.random.default_rng(seed)
    for begin in range(0, len(starts), _CHUNK):
        some = starts[begin : begin + _CHUNK]
        last = starts[begin + _CHUNK] if begin + _CHUNK < len(starts) else len(image)
        values = np.add.reduceat(features[order[some[0] : last]], some - some[0], axis=0)
        times = _POISSON[rng.integers(65_536, size=(draws, len(some)), dtype=np.uint16)]
        sums += times @ values.astype(np.float32)
        total += times @ faces[begin : begin + _CHUNK]
    means: Floats = sums / np.maximum(total, 1)[:, None]
    return means


def gradient_noise(
    soft: Floats, given: Floats, true: Codes, shares: Floats, curve: Floats, times: Floats
) -> Floats:
    """Change of EM's gradient when the calibration rows are drawn again, `(draws, k)`.

    Two parts: of the mean probabilities, by which answers are divided; and of the mean scores
    within each class, which are what they should be only as exactly as the rows can tell.

    Args:
        soft: probabilities of the calibration rows, shape `(n, k)`.
        given: their scores at the shares found, shape `(n, k)`.
        true: their cells, shape `(n,)`.
        shares: found by EM without leaning, shape `(k,)`.
        curve: mean outer product of the collection's scores, shape `(k, k)`.
        times: how often each row is drawn, shape `(draws, n)`.
    """
    prior = soft.mean(axis=0)
    means = np.maximum(times @ soft / len(soft), 1e-12)
    # The collection's mean scores are 1 where a share is not at the border.
    slope = np.diag(curve @ shares) - curve * shares
    change: Floats = -np.log(means / np.maximum(prior, 1e-12)) @ slope.T
    for cell in np.flatnonzero(shares > 0):
        rows = true == cell
        if not rows.any():
            continue
        weight, scored = times[:, rows], given[rows]
        sums = weight.sum(axis=1, keepdims=True)
        usual = scored.mean(axis=0)
        again = np.where(sums > 0, weight @ scored / np.maximum(sums, 1), usual)
        change += shares[cell] * (again - usual)
    return change


def alike(answers: Answers) -> Floats:
    """How many faces have the same answers as each, itself included, shape `(N,)`.

    They are one face, shown again and again. Rows are told apart by a random projection of all
    their probabilities.
    """
    rng = np.random.default_rng(0)
    key = np.zeros(answers.faces)
    for name in sorted(answers.probabilities):
        values = answers.probabilities[name]
        key += np.asarray(values, np.float64) @ rng.random(values.shape[1])
    _, number, count = np.unique(key, return_inverse=True, return_counts=True)
    found: Floats = count[number].astype(np.float64)
    return found


def imputed(given: Floats, times: Floats, shares: Floats, slopes: Floats, seed: int) -> Floats:
    """What the shares would be in each draw were its faces labelled, `(draws, k)`.

    Each face's class is drawn from its probabilities under the shares found, one class for all
    faces that are alike; of their sum only mean and covariance matter.

    Args:
        given: scores of the faces at the shares found, `(N, k)`.
        times: of `alike`.
        shares: found by EM without leaning, `(k,)`.
        slopes: mean scores in each draw, `(draws, k)`.
        seed: of the generator.
    """
    mean = times @ given / len(given)
    curve = (given * times[:, None]).T @ given / len(given)
    spread = (np.diag(shares * mean) - shares[:, None] * curve * shares) / len(given)
    values, vectors = np.linalg.eigh((spread + spread.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    noise = np.random.default_rng(seed).standard_normal(slopes.shape) @ root.T
    found: Floats = shares * slopes + noise
    return found


@dataclass(frozen=True, eq=False)
class ResampledEM:
    """EM for one axis, and again with images and calibration rows drawn again.

    Attributes:
        likelihood: of `em.ratios` for each face, `(N, cells)`.
        shares: without leaning, `(cells,)`.
        draws: of the shares, `(draws, cells)`.
    """

    likelihood: Floats
    shares: Floats
    draws: Floats


def resampled_em(
    axis: Axis, answers: Answers, table: CalibrationTable, times: Floats, seed: int
) -> ResampledEM:
    """EM with draws around it; `seed` and the images say which images each draw holds.

    Args:
        axis: whose cells.
        answers: of the collection.
        table: beside the weights that answered.
        times: how often each calibration row is drawn, `(draws, n)`.
        seed: of `resampled_means`.
    """
    known = axis.soft(table.probabilities)
    prior = known.mean(axis=0)
    likelihood = em.ratios(axis.soft(answers.probabilities), prior)
    found = em.fit(likelihood)
    given = em.scores(likelihood, found)
    curve = given.T @ given / len(given)
    scored = em.scores(em.ratios(known, prior), found)
    noise = gradient_noise(known, scored, axis.cell_of(table.true), found, curve, times)
    slopes = resampled_means(answers.image, given, len(times), seed) + noise
    curves = np.broadcast_to(curve, (len(times), *curve.shape))
    return ResampledEM(likelihood, found, minimise(curves, curve @ found + slopes))


def calibration_times(rows: int, draws: int, seed: int) -> Floats:
    """How often each calibration row is drawn, `(draws, rows)`; each draw has `rows` of them."""
    drawn = np.random.default_rng([seed, 1]).integers(rows, size=(draws, rows))
    drawn += rows * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows)
    return counts.astype(np.float64)
