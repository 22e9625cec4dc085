"""Temperature scaling (Guo et al., ICML 2017, section 4.2) on holdout rows. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp


def negative_log_likelihood(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]], temperature: float
) -> float:
    """Mean cross-entropy in nats of `softmax(logits / temperature)`; logits `(N, classes)`."""
    scaled = logits.astype(np.float64) / temperature
    chosen = scaled[np.arange(len(targets)), targets]
    return float(np.mean(logsumexp(scaled, axis=1) - chosen))


def fit_temperature(logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]) -> float:
    """The temperature between 0.05 and 20 that minimises the negative log-likelihood."""
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, targets, float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return round(float(np.exp(found.x)), 4)
