"""Figures made of shares: imbalance, difference to a reference, association with groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceattr.audit.answers import Axis, Codes, Floats
from faceattr.audit.estimates import CONFIDENCE, Estimates
from faceattr.errors import AuditError

LEAST_COUNT = 30
"""Faces below which a group's cell is marked as too small to read anything into."""

MEASURES: Mapping[str, str] = {
    "max_ratio": "Max ratio",
    "min_ratio": "Min ratio",
    "ratio_range": "Ratio range",
    "coefficient_of_variation": "Coefficient of variation",
    "entropy": "Entropy (bits)",
    "gini": "Gini index",
}
"""Keys of `imbalance` with their headings."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; None where there is none."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready."""
        return {"value": self.value, "low": self.low, "high": self.high}


def figures(shares: Floats) -> dict[str, Floats]:
    """The six figures of imbalance of shares `(..., C)` that sum to 1, each `(...)`.

    With mean m = 1 / C: the largest and smallest share, their difference, the population's
    standard deviation over m, the entropy in bits (balanced: log2 C) and 1 less the sum of squares
    (balanced: 1 - 1 / C).
    """
    largest, smallest = shares.max(axis=-1), shares.min(axis=-1)
    logs = np.log2(np.where(shares > 0, shares, 1.0))
    return {
        "max_ratio": largest,
        "min_ratio": smallest,
        "ratio_range": largest - smallest,
        "coefficient_of_variation": shares.std(axis=-1) * shares.shape[-1],
        "entropy": -(shares * logs).sum(axis=-1),
        "gini": 1 - (shares**2).sum(axis=-1),
    }


def _interval(value: float, draws: Floats) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))


def imbalance(shares: Estimates) -> dict[str, Interval]:
    """The six figures of an axis with intervals; without where the shares carry no error.

    The interval holds the value always. A figure such as the range grows with any noise in the
    shares, so the interval of nearly balanced shares lies above the value for the most part.
    """
    values = figures(shares.value)
    if np.isnan(shares.low).all():
        return {name: Interval(float(value), None, None) for name, value in values.items()}
    total = shares.draws.sum(axis=1, keepdims=True)
    drawn = figures(shares.draws / np.where(total > 0, total, 1.0))
    return {name: _interval(float(values[name]), drawn[name]) for name in values}


def reference_shares(axis: Axis, reference: Mapping[str, float] | str) -> Floats:
    """What shares are compared with, in the order of the axis's cells.

    Args:
        axis: whose cells.
        reference: "uniform", or a share or count for each cell by name; they are scaled to sum
            to 1.

    Raises:
        AuditError: for missing, unknown, negative or no counts.
    """
    if reference == "uniform":
        return np.full(len(axis.cells), 1 / len(axis.cells))
    if isinstance(reference, str):
        raise AuditError(f"expected 'uniform' or a share for each cell, came {reference!r}")
    if set(reference) != set(axis.cells):
        raise AuditError(
            f"a reference for {axis.name} names each of {list(axis.cells)} once, came "
            f"{list(reference)}"
        )
    found = np.array([float(reference[cell]) for cell in axis.cells])
    if not np.isfinite(found).all() or (found < 0).any() or found.sum() <= 0:
        raise AuditError(f"the reference for {axis.name} must be counts or shares of at least 0")
    shares: Floats = found / found.sum()
    return shares


def differences(shares: Estimates, reference: Floats) -> list[Interval]:
    """Share less reference for each cell, in the order of the axis, with intervals."""
    rows = zip(
        shares.value - reference, shares.low - reference, shares.high - reference, strict=True
    )
    return [
        Interval(
            float(v), None if np.isnan(low) else float(low), None if np.isnan(high) else float(high)
        )
        for v, low, high in rows
    ]


def total_variation(shares: Estimates, reference: Floats) -> Interval:
    """Half the sum of absolute differences to a reference: the share that would have to change."""

    def distance(found: Floats) -> Floats:
        half: Floats = np.abs(found - reference).sum(axis=-1) / 2
        return half

    value = float(distance(shares.value))
    if np.isnan(shares.low).all():
        return Interval(value, None, None)
    return _interval(value, distance(shares.draws))


