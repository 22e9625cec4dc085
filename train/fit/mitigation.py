"""Group DRO (Sagawa, Koh, Hashimoto and Liang, ICLR 2020, algorithm 1).

The loss is the sum over groups of q_g times the group's mean loss, where before each step q_g grows
by exp(step × the group's loss) and is scaled to a sum of 1. The paper's generalisation adjustment
is left out. Groups are combinations of labels such as gender × race.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from faceattr import labels
from train.config import Mitigation
from train.fit.losses import CHILD_CLASSES

_COLUMNS = {task.name: column for column, task in enumerate(labels.TASKS)}
_SIZES = {**{task.name: len(task.classes) for task in labels.TASKS}, "child": 2}


class GroupLosses:
    """The losses of one run, and what they remember from step to step."""

    def __init__(self, settings: Mitigation, loss_weights: Mapping[str, float]) -> None:
        self.settings = settings
        self.loss_weights = loss_weights
        count = math.prod(_SIZES[name] for name in settings.groups)
        self.shares = torch.full((count,), 1 / count, dtype=torch.float64)

    def place(self, targets: Tensor) -> Tensor:
        """Group of each row `(N,)`, from targets `(N, tasks)` in `labels.TASKS` order."""
        place = torch.zeros(len(targets), dtype=torch.int64, device=targets.device)
        for name in self.settings.groups:
            if name == "child":
                own = (targets[:, _COLUMNS[labels.AGE.name]] < CHILD_CLASSES).long()
            else:
                own = targets[:, _COLUMNS[name]]
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
