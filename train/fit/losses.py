"""What rows are taught, and their losses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from faceattr import labels
from train.config import Recipe

CHILD_CLASSES = 2
"""Age groups below ten years, the first of `labels.AGE`."""
_SMALLEST = 1e-7
"""Of a stored probability; float16 keeps none below 6e-8."""


def task_losses(logits: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy in nats by task; targets `(N, tasks)` in `labels.TASKS` order."""
    return {
        task.name: F.cross_entropy(logits[task.name].float(), targets[:, column])
        for column, task in enumerate(labels.TASKS)
    }


def target_tables(recipe: Recipe) -> dict[str, Tensor]:
    """By task, the distribution `(classes, classes)` that stands for each label.

    Row i is a one-hot vector, shared with neighbouring age groups by `recipe.age_spread` and with
    all classes by `recipe.label_smoothing`.
    """
    tables = {}
    for task in labels.TASKS:
        size = len(task.classes)
        table = torch.eye(size)
        if task is labels.AGE and recipe.age_spread > 0:
            steps = torch.arange(size, dtype=torch.float32)
            distance = steps.view(1, -1) - steps.view(-1, 1)
            table = (-0.5 * (distance / recipe.age_spread) ** 2).softmax(1)
        tables[task.name] = table * (1 - recipe.label_smoothing) + recipe.label_smoothing / size
    return tables


def log_shares(targets: NDArray[np.int64], recipe: Recipe) -> dict[str, Tensor]:
    """What is added to the logits in the loss `(classes,)`, of the tasks that are adjusted.

    Args:
        targets: labels of the training rows `(rows, tasks)`; each class counts one row more.
        recipe: gives by task how much of the log frequency it is.
    """
    found = {}
    for column, task in enumerate(labels.TASKS):
        if tau := recipe.logit_adjustment.get(task.name, 0.0):
            counts = np.bincount(targets[:, column], minlength=len(task.classes)) + 1
            found[task.name] = tau * torch.log(torch.from_numpy(counts / counts.sum())).float()
    return found


class RowLosses:
    """The loss of every row by task, from logits, labels and stored answers."""

    def __init__(self, recipe: Recipe, targets: NDArray[np.int64], device: torch.device) -> None:
        self.recipe = recipe
        self.tables = {name: t.to(device) for name, t in target_tables(recipe).items()}
        self.added = {name: t.to(device) for name, t in log_shares(targets, recipe).items()}

    def soft(self, targets: Tensor, answers: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """What rows are taught, to be mixed or not: `(N, classes)` or `(N, 1)` by name.

        By task the distribution for the label, by "task answers" the teachers' softened one, and
        by "weight" that of the gender loss.
        """
        age = [task.name for task in labels.TASKS].index(labels.AGE.name)
        child = targets[:, age] < CHILD_CLASSES
        weight = torch.where(child, self.recipe.child_gender, 1.0)[:, None]
        found = {"weight": weight}
        for column, task in enumerate(labels.TASKS):
            found[task.name] = self.tables[task.name][targets[:, column]]
            if answers is not None and self.recipe.distillation is not None:
                given = answers[task.name].float().clamp(min=_SMALLEST).log()
                softened = (given / self.recipe.distillation.temperature).softmax(1)
                found[f"{task.name} answers"] = softened
        return found

    def __call__(
        self, logits: Mapping[str, Tensor], soft: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses in nats `(N,)` by task."""
        result = {}
        for task in labels.TASKS:
            given = logits[task.name].float() + self.added.get(task.name, 0.0)
            loss = F.cross_entropy(given, soft[task.name], reduction="none")
            if (settings := self.recipe.distillation) is not None:
                student = (given / settings.temperature).log_softmax(1)
                taught = soft[f"{task.name} answers"]
                apart = F.kl_div(student, taught, reduction="none").sum(1)
                part = settings.weight * settings.temperature**2 * apart
                loss = (1 - settings.weight) * loss + part
            if task is labels.GENDER:
                loss = loss * soft["weight"][:, 0]
            result[task.name] = loss
        return result


def mix(
    images: Tensor, soft: Mapping[str, Tensor], alpha: float, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix each image and what it is taught with another of the batch in one drawn proportion."""
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    mixed = {name: share * part + (1 - share) * part[order] for name, part in soft.items()}
    return share * images + (1 - share) * images[order], mixed
