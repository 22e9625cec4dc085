"""One optimiser step: network, optimiser, schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from faceattr.model import FaceAttributeModel
from train.config import Recipe
from train.data.batches import Batch
from train.data.source import Rows
from train.device import choose_precision
from train.fit.losses import GroupLosses, RowLosses, mix
from train.fit.settings import Settings, TrainingError

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
MOMENTUM = 0.9


class Stepper:
    """Everything that a step changes; `model` is the network that learns."""

    def __init__(
        self, model: FaceAttributeModel, recipe: Recipe, settings: Settings, rows: Rows
    ) -> None:
        self.recipe, self.device = recipe, settings.device
        self.precision = settings.precision or choose_precision(self.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self._network: nn.Module = self.model
        if settings.world > 1:
            # Without a GPU each process normalises by its own part of the batch.
            if self.device.type == "cuda":
                self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
            self._network = DistributedDataParallel(self.model)
        # Launching kernels takes longer than small networks' kernels: a GPU replays them.
        self._recorded = self.device.type == "cuda" and settings.world == 1
        self._shape: torch.Size | None = None
        self._optimizer = make_optimizer(self.model, recipe)
        decay = recipe.ema_decay
        self._average = None if decay is None else make_average(self.model, decay)
        self._losses = RowLosses(recipe, rows.targets, self.device)
        groups = recipe.mitigation
        self._groups = None if groups is None else GroupLosses(groups, recipe.loss_weights)

    @property
    def evaluated(self) -> FaceAttributeModel:
        """The weights that are evaluated and kept: the average where there is one."""
        return self.model if self._average is None else cast(Any, self._average.module)

    def step(
        self,
        batch: Batch,
        answers: Mapping[str, Tensor] | None,
        progress: float,
        rng: np.random.Generator,
    ) -> dict[str, float]:
        """Learn from a batch; its losses by task.

        Args:
            batch: views and labels.
            answers: of teachers, probabilities `(N, classes)` by task.
            progress: epochs done, fractions included.
            rng: of the mixing.

        Raises:
            TrainingError: when the loss or its gradient is not finite; nothing was changed then.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, progress)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._losses_of(batch, answers, rng)
        weighted = [self.recipe.loss_weights.get(n, 1.0) * loss for n, loss in losses.items()]
        torch.stack(weighted).sum().backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        found = [*losses.values(), torch.nn.utils.get_total_norm(gradients)]
        # At once: each number asked for makes a GPU wait.
        *numbers, norm = torch.stack([value.detach().double() for value in found]).tolist()
        values = dict(zip(losses, numbers, strict=True))
        if not math.isfinite(sum(values.values()) + norm):
            raise TrainingError(
                f"loss {values} or gradient norm {norm} is not finite after {progress:.3f} epochs, "
                "and changed no weights; lower the learning_rate and start in a new folder"
            )
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return values

    def _losses_of(
        self, batch: Batch, answers: Mapping[str, Tensor] | None, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        pixels = batch.pixels.to(self.device, non_blocking=True)
        images = self.model.config.preprocessing.normalize(pixels.permute(0, 3, 1, 2).float())
        targets = batch.targets.to(self.device)
        given = answers and {name: values.to(self.device) for name, values in answers.items()}
        soft = self._losses.soft(targets, given)
        if self.recipe.mixup > 0:
            images, soft = mix(images, soft, self.recipe.mixup, rng)
        mixed = self.precision == "bfloat16"
        # Recorded passes cast weights themselves: a cache would outlive them.
        kind, cached = self.device.type, not self._recorded
        with torch.autocast(kind, torch.bfloat16, enabled=mixed, cache_enabled=cached):
            if self._recorded and images.shape != self._shape:
                self._record(images)
            logits = self._network(images)
        rows = self._losses(logits, soft)
        if self._groups is not None:
            return self._groups(rows, targets)
        return {name: loss.mean() for name, loss in rows.items()}

    def _record(self, images: Tensor) -> None:
        """Record the passes for images of a shape (CUDA graphs, `make_graphed_callables`)."""
        # Recording sets an attribute that hides the method, also that of the shape before.
        vars(self.model).pop("forward", None)
        torch.cuda.make_graphed_callables(self.model, (images.clone(),))
        self._shape = images.shape

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "model": self.model.state_dict(),
            "average": self._average and self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "groups": self._groups and self._groups.shares,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint's state."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._groups is not None:
            self._groups.shares = state["groups"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and batch norms are not decayed."""
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == wide], "weight_decay": decay}
        for wide, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, MOMENTUM, nesterov=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    on_gpu = next(model.parameters()).is_cuda
    return kind(groups, lr=recipe.learning_rate, fused=on_gpu)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after `progress` epochs (a fraction counts the batches done)."""
    if progress < recipe.warmup_epochs:
        return recipe.learning_rate * max(progress, 1e-3) / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.learning_rate
    span = max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    done = min(1.0, (progress - recipe.warmup_epochs) / span)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and batch-norm statistics.

    The decay starts low, `(1 + n) / (10 + n)` after n steps, so that the random start is forgotten.
    Counters of batch norms are copied: PyTorch's own functions would divide whole numbers.
    """

    def average(averaged: Tensors, current: Sequence[Tensor], steps: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            share = 1 - min(decay, (1 + float(steps)) / (10 + float(steps)))
            torch._foreach_lerp_(list(averaged), list(current), share)
        else:
            torch._foreach_copy_(list(averaged), list(current))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
