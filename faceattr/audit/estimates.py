"""Numbers with their 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from faceattr.audit.answers import Floats

CONFIDENCE = 0.95
DRAWS = 500


@dataclass(frozen=True, eq=False)
class Estimates:
    """One number for each cell with its interval.

    Attributes:
        value: shape `(cells,)`.
        low: lower end of the interval; NaN where there is none.
        high: upper end.
        draws: what bootstrapping gave, shape `(draws, cells)`; for figures made of shares.
    """

    value: Floats
    low: Floats
    high: Floats
    draws: Floats = field(repr=False)

    def to_dict(self) -> list[dict[str, float | None]]:
        """`value`, `low`, `high` by cell, JSON-ready."""
        columns = {"value": self.value, "low": self.low, "high": self.high}
        return [
            {name: None if np.isnan(v[i]) else float(v[i]) for name, v in columns.items()}
            for i in range(len(self.value))
        ]


def interval(value: Floats, errors: Floats, low: float = 0.0, high: float = 1.0) -> Estimates:
    """Estimates with the interval that bootstrapped errors give, within `low` to `high`.

    Args:
        value: shape `(cells,)`.
        errors: estimate less truth in each draw, shape `(draws, cells)`.
        low: least possible value.
        high: largest possible value.
    """
    tail = (1 - CONFIDENCE) / 2
    below, above = np.quantile(errors, [tail, 1 - tail], axis=0)
    return Estimates(
        value,
        np.clip(value + np.minimum(below, 0), low, high),
        np.clip(value + np.maximum(above, 0), low, high),
        np.clip(value + errors, low, high),
    )


def exact(value: Floats, draws: int = DRAWS) -> Estimates:
    """Values that carry no error."""
    nowhere = np.full(len(value), np.nan)
    return Estimates(value, nowhere, nowhere, np.broadcast_to(value, (draws, len(value))))


def of_population(value: Floats, errors: Floats, images: int) -> Estimates:
    """Counted shares with the interval of the population that the images were drawn from.

    A cell that was never seen, or always, is so in each draw of the bootstrap too; its interval
    is Clopper and Pearson's for that many images.

    Args:
        value: shape `(cells,)`.
        errors: as `interval`.
        images: number of independent draws from the population.
    """
    found = interval(value, errors)
    least = ((1 - CONFIDENCE) / 2) ** (1 / images)
    return Estimates(
        value,
        np.where(value >= 1, np.minimum(found.low, least), found.low),
        np.where(value <= 0, np.maximum(found.high, 1 - least), found.high),
        found.draws,
    )


def holding(found: Estimates, other: Estimates) -> Estimates:
    """The same estimates, their intervals widened to hold another's; every second draw is its."""
    low, high = np.minimum(found.low, other.low), np.maximum(found.high, other.high)
    own = np.arange(len(found.draws))[:, None] % 2 == 0
    return Estimates(found.value, low, high, np.where(own, found.draws, other.draws))


def including(found: Estimates, value: Floats) -> Estimates:
    """The same interval for another value, widened to hold it; the draws move with the value."""
    low, high = np.minimum(found.low, value), np.maximum(found.high, value)
    return Estimates(value, low, high, np.clip(found.draws + value - found.value, 0, 1))
