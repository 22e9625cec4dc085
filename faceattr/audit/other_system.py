"""How often another system is right, by perceived group that only a classifier knows.

Who is in a group is known from our answers up to their errors, and whether these go together with
the other system's errors is not known at all. So without an assumption a group's rate is only
bounded, however many faces there are (Kallus, Mao and Zhou, Management Science 2022): within each
stratum of our answers the right and the wrong faces may be spread over the groups in any way that
fits. The bounds here are sharp for the strata used, and so are those of differences. A single
number needs an assumption; the one made is that faces of a group look the same to our classifier
whether the other system is right about them or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from faceattr.audit import em
from faceattr.audit.answers import Answers, Axis, Codes, Floats
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.estimates import CONFIDENCE, DRAWS
from faceattr.audit.measures import Interval
from faceattr.audit.resampling import (
    ResampledEM,
    calibration_times,
    resampled_em,
    resampled_means,
)
from faceattr.errors import AuditError

STRATUM = 50
"""Faces that a stratum of answers holds at least, where there are so many."""
_LEVELS = 4
_Z = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """A group's rate, or the difference of two groups' rates.

    Attributes:
        name: of the group, or of both.
        counted: among the faces that our classifier puts there, None without any; Wilson's interval
            for a group.
        estimate: under the assumption, with its interval; None where no face is left.
        low: lower bound without it.
        high: upper bound.
        interval: 95 % interval that holds both bounds: images and calibration rows drawn again.
    """

    name: str
    counted: Interval | None
    estimate: Interval | None
    low: float
    high: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "counted": None if self.counted is None else self.counted.to_dict(),
            "estimate": None if self.estimate is None else self.estimate.to_dict(),
            "bounds": {"low": self.low, "high": self.high},
            "interval": {"low": self.interval[0], "high": self.interval[1]},
        }


@dataclass(frozen=True)
class Rates:
    """Rates of all groups of an axis.

    Attributes:
        axis: whose cells are the groups.
        faces: how many have an outcome.
        overall: rate among all of them.
        groups: one for each cell.
        differences: of each pair of cells, the first less the second.
    """

    axis: Axis
    faces: int
    overall: float
    groups: tuple[Rate, ...]
    differences: tuple[Rate, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "axis": self.axis.name,
            "faces": self.faces,
            "overall": self.overall,
            "groups": [rate.to_dict() for rate in self.groups],
            "differences": [rate.to_dict() for rate in self.differences],
        }


def bounds(mass: Floats, right: Floats, member: Floats) -> tuple[Floats, Floats]:
    """Least and largest rate of each group (Kallus, Mao and Zhou 2022, proposition 2).

    Args:
        mass: share of the faces in each of S strata, shape `(..., S)`.
        right: rate within each, shape `(..., S)`.
        member: share of each of G groups within each, shape `(..., S, G)`.

    Returns:
        Two arrays `(..., G)`; of an empty group 0 and 1.
    """
    size = np.einsum("...s,...sg->...g", mass, member)
    least = np.maximum(right[..., None] + member - 1, 0)
    most = np.minimum(right[..., None], member)
    some = np.maximum(size, 1e-12)
    low = np.einsum("...s,...sg->...g", mass, least) / some
    high = np.einsum("...s,...sg->...g", mass, most) / some
    return np.where(size > 1e-12, low, 0.0), np.where(size > 1e-12, np.minimum(high, 1), 1.0)


def _strata(
    shown: Codes, sure: Floats, known_shown: Codes, known_sure: Floats
) -> tuple[Codes, Codes]:
    """Strata of the collection's and the calibration rows' answers: class and confidence."""
    found, known = np.zeros(len(shown), np.int64), np.zeros(len(known_shown), np.int64)
    first = 0
    for cell in range(int(max(shown.max(), known_shown.max())) + 1):
        rows, others = shown == cell, known_shown == cell
        levels = int(np.clip(rows.sum() // STRATUM, 1, _LEVELS))
        edges = np.quantile(sure[rows], np.arange(1, levels) / levels) if levels > 1 else []
        found[rows] = first + np.searchsorted(edges, sure[rows])
        known[others] = first + np.searchsorted(edges, known_sure[others])
        first += levels
    return found, known


@dataclass(frozen=True, eq=False)
class _Stratified:
    """What the bounds are made of; S strata, G groups; first as found, then for each draw."""

    mass: Floats  # (S,), (draws, S)
    right: Floats
    member: Floats  # (S, G), (draws, S, G)


def _found(stratum: Codes, right: Floats, posterior: Floats, strata: int) -> _Stratified:
    shown = np.eye(strata)[stratum]
    count = np.maximum(shown.sum(axis=0), 1e-12)
    return _Stratified(
        shown.mean(axis=0), right @ shown / count, (shown.T @ posterior) / count[:, None]
    )


def _drawn(
    found: _Stratified,
    image: Codes,
    stratum: Codes,
    right: Floats,
    shares: ResampledEM,
    rates: tuple[Floats, Floats],
    seed: int,
) -> _Stratified:
    """The strata of each draw.

    A group's share within a stratum follows EM's shares of the draw and how the calibration rows
    of the group are spread over the strata in it.
    """
    strata = len(found.mass)
    shown = np.eye(strata)[stratum]
    features = np.concatenate([shown, shown * right[:, None]], axis=1)
    means = resampled_means(image, features, len(shares.draws), seed)
    mass = means[:, :strata]
    rate = means[:, strata:] / np.maximum(mass, 1e-12)
    ratio = shares.draws / np.maximum(shares.shares, 1e-6)
    usual, again = rates
    member = found.member * ratio[:, None, :] * again / usual
    total = member.sum(axis=2, keepdims=True)
    return _Stratified(mass, rate, np.where(total > 0, member / np.maximum(total, 1e-12), 0))


def _spread(stratum: Codes, true: Codes, strata: int, groups: int, times: Floats) -> Floats:
    """Share of each stratum among the calibration rows of each group, `(draws, S, G)`.

    Half a row is added to each cell, so that one that no row fell into stays possible.
    """
    pair = np.zeros((len(true), strata * groups))
    pair[np.arange(len(true)), stratum * groups + true] = 1
    counts = (times @ pair).reshape(-1, strata, groups) + 0.5
    spread: Floats = counts / counts.sum(axis=1, keepdims=True)
    return spread


def _estimates(
    axis: Axis, answers: Answers, right: Floats, table: CalibrationTable, times: Floats, seed: int
) -> tuple[Floats, Floats]:
    """Rates under the assumption `(G,)` and in each draw: EM for right and wrong faces apart."""
    parts, drawn = [], []
    overall = resampled_means(answers.image, right[:, None], len(times), seed)
    for outcome, share, shares in (
        (1.0, right.mean(), overall),
        (0.0, 1 - right.mean(), 1 - overall),
    ):
        rows = right == outcome
        if not rows.any():
            parts.append(np.zeros(len(axis.cells)))
            drawn.append(np.zeros((len(times), len(axis.cells))))
            continue
        found = resampled_em(axis, answers.select(rows), table, times, seed)
        parts.append(share * found.shares)
        drawn.append(shares * found.draws)

    def ratio(good: Floats, bad: Floats) -> Floats:
        total = good + bad
        rate: Floats = np.where(total > 1e-9, good / np.maximum(total, 1e-9), np.nan)
        return rate

    return ratio(parts[0], parts[1]), ratio(drawn[0], drawn[1])


def _wilson(right: float, faces: float) -> Interval | None:
    if not faces:
        return None
    rate, square = right / faces, _Z**2 / faces
    centre = (rate + square / 2) / (1 + square)
    half = _Z / (1 + square) * np.sqrt(rate * (1 - rate) / faces + square / (4 * faces))
    return Interval(rate, float(max(centre - half, 0)), float(min(centre + half, 1)))


def _with_interval(value: float, draws: Floats) -> Interval | None:
    known = draws[np.isfinite(draws)]
    if np.isnan(value) or not len(known):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(value), min(float(low), float(value)), max(float(high), float(value)))


def _apart(first: Interval | None, second: Interval | None) -> Interval | None:
    """The difference of two groups' counted rates."""
    if first is None or second is None:
        return None
    return Interval(first.value - second.value, None, None)


