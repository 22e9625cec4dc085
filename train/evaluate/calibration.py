"""What is fitted on holdout rows after training: temperatures and thresholds. No torch.

Temperature scaling: Guo et al., ICML 2017, section 4.2. Thresholds: selective classification
(Geifman and El-Yaniv, NeurIPS 2017). Logit adjustment: Menon et al., ICLR 2021, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

AIMED_ACCURACY = {"gender": 0.95, "age": 0.80, "race": 0.80}
"""By task, the accuracy that answers at or above the threshold reach on the holdout."""

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0)


def fit_adjustment(
    logits: NDArray[np.floating[Any]],
    targets: NDArray[np.integer[Any]],
    shares: NDArray[np.floating[Any]],
    most_lost: float,
) -> float:
    """The τ by which rare classes are answered more often, as far as that costs little.

    τ times the log of `shares` is taken off the logits. Of `TAUS` it is the one whose worst class
    is answered best, of equal ones the least.

    Args:
        logits: of holdout rows, `(N, classes)`.
        targets: their classes, `(N,)`.
        shares: of each class among the training rows, `(classes,)`, above 0.
        most_lost: share of the holdout rows that may be answered wrongly for it.
    """

    def found(tau: float) -> tuple[float, float]:
        right = (logits - tau * np.log(shares)).argmax(1) == targets
        return min(float(right[targets == c].mean()) for c in present), float(right.mean())

    present = np.unique(targets)
    least = found(0.0)[1] - most_lost - 1e-9
    allowed = [tau for tau in TAUS if found(tau)[1] >= least]
    return max(allowed, key=lambda tau: (found(tau)[0], -tau))


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


def fit_threshold(
    top: NDArray[np.floating[Any]], correct: NDArray[np.bool_], accuracy: float
) -> float:
    """The lowest probability at and above which answers are right in a share `accuracy`.

    1.0, so that nothing short of certainty passes, when no share of the answers reaches it.

    Args:
        top: probability of each answer, shape `(n,)`.
        correct: whether it is the label, shape `(n,)`.
        accuracy: share to reach, 0 to 1.
    """
    order = np.argsort(-top, kind="stable")
    right = np.cumsum(correct[order]) / np.arange(1, len(top) + 1)
    ranked = top[order]
    # Answers of equal probability pass together or not at all.
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    reached = np.flatnonzero((right >= accuracy) & last_of_equals)
    if not len(reached):
        return 1.0
    # Rounded down, so that rounding leaves nothing out.
    return float(np.floor(ranked[reached[-1]] * 1e4) / 1e4)


def fit(
    task: str, logits: NDArray[np.floating[Any]], targets: NDArray[np.integer[Any]]
) -> tuple[float, float]:
    """Temperature and threshold of one head from its holdout logits `(N, classes)`."""
    temperature = fit_temperature(logits, targets)
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    correct = probabilities.argmax(axis=1) == targets
    return temperature, fit_threshold(probabilities.max(axis=1), correct, AIMED_ACCURACY[task])
