"""Made-up faces whose answers come from known classes."""

import numpy as np

from faceattr.audit.answers import Answers
from faceattr.audit.calibration import CalibrationTable
from faceattr.labels import TASKS


def faces(n, shares=None, seed=0, sharpness=2.5):
    """Labels and calibrated probabilities by task of n faces.

    Scores are normal around the class with equal spread, so that the probabilities under equal
    class shares are exact.
    """
    rng = np.random.default_rng(seed)
    true, probabilities = {}, {}
    for task in TASKS:
        k = len(task.classes)
        wanted = (shares or {}).get(task.name, np.full(k, 1 / k))
        true[task.name] = rng.choice(k, size=n, p=wanted)
        scores = rng.normal(size=(n, k)) + sharpness * np.eye(k)[true[task.name]]
        values = np.exp(sharpness * scores)
        probabilities[task.name] = values / values.sum(axis=1, keepdims=True)
    return true, probabilities


def table(n=3000, seed=100, sharpness=2.5):
    """A calibration table of n faces with equal class shares."""
    true, probabilities = faces(n, seed=seed, sharpness=sharpness)
    return CalibrationTable("ab" * 32, {"id": "made up"}, true, probabilities)


def collection(n, shares=None, seed=0, sharpness=2.5, per_image=1):
    """Answers of a collection, and its labels."""
    true, probabilities = faces(n, shares, seed, sharpness)
    return Answers(probabilities, np.arange(n) // per_image), true


def share(codes, k):
    """Shares of k classes."""
    return np.bincount(codes, minlength=k) / len(codes)
