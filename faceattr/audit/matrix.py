"""Shares from counts and how often each class is taken for each other one (adjusted count)."""

from __future__ import annotations

import numpy as np

from faceattr.audit.answers import Codes, Floats
from faceattr.audit.simplex import minimise


def confusion(predicted: Codes, true: Codes, cells: int) -> Floats:
    """Share of each predicted cell among the faces of each true one, `(predicted, true)`."""
    counts = np.bincount(predicted * cells + true, minlength=cells * cells).reshape(cells, cells)
    found: Floats = counts / np.maximum(counts.sum(axis=0), 1)
    return found


def adjusted(rates: Floats, counted: Floats) -> Floats:
    """Shares whose mixture of the columns of `rates` is nearest to the counted ones.

    Args:
        rates: of `confusion`, shape `(n, cells, cells)`.
        counted: shape `(n, cells)`.

    Returns:
        Shape `(n, cells)`: least squares on the simplex (Bunse 2022).
    """
    gram = np.einsum("nij,nik->njk", rates, rates)
    return minimise(gram, np.einsum("nij,ni->nj", rates, counted))
