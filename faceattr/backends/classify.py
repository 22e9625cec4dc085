"""Face chips through a classifier: the pipeline, the audit and `python -m train predict`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from faceattr.backends.load import Classifier

Floats = NDArray[np.float32]


def classify(
    classifier: Classifier, chips: Sequence[NDArray[np.uint8]], *, mirror: bool = False
) -> dict[str, Floats]:
    """Calibrated probabilities `(N, classes)` by task, in the order of `faceattr.labels`.

    Args:
        classifier: a network; it decides how many chips pass it together.
        chips: RGB uint8, square, of any size; at least one.
        mirror: whether answers are those of the mean of the logits of a chip and its mirror image.
    """
    return ask(classifier, classifier.config.preprocessing.to_pixels(chips), mirror=mirror)


def ask(classifier: Classifier, pixels: NDArray[np.uint8], *, mirror: bool) -> dict[str, Floats]:
    """As `classify`, of pixels `(N, side, side, 3)` in the network's own size."""
    found = classifier.probabilities(pixels)
    if mirror:
        others = classifier.probabilities(np.ascontiguousarray(pixels[:, :, ::-1]))
        found = {name: _of_mean_logits(part, others[name]) for name, part in found.items()}
    return found


def _of_mean_logits(one: Floats, other: Floats) -> Floats:
    """Probabilities `(N, classes)` of the mean of the logits that two sets of them come from."""
    product = np.sqrt(one.astype(np.float64) * other)
    # In float32 a probability can be 0 in one set where the other has its whole mass.
    product += np.finfo(np.float32).tiny
    joined: Floats = (product / product.sum(1, keepdims=True)).astype(np.float32)
    return joined
