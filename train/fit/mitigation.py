"""Losses that look after groups: reweighting by holdout accuracy, and group DRO.

Groups are combinations of labels, such as gender × race.

- **reweight**: a row weighs more in a task's loss the less often its class and its group were right
  on the holdout: (mean accuracy / accuracy of the class)^strength times the same of the group.
  Fixed before the first step.
- **group_dro**: Sagawa, Koh, Hashimoto and Liang, "Distributionally robust neural networks for
  group shifts", ICLR 2020, algorithm 1: the loss is the sum over groups of q_g times the group's
  mean loss, where before each step q_g grows by exp(strength × the group's loss) and is scaled to a
  sum of 1. The paper's step size is 0.01; its generalisation adjustment is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faceattr import labels
from train.recipe import Mitigation

PRIOR_ROWS = 20
"""Holdout rows of mean accuracy that a class or group is given besides its own: rare ones are
measured badly."""


def row_losses(
    logits: Mapping[str, Tensor], soft: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weighted cross-entropy in nats of each row `(N,)` by task, from distributions `(N, classes)`.

    Its mean is what `train.fit.steps.soft_losses` gives.
    """
    return {
        name: F.cross_entropy(logits[name].float(), target, weight=weights[name], reduction="none")
        for name, target in soft.items()
    }


def _accuracies(correct: Tensor, place: Tensor, size: int) -> Tensor:
    """Accuracy `(size,)` of each class or group over the mean, with `PRIOR_ROWS` rows added."""
    mean = correct.mean().clamp(min=1e-6)
    right = torch.zeros(size, dtype=torch.float64).index_add_(0, place, correct)
    rows = torch.bincount(place, minlength=size)
    return (right + PRIOR_ROWS * mean) / (rows + PRIOR_ROWS) / mean


class GroupLosses:
    """The losses of one run, and what they remember from step to step."""

    def __init__(self, settings: Mitigation, loss_weights: Mapping[str, float]) -> None:
        self.settings = settings
        self.loss_weights = loss_weights
        columns = [task.name for task in labels.TASKS]
        self._columns = [columns.index(name) for name in settings.groups]
        self.sizes = [len(labels.TASKS[column].classes) for column in self._columns]
        count = math.prod(self.sizes)
        self.shares = torch.full((count,), 1 / count, dtype=torch.float64)
        self.tables: dict[str, Tensor] = {}

    @property
    def needs_accuracy(self) -> bool:
        """Whether `set_weights` must be called before the first step."""
        return self.settings.kind == "reweight" and not self.tables

    def place(self, targets: Tensor) -> Tensor:
        """Group of each row `(N,)`, from targets `(N, tasks)` in `labels.TASKS` order."""
        place = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        for column, size in zip(self._columns, self.sizes, strict=True):
            place = place * size + targets[:, column]
        return place

    def set_weights(self, logits: Mapping[str, Tensor], targets: Tensor) -> None:
        """Fix the rows' weights by class and group `(classes, groups)`; mean 1 on the holdout.

        Args:
            logits: by task, of the holdout rows, on the CPU.
            targets: `(N, tasks)`, on the CPU.
        """
        place = self.place(targets)
        for column, task in enumerate(labels.TASKS):
            true = targets[:, column]
            correct = (logits[task.name].argmax(1) == true).double()
            by_class = _accuracies(correct, true, len(task.classes))
            by_group = _accuracies(correct, place, len(self.shares))
            table = (by_class[:, None] * by_group[None]) ** -self.settings.strength
            self.tables[task.name] = table / table[true, place].mean()

    def __call__(self, rows: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Losses by task, from the rows' losses `(N,)` by task and targets `(N, tasks)`."""
        place = self.place(targets)
        if self.settings.kind == "reweight":
            return {
                task.name: (self._weights(task.name, targets[:, column], place) * rows[task.name])
                .mean()
                .float()
                for column, task in enumerate(labels.TASKS)
            }
        member = F.one_hot(place, len(self.shares)).double()
        means = member / member.sum(0).clamp(min=1)
        by_group = {name: means.T @ loss.double() for name, loss in rows.items()}
        total = sum(self.loss_weights.get(n, 1.0) * loss.detach() for n, loss in by_group.items())
        # A group without rows in the batch has a loss of 0, so its weight is only rescaled.
        shares = self.shares * torch.exp(self.settings.strength * torch.as_tensor(total).cpu())
        self.shares = shares / shares.sum()
        return {
            name: (self.shares.to(loss.device) * loss).sum().float()
            for name, loss in by_group.items()
        }

    def _weights(self, task: str, true: Tensor, place: Tensor) -> Tensor:
        return self.tables[task].to(true.device)[true, place]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"shares": self.shares, "tables": self.tables}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint's state."""
        self.shares, self.tables = state["shares"], dict(state["tables"])
