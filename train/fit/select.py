"""Which weights of a run are kept: those that do best on the holdout, calibrated there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceattr import labels
from faceattr.config import ModelConfig
from faceattr.model import FaceAttributeModel
from faceattr.preprocessing import Preprocessing
from train.data.batches import decode
from train.data.source import Rows
from train.evaluate.calibration import fit as fit_calibration
from train.evaluate.calibration import fit_adjustment, fit_temperature, negative_log_likelihood
from train.fit.losses import class_shares

_BATCH = {"cpu": 64, "cuda": 500}


@lru_cache(maxsize=4)
def _pixels_of(rows: Rows, side: int) -> NDArray[np.uint8]:
    """All rows `(rows, side, side, 3)`: every epoch measures on the same."""
    settings = Preprocessing(image_size=side)
    chips = (settings.to_pixels([decode(rows.image(place))]) for place in range(len(rows)))
    return np.concatenate([np.empty((0, side, side, 3), np.uint8), *chips])


def logits_of(
    model: FaceAttributeModel, rows: Rows, preprocessing: Preprocessing, device: torch.device
) -> dict[str, torch.Tensor]:
    """Logits `(rows, classes)` by task on the CPU, before calibration, which is fitted to them.

    Computed in float32 on every device, as the pipeline does; the model is left in eval mode.
    """
    model.eval()
    parts: dict[str, list[torch.Tensor]] = {task.name: [] for task in labels.TASKS}
    pixels = torch.from_numpy(_pixels_of(rows, preprocessing.image_size))
    # Without this a GPU rounds what convolutions multiply to ten bits.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for some in torch.split(pixels, _BATCH[device.type]):
            images = preprocessing.normalize(some.to(device).permute(0, 3, 1, 2).float())
            for name, logits in model(images).items():
                parts[name].append(logits.float().cpu())
    sizes = {task.name: len(task.classes) for task in labels.TASKS}
    return {
        name: torch.cat([torch.empty(0, sizes[name]), *few]).clone() for name, few in parts.items()
    }


@dataclass(frozen=True, eq=False)
class Measured:
    """Weights on the holdout: accuracy and loss (nats) by task, logits and targets of its rows."""

    image_size: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    logits: dict[str, torch.Tensor]
    targets: NDArray[np.int64]

    def score(self) -> float:
        """What weights are selected by: the sum of the calibrated losses in nats, lower is better.

        Without each head's own temperature, weights that give softer answers (smoothing, mixing,
        teachers) would be judged by a confidence that calibration mends anyway. On 2,000 rows
        accuracy is too coarse: epochs a point apart are equal by chance.
        """
        losses = []
        for column, task in enumerate(labels.TASKS):
            logits, targets = self.logits[task.name].numpy(), self.targets[:, column]
            temperature = fit_temperature(logits, targets)
            losses.append(round(negative_log_likelihood(logits, targets, temperature), 6))
        return sum(losses)


def measure(model: FaceAttributeModel, rows: Rows, side: int, device: torch.device) -> Measured:
    """A network on some rows, with images of `side` pixels."""
    return _judged(
        side, logits_of(model, rows, Preprocessing(image_size=side), device), rows.targets
    )


def _judged(side: int, logits: dict[str, torch.Tensor], targets: NDArray[np.int64]) -> Measured:
    accuracy, loss = {}, {}
    for column, task in enumerate(labels.TASKS):
        values, true = logits[task.name].numpy(), targets[:, column]
        accuracy[task.name] = round(float((values.argmax(1) == true).mean()), 6)
        loss[task.name] = round(negative_log_likelihood(values, true, 1.0), 6)
    return Measured(side, accuracy, loss, logits, targets)


def best_size(
    model: FaceAttributeModel, measured: Measured, rows: Rows, sides: set[int], device: torch.device
) -> Measured:
    """The best of a measurement and those at the other sizes that weights saw.

    The last is not always best (Touvron et al., "Fixing the train-test resolution discrepancy").
    """
    others = (measure(model, rows, s, device) for s in sorted(sides - {measured.image_size}))
    return min((measured, *others), key=Measured.score)


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


def adjusted(
    measured: Measured, targets: NDArray[np.int64], most_lost: float | None
) -> tuple[Measured, dict[str, torch.Tensor], dict[str, float]]:
    """Answer rare classes more often: see `train.evaluate.calibration.fit_adjustment`.

    Args:
        measured: on the holdout.
        targets: of the training rows, `(rows, tasks)`.
        most_lost: share of all holdout rows; None to leave them as they are.

    Returns:
        The measurement with adjusted logits, what is added to them by task, and τ by task.
    """
    if most_lost is None:
        return measured, {}, {}
    logits, added, taus = dict(measured.logits), {}, {}
    for column, (name, shares) in enumerate(class_shares(targets).items()):
        true = measured.targets[:, column]
        taus[name] = fit_adjustment(logits[name].numpy(), true, shares, most_lost)
        added[name] = torch.from_numpy(-taus[name] * np.log(shares)).float()
        logits[name] = logits[name] + added[name]
    return _judged(measured.image_size, logits, measured.targets), added, taus


def keep(
    model: FaceAttributeModel,
    measured: Measured,
    training: Mapping[str, Any],
    folder: Path,
    added: Mapping[str, torch.Tensor],
) -> None:
    """Put calibrated weights in float16 and their config into a folder, each file whole.

    `added` goes to the heads' biases; `measured` is with it.
    """
    described = copy.deepcopy(model).cpu()
    heads: Any = described.get_submodule("heads")
    for name, values in added.items():
        heads[name].bias.data += values
    described.config = calibrated(model.config, measured.logits, measured.targets).replace(
        preprocessing=Preprocessing(image_size=measured.image_size), training=training
    )
    new = folder.with_name(folder.name + ".new")
    described.save_pretrained(new, half=True)
    folder.mkdir(exist_ok=True)
    for path in sorted(new.iterdir(), reverse=True):
        path.replace(folder / path.name)
    new.rmdir()
