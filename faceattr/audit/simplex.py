"""Quadratic problems on the simplex, many small ones at once: where shares are solved for."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_RIDGE = 1e-12
"""Relative; it decides between solutions that fit equally well."""


def _on_support(gram: Floats, linear: Floats, free: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Solutions `(n, k)` that sum to 1 with zeros outside `free`, and their multipliers `(n,)`."""
    n, k = linear.shape
    system = np.zeros((n, k + 1, k + 1))
    both = free[:, :, None] & free[:, None, :]
    system[:, :k, :k] = np.where(both, gram, 0.0)
    system[:, :k, :k] += np.eye(k) * ~free[:, :, None]
    system[:, :k, k] = free
    system[:, k, :k] = free
    right = np.concatenate([np.where(free, linear, 0.0), np.ones((n, 1))], axis=1)
    solved = np.linalg.solve(system, right[:, :, None])[:, :, 0]
    return solved[:, :k], solved[:, k]


def minimise(gram: Floats, linear: Floats) -> Floats:
    """Shares q that minimise `q @ gram @ q / 2 - linear @ q` with `q >= 0` and `sum(q) == 1`.

    An active-set method on all problems at once: shares that come out negative are fixed at zero,
    the most negative first; one whose gradient says so is freed again.

    Args:
        gram: symmetric, positive semi-definite, shape `(n, k, k)`.
        linear: shape `(n, k)`.

    Returns:
        Shape `(n, k)`, each row on the simplex.
    """
    n, k = linear.shape
    scale = np.trace(gram, axis1=1, axis2=2)[:, None, None] / k
    gram = gram + (_RIDGE * scale + 1e-300) * np.eye(k)
    free = np.ones((n, k), np.bool_)
    found = np.zeros((n, k))
    todo = np.arange(n)
    # Each round fixes or frees one share of each open problem; a cycle ends at the bound.
    for _ in range(6 * k):
        values, multiplier = _on_support(gram[todo], linear[todo], free[todo])
        found[todo] = values
        worst = values.argmin(axis=1)
        negative = values[np.arange(len(todo)), worst] < -1e-12
        slope = np.einsum("nij,nj->ni", gram[todo], values) - linear[todo] + multiplier[:, None]
        slope[free[todo]] = np.inf
        lowest = slope.argmin(axis=1)
        tolerance = 1e-10 * (1 + np.abs(linear[todo]).max(axis=1))
        freed = ~negative & (slope[np.arange(len(todo)), lowest] < -tolerance)
        free[todo[negative], worst[negative]] = False
        free[todo[freed], lowest[freed]] = True
        todo = todo[negative | freed]
        if not len(todo):
            break
    found = np.maximum(found, 0.0)
    shares: Floats = found / found.sum(axis=1, keepdims=True)
    return shares


def minimise_sum(gram: Floats, linear: Floats) -> Floats:
    """As `minimise`, but the shares need only sum to 1: they may be negative."""
    n, k = linear.shape
    scale = np.trace(gram, axis1=1, axis2=2)[:, None, None] / k
    gram = gram + (_RIDGE * scale + 1e-300) * np.eye(k)
    return _on_support(gram, linear, np.ones((n, k), np.bool_))[0]