def cramers_v(counts: Floats) -> Floats:
    """Cramér's V of tables `(..., groups, cells)`, corrected for its bias (Bergsma 2013).

    0 for no association, 1 for a group that says the cell. Empty rows and columns do not count.
    NaN where less than two of either are left.
    """
    total = counts.sum(axis=(-2, -1))
    rows, columns = counts.sum(axis=-1), counts.sum(axis=-2)
    n = np.maximum(total, 1e-12)
    expected = rows[..., :, None] * columns[..., None, :] / n[..., None, None]
    square = np.where(
        expected > 0, (counts - expected) ** 2 / np.where(expected > 0, expected, 1), 0
    )
    phi = square.sum(axis=(-2, -1)) / n
    r, c = (rows > 0).sum(axis=-1), (columns > 0).sum(axis=-1)
    less = np.maximum(n - 1, 1)
    phi = np.maximum(phi - (r - 1) * (c - 1) / less, 0)
    smaller = np.minimum(r - (r - 1) ** 2 / less, c - (c - 1) ** 2 / less) - 1
    known = (np.minimum(r, c) > 1) & (smaller > 0)
    found: Floats = np.where(known, np.sqrt(phi / np.where(known, smaller, 1)), np.nan)
    return np.minimum(found, 1.0)


@dataclass(frozen=True, eq=False)
class Association:
    """How an axis goes with groups.

    Attributes:
        axis: whose cells.
        groups: names.
        counts: faces by group and cell of their likeliest classes, `(groups, cells)`.
        small: where a count is below `LEAST_COUNT`: shown, and marked.
        cramers_v: with an interval over images drawn again; None where it cannot be computed.
    """

    axis: Axis
    groups: tuple[str, ...]
    counts: Codes
    small: np.ndarray[Any, np.dtype[np.bool_]]
    cramers_v: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "axis": self.axis.name,
            "groups": list(self.groups),
            "cells": list(self.axis.cells),
            "counts": self.counts.tolist(),
            "small": self.small.tolist(),
            "least_count": LEAST_COUNT,
            "cramers_v": None if self.cramers_v is None else self.cramers_v.to_dict(),
        }


def association(
    axis: Axis,
    cells: Codes,
    group: Codes,
    groups: Sequence[str],
    image: Codes,
    *,
    draws: int = 500,
    seed: int = 0,
) -> Association:
    """A table of groups and cells as counted, with Cramér's V.

    Args:
        axis: whose cells.
        cells: of each face, shape `(N,)`.
        group: of each face, position among `groups`; -1 for none, which is left out.
        groups: their names.
        image: of each face; images are drawn again for the interval.
        draws: of the bootstrap.
        seed: of the generator.
    """
    kept = group >= 0
    size = (len(groups), len(axis.cells))
    flat = group[kept] * size[1] + cells[kept]
    counts = np.bincount(flat, minlength=size[0] * size[1]).reshape(size)
    found = None
    value = float(cramers_v(counts.astype(np.float64)))
    if not np.isnan(value):
        drawn = _drawn_tables(flat, image[kept], size, draws, seed)
        values = cramers_v(drawn)
        found = _interval(value, values[np.isfinite(values)])
    return Association(axis, tuple(groups), counts, counts < LEAST_COUNT, found)


def _drawn_tables(
    flat: Codes, image: Codes, size: tuple[int, int], draws: int, seed: int
) -> Floats:
    """Tables of images drawn again, `(draws, groups, cells)`; memory of one table a draw."""
    number = np.unique(image, return_inverse=True)[1]
    images = int(number.max()) + 1
    rng = np.random.default_rng(seed)
    tables = np.empty((draws, *size))
    for draw in range(draws):
        times = rng.poisson(1.0, images)
        tables[draw] = np.bincount(
            flat, weights=times[number], minlength=size[0] * size[1]
        ).reshape(size)
    return tables