def _ends(low: Floats, high: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    return float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail))


def rates_by_group(
    answers: Answers,
    right: np.ndarray[Any, np.dtype[np.bool_]],
    table: CalibrationTable,
    axis: Axis,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Rates:
    """How often another system is right by group, with bounds and intervals.

    The intervals are those of the population that the images were drawn from.

    Args:
        answers: of our classifier for the faces that the other system answered.
        right: whether it was right about each, shape `(N,)`.
        table: beside our weights.
        axis: whose cells are the groups.
        draws: of the bootstrap.
        seed: of the generator.

    Raises:
        AuditError: without faces, or where the lengths differ.
    """
    if not answers.faces or len(right) != answers.faces:
        raise AuditError(f"expected an outcome for each face, came {len(right)}, {answers.faces}")
    outcome = right.astype(np.float64)
    times = calibration_times(table.rows, draws, seed)
    shares = resampled_em(axis, answers, table, times, seed)
    posterior = em.scores(shares.likelihood, shares.shares) * shares.shares
    soft, known = axis.soft(answers.probabilities), axis.soft(table.probabilities)
    shown = axis.predicted(answers.probabilities)
    stratum, known_stratum = _strata(
        shown, soft.max(axis=1), axis.predicted(table.probabilities), known.max(axis=1)
    )
    strata = int(max(stratum.max(), known_stratum.max())) + 1
    found = _found(stratum, outcome, posterior, strata)
    truth, groups = axis.cell_of(table.true), len(axis.cells)
    spread = (
        _spread(known_stratum, truth, strata, groups, np.ones((1, table.rows))),
        _spread(known_stratum, truth, strata, groups, times),
    )
    drawn = _drawn(found, answers.image, stratum, outcome, shares, spread, seed)
    ends = bounds(found.mass, found.right, found.member)
    drawn_ends = bounds(drawn.mass, drawn.right, drawn.member)
    point = _estimates(axis, answers, outcome, table, times, seed)
    counts = np.bincount(shown, minlength=groups)
    hits = np.bincount(shown, weights=outcome, minlength=groups).astype(np.float64)
    return _assembled(axis, float(outcome.mean()), counts, hits, ends, drawn_ends, point)


def _assembled(
    axis: Axis,
    overall: float,
    counts: Codes,
    hits: Floats,
    ends: tuple[Floats, Floats],
    drawn: tuple[Floats, Floats],
    point: tuple[Floats, Floats],
) -> Rates:
    counted = [_wilson(float(h), float(n)) for h, n in zip(hits, counts, strict=True)]
    (low, high), (lows, highs) = ends, drawn
    groups = tuple(
        Rate(
            name,
            counted[i],
            _with_interval(point[0][i], point[1][:, i]),
            float(low[i]),
            float(high[i]),
            _ends(lows[:, i], highs[:, i]),
        )
        for i, name in enumerate(axis.cells)
    )
    differences = tuple(
        Rate(
            f"{axis.cells[i]} - {axis.cells[j]}",
            _apart(counted[i], counted[j]),
            _with_interval(point[0][i] - point[0][j], point[1][:, i] - point[1][:, j]),
            float(low[i] - high[j]),
            float(high[i] - low[j]),
            _ends(lows[:, i] - highs[:, j], highs[:, i] - lows[:, j]),
        )
        for i, j in combinations(range(len(axis.cells)), 2)
    )
    return Rates(axis, int(counts.sum()), overall, groups, differences)
