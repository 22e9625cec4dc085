"""Which weights of a run are kept: those that do best on the holdout, calibrated there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceattr import labels
from faceattr.config import ModelConfig
from faceattr.model import FaceAttributeModel
from faceattr.preprocessing import Preprocessing
from train.data.source import Rows
from train.evaluate.calibration import fit as fit_calibration
from train.evaluate.calibration import fit_temperature, negative_log_likelihood
from train.evaluate.predict import logits_of
from train.fit.losses import task_losses


@dataclass(frozen=True, eq=False)
class Measured:
    """Weights on the holdout: accuracy and loss (nats) by task, logits and targets of its rows."""

    image_size: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    logits: dict[str, torch.Tensor]
    targets: NDArray[np.int64]

    def calibrated_losses(self) -> dict[str, float]:
        """Losses in nats by task after each head's own temperature.

        Without it, weights that give softer answers (smoothing, mixing, teachers) would be judged
        by a confidence that calibration mends anyway.
        """
        losses = {}
        for column, task in enumerate(labels.TASKS):
            logits, targets = self.logits[task.name].numpy(), self.targets[:, column]
            temperature = fit_temperature(logits, targets)
            losses[task.name] = round(negative_log_likelihood(logits, targets, temperature), 6)
        return losses

    def score(self) -> float:
        """What weights are selected by: the sum of the calibrated losses, lower is better.

        On 2,000 rows accuracy is too coarse for that: epochs a point apart are equal by chance.
        """
        return sum(self.calibrated_losses().values())


def measure(model: FaceAttributeModel, rows: Rows, side: int, device: torch.device) -> Measured:
    """A network on some rows, with images of `side` pixels."""
    logits = logits_of(model, rows, Preprocessing(image_size=side), device)
    losses = task_losses(logits, torch.from_numpy(rows.targets))
    accuracy = {}
    for column, task in enumerate(labels.TASKS):
        right = logits[task.name].numpy().argmax(1) == rows.targets[:, column]
        accuracy[task.name] = round(float(right.mean()), 6)
    loss = {name: round(float(value), 6) for name, value in losses.items()}
    return Measured(side, accuracy, loss, logits, rows.targets)


def best_size(
    model: FaceAttributeModel, measured: Measured, rows: Rows, sides: set[int], device: torch.device
) -> Measured:
    """The best of a measurement and those at other sizes.

    Weights that saw several sizes are tried at each, since the last is not always the best
    to use them at (Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
    """
    others = sorted(sides - {measured.image_size})
    found = [measured, *(measure(model, rows, side, device) for side in others)]
    return min(found, key=Measured.score)


def calibrated(
    config: ModelConfig, logits: Mapping[str, torch.Tensor], targets: NDArray[np.int64]
) -> ModelConfig:
    """The config with temperatures and thresholds fitted on holdout logits, all tasks."""
    fitted = {
        task.name: fit_calibration(task.name, logits[task.name].numpy(), targets[:, column])
        for column, task in enumerate(labels.TASKS)
    }
    return config.replace(
        temperatures={name: temperature for name, (temperature, _) in fitted.items()},
        thresholds={name: threshold for name, (_, threshold) in fitted.items()},
    )


def keep(
    model: FaceAttributeModel, measured: Measured, training: Mapping[str, Any], folder: Path
) -> None:
    """Put calibrated weights in float16 and their config into a folder, each file whole."""
    own = model.config
    model.config = calibrated(own, measured.logits, measured.targets).replace(
        preprocessing=Preprocessing(image_size=measured.image_size), training=training
    )
    new = folder.with_name(folder.name + ".new")
    try:
        model.save_pretrained(new, half=True)
    finally:
        model.config = own
    folder.mkdir(exist_ok=True)
    for path in sorted(new.iterdir(), reverse=True):
        path.replace(folder / path.name)
    new.rmdir()
