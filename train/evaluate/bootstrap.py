"""Bootstrap intervals: faces drawn again with replacement, all statistics on the same draws.

Percentile intervals (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter
13). A statistic enters as a function of counts, so that all draws are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from train.evaluate.cells import CONFIDENCE

DRAWS = 1_000
SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Resamples:
    """How often each face occurs in each resample.

    Attributes:
        times: shape `(rows, draws)`; each column sums to `rows`.
    """

    times: NDArray[np.float32]

    @classmethod
    def draw(cls, rows: int, draws: int = DRAWS, seed: int = SEED) -> Resamples:
        """Draw `rows` faces with replacement, `draws` times."""
        drawn = np.random.default_rng(seed).integers(rows, size=(draws, rows))
        drawn += rows * np.arange(draws)[:, None]
        times = np.bincount(drawn.ravel(), minlength=draws * rows).reshape(draws, rows)
        return cls(np.ascontiguousarray(times.T, dtype=np.float32))

    @classmethod
    def once(cls, rows: int) -> Resamples:
        """The faces as they are, as the only draw."""
        return cls(np.ones((rows, 1), np.float32))

    def counts(self, cell: NDArray[np.int64], shape: tuple[int, ...]) -> Floats:
        """Count the faces of each cell in each resample.

        Args:
            cell: flat position in an array of `shape` for each face; shape `(rows,)`.
            shape: of one resample's counts.

        Returns:
            Shape `(draws, *shape)`.
        """
        rows, draws = self.times.shape
        ones = np.ones(rows, np.float32)
        member = csr_matrix((ones, (cell, np.arange(rows))), shape=(int(np.prod(shape)), rows))
        return np.asarray((member @ self.times).T, np.float64).reshape(draws, *shape)


def interval(values: Floats) -> dict[str, float | None]:
    """`low` and `high` of resampled values `(draws,)`; null where no draw has a value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {"low": None, "high": None}
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}


def estimates(
    statistics: Callable[[Floats], Mapping[str, Floats]], counts: Floats, drawn: Floats
) -> dict[str, dict[str, Any]]:
    """Statistics of the faces as they are, with their intervals: `value`, `low`, `high`.

    Args:
        statistics: from counts `(draws, ...)` to named values `(draws,)`.
        counts: of `Resamples.once`, shape `(1, ...)`.
        drawn: of `Resamples.draw`, shape `(draws, ...)`.
    """
    found, resampled = statistics(counts), statistics(drawn)
    return {
        name: {
            "value": float(value[0]) if np.isfinite(value[0]) else None,
            **interval(resampled[name]),
        }
        for name, value in found.items()
    }
