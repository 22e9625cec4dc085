"""Shares under which classifier answers are likeliest: Saerens' EM, solved by Newton's method.

EM climbs the likelihood of the shares q, `mean(log(ratios @ q))`, which is concave; Newton's steps
on the simplex reach the same maximum in a handful of passes over the faces.
"""

from __future__ import annotations

import numpy as np

from faceattr.audit.answers import Floats
from faceattr.audit.simplex import minimise

_STEPS = 50
_TOLERANCE = 1e-9
_TINY = 1e-9


def ratios(probabilities: Floats, prior: Floats) -> Floats:
    """How much likelier each answer is for a face of a class than for any face, `(N, cells)`."""
    found: Floats = probabilities / np.maximum(prior, 1e-12)
    # A face that no cell explains would make every share impossible.
    return np.maximum(found, 1e-12)


def scores(likelihood: Floats, shares: Floats) -> Floats:
    """Gradient of each face's log likelihood by the shares, `(N, cells)`."""
    found: Floats = likelihood / (likelihood @ shares)[:, None]
    return found


def fit(likelihood: Floats, *, towards: Floats | None = None, strength: float = 0.0) -> Floats:
    """The likeliest shares.

    Args:
        likelihood: of `ratios`, shape `(N, cells)`.
        towards: shares to lean to, shape `(cells,)`; None for uniform ones.
        strength: weight of `towards` for each face, at least 0: the shares are those that `N *
            strength` more faces of a known class would give (a Dirichlet prior).

    Returns:
        Shape `(cells,)`, on the simplex.
    """
    n, k = likelihood.shape
    goal = np.full(k, 1 / k) if towards is None else towards / towards.sum()
    shares = np.full(k, 1 / k)

    def height(q: Floats) -> float:
        faces = float(np.log(np.maximum(likelihood @ q, 1e-300)).mean())
        return faces + strength * float(goal @ np.log(np.maximum(q, 1e-300)))

    now = height(shares)
    for _ in range(_STEPS):
        given = scores(likelihood, shares)
        curve = given.T @ given / n
        slope = given.mean(axis=0)
        if strength:
            held = np.maximum(shares, _TINY)
            slope = slope + strength * goal / held
            curve = curve + np.diag(strength * goal / held**2)
        step = minimise(curve[None], (curve @ shares + slope)[None])[0] - shares
        size = 1.0
        while (higher := height(shares + size * step)) < now - 1e-13 and size > 1e-4:
            size /= 2
        shares, now = shares + size * step, higher
        if np.abs(size * step).max() < _TOLERANCE:
            break
    return shares
