"""What rows are taught, and their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from faceattr import labels
from train.config import Mitigation, Recipe

CHILD_CLASSES = 2
"""Age groups below ten years, the first of `labels.AGE`."""
_SMALLEST = 1e-7
"""Of a stored probability; float16 keeps none below 6e-8."""
_COLUMNS = {task.name: column for column, task in enumerate(labels.TASKS)}
_SIZES = {**{task.name: len(task.classes) for task in labels.TASKS}, "child": 2}


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
            distance = steps - steps[:, None]
            table = (-0.5 * (distance / recipe.age_spread) ** 2).softmax(1)
        tables[task.name] = table * (1 - recipe.label_smoothing) + recipe.label_smoothing / size
    return tables


def class_shares(targets: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Shares of the classes among some rows by task; each class is given one row more."""
    sizes = [len(task.classes) for task in labels.TASKS]
    counts = [np.bincount(targets[:, i], minlength=n) + 1 for i, n in enumerate(sizes)]
    return {task.name: n / n.sum() for task, n in zip(labels.TASKS, counts, strict=True)}


class RowLosses:
    """The loss of every row by task, from logits, labels and stored answers."""

    def __init__(self, recipe: Recipe, targets: NDArray[np.int64], device: torch.device) -> None:
        self.recipe = recipe
        self.tables = {name: t.to(device) for name, t in target_tables(recipe).items()}
        logs = {name: np.log(share) for name, share in class_shares(targets).items()}
        taus = recipe.logit_adjustment.items()
        self.added = {name: torch.tensor(tau * logs[name]).float().to(device) for name, tau in taus}

    def soft(self, targets: Tensor, answers: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """What rows are taught, to be mixed or not: `(N, classes)` or `(N, 1)` by name.

        By task the distribution for the label, by "task answers" the teachers' softened one, and
        by "weight" that of the gender loss.
        """
        child = targets[:, _COLUMNS[labels.AGE.name]] < CHILD_CLASSES
        found = {"weight": torch.where(child, self.recipe.child_gender, 1.0)[:, None]}
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


class GroupLosses:
    """Group DRO (Sagawa, Koh, Hashimoto and Liang, ICLR 2020, algorithm 1).

    The loss is the sum over groups, combinations of labels such as gender × race, of q_g times the
    group's mean loss; before each step q_g grows by exp(step × the group's loss) and is scaled to a
    sum of 1. The paper's generalisation adjustment is left out.

    Attributes:
        shares: q_g, remembered from step to step.
    """

    def __init__(self, settings: Mitigation, loss_weights: Mapping[str, float]) -> None:
        self.settings = settings
        self.loss_weights = loss_weights
        count = math.prod(_SIZES[name] for name in settings.groups)
        self.shares = torch.full((count,), 1 / count, dtype=torch.float64)

    def place(self, targets: Tensor) -> Tensor:
        """Group of each row `(N,)`, from targets `(N, tasks)` in `labels.TASKS` order."""
        place = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        child = (targets[:, _COLUMNS[labels.AGE.name]] < CHILD_CLASSES).long()
        for name in self.settings.groups:
            own = child if name == "child" else targets[:, _COLUMNS[name]]
            place = place * _SIZES[name] + own
        return place

    def __call__(self, rows: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Losses by task, from the rows' losses `(N,)` by task and targets `(N, tasks)`."""
        place = self.place(targets)
        member = F.one_hot(place, len(self.shares)).double()
        means = member / member.sum(0).clamp(min=1)
        by_group = {name: means.T @ loss.double() for name, loss in rows.items()}
        total = sum(self.loss_weights.get(n, 1.0) * loss.detach() for n, loss in by_group.items())
        # A group without rows in the batch has a loss of 0, so its weight is only rescaled.
        shares = self.shares * torch.exp(self.settings.step * torch.as_tensor(total).cpu())
        self.shares = shares / shares.sum()
        return {
            name: (self.shares.to(loss.device) * loss).sum().float()
            for name, loss in by_group.items()
        }


def mix(
    images: Tensor, soft: Mapping[str, Tensor], alpha: float, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix each image and what it is taught with another of the batch in one drawn proportion."""
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    mixed = {name: share * part + (1 - share) * part[order] for name, part in soft.items()}
    return share * images + (1 - share) * images[order], mixed
