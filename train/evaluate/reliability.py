"""How far probabilities can be trusted: calibration, and answering only when sure. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.labels import TASKS, Task
from train.evaluate.calibration import AIMED_ACCURACY, fit_threshold
from train.evaluate.cells import Cell
from train.evaluate.predictions import Predictions

BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 5."""

CHANCE_DRAWS = 1_000
"""For the calibration error that is chance's doing; seed fixed."""

COVERAGE_STEPS = 50
"""Points of a risk-coverage curve, evenly spaced up to 1."""


def _bin(top: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)
    return found


def _error_if_calibrated(top: NDArray[np.float64], bins: int) -> dict[str, float]:
    """The error that chance alone gives a perfectly calibrated model with these probabilities.

    Answers are drawn right with exactly the probability claimed; mean and 95th percentile of
    the error over `CHANCE_DRAWS` such draws.
    """
    order = np.argsort(top)
    claims = top[order]
    _, starts = np.unique(_bin(claims, bins), return_index=True)
    right = np.random.default_rng(0).random((CHANCE_DRAWS, len(top))) < claims
    gaps = np.add.reduceat(right - claims, starts, axis=1)
    errors = np.abs(gaps).sum(axis=1) / len(top)
    return {"mean": float(errors.mean()), "p95": float(np.quantile(errors, 0.95))}


def calibration_error(
    top: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS
) -> float:
    """Expected calibration error of the top probability (Guo et al., ICML 2017, section 2).

    The mean over equal-width bins of |accuracy - mean top probability|, weighted by faces; a
    bin holds its upper edge. 0 means that of the faces given a probability p, a share p is right.
    """
    gaps = np.bincount(_bin(top, bins), correct - top, bins)
    return float(np.abs(gaps).sum() / len(top))


def brier_score(probabilities: NDArray[np.float64], true: NDArray[np.int64]) -> float:
    """Mean over faces of the squared distance from the label's one-hot vector, 0 to 2.

    G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78 (1950), in its original form: summed over all classes.
    """
    distance = probabilities - np.eye(probabilities.shape[1])[true]
    return float((distance**2).sum(axis=1).mean())


def calibration(
    probabilities: NDArray[np.float64], true: NDArray[np.int64], bins: int = BINS
) -> dict[str, Any]:
    """Calibration error, Brier score and accuracy of one head; null for no faces.

    From probabilities `(n, classes)`, class positions `(n,)` and the number of bins in 0 to 1.
    """
    if len(true) == 0:
        names = ("accuracy", "confidence", "expected_calibration_error", "if_calibrated", "brier")
        return {"n": 0, **dict.fromkeys(names)}
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    return {
        "n": len(true),
        "accuracy": float(correct.mean()),
        "confidence": float(top.mean()),
        "expected_calibration_error": calibration_error(top, correct, bins),
        "if_calibrated": _error_if_calibrated(top, bins),
        "brier": brier_score(probabilities, true),
    }


def reliability(
    probabilities: NDArray[np.float64], true: NDArray[np.int64], bins: int = BINS
) -> list[dict[str, Any]]:
    """The reliability diagram of one head: accuracy and mean top probability of each bin."""
    top, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    place, found = _bin(top, bins), []
    for index in range(bins):
        inside = place == index
        entry: dict[str, Any] = {"from": index / bins, "to": (index + 1) / bins}
        entry |= {"n": int(inside.sum()), "confidence": None, "accuracy": None}
        if inside.any():
            entry["confidence"] = float(top[inside].mean())
            entry["accuracy"] = float(correct[inside].mean())
        found.append(entry)
    return found


def _members(predictions: Predictions, attribute: Task) -> list[tuple[str, NDArray[np.bool_]]]:
    labels = predictions.true[attribute.name]
    return [(name, labels == index) for index, name in enumerate(attribute.classes)]


def calibrations(predictions: Predictions) -> dict[str, Any]:
    """Each head's calibration on all faces, and by gender, age and race of their labels."""
    found: dict[str, Any] = {"bins": BINS}
    for task in TASKS:
        values, true = predictions.probabilities[task.name], predictions.true[task.name]
        by_group = {
            attribute.name: [
                {"class": name, **calibration(values[rows], true[rows])}
                for name, rows in _members(predictions, attribute)
            ]
            for attribute in TASKS
        }
        whole = {**calibration(values, true), "reliability": reliability(values, true)}
        found[task.name] = {**whole, "by_group": by_group}
    return found


def risk_coverage(top: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Accuracy of the surest answers against the share of faces answered.

    Geifman and El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
    `area` is the mean over all coverages 1/n, 2/n ... 1 of the share that is wrong (Geifman,
    Uziel and El-Yaniv, ICLR 2019, section 4); lower is better.

    Args:
        top: probability of each answer, shape `(n,)`.
        correct: whether it is the label, shape `(n,)`.
    """
    order = np.argsort(-top, kind="stable")
    right = np.cumsum(correct[order]) / np.arange(1, len(top) + 1)
    shares = np.linspace(1 / COVERAGE_STEPS, 1, COVERAGE_STEPS)
    last = np.maximum(np.ceil(shares * len(top) - 1e-9).astype(np.int64), 1) - 1
    return {
        "area": float(1 - right.mean()),
        "curve": [
            {
                "coverage": float((index + 1) / len(top)),
                "probability": float(top[order[index]]),
                "accuracy": float(right[index]),
            }
            for index in last
        ],
    }


def _answered(
    sure: NDArray[np.bool_], correct: NDArray[np.bool_], rows: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "coverage": Cell.of(sure[rows]).to_dict(),
        "accuracy": Cell.of(correct[rows & sure]).to_dict(),
    }


def selective(predictions: Predictions, task: Task) -> dict[str, Any]:
    """What is gained by answering only when the top probability reaches a threshold.

    `stored` is the threshold that travels with the weights, fitted on the holdout: the share of
    these faces that it lets pass, and the accuracy of their answers. `here` is the threshold that
    would reach the same aimed accuracy on these faces; it is for comparison only.
    """
    top = predictions.probabilities[task.name].max(axis=1)
    correct = predictions.correct(task)
    stored = float(predictions.metadata["config"]["thresholds"][task.name])
    aimed = AIMED_ACCURACY[task.name]
    here = fit_threshold(top, correct, aimed)
    sure = top >= stored
    everyone = np.ones(len(top), np.bool_)
    return {
        "aimed_accuracy": aimed,
        "stored": {
            "threshold": stored,
            **_answered(sure, correct, everyone),
            "by_group": {
                attribute.name: [
                    {"class": name, **_answered(sure, correct, rows)}
                    for name, rows in _members(predictions, attribute)
                ]
                for attribute in TASKS
            },
        },
        "here": {"threshold": here, "coverage": float((top >= here).mean())},
        **risk_coverage(top, correct),
    }
