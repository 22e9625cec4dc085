"""Losses, optimiser, schedule and averaged weights."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from faceattr import labels
from train.recipe import Recipe

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def task_losses(
    logits: dict[str, Tensor], targets: Tensor, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """Mean cross-entropy in nats by task; targets `(N, tasks)` in `labels.TASKS` order."""
    return {
        task.name: F.cross_entropy(
            logits[task.name].float(), targets[:, column], label_smoothing=label_smoothing
        )
        for column, task in enumerate(labels.TASKS)
    }


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam or AdamW; biases and batch norms are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.learning_rate)


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after `progress` epochs (a fraction counts the batches done)."""
    if progress < recipe.warmup_epochs:
        return recipe.learning_rate * max(progress, 1e-3) / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.learning_rate
    span = recipe.epochs - recipe.warmup_epochs
    done = min(1.0, (progress - recipe.warmup_epochs) / span) if span > 0 else 1.0
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and batch-norm statistics.

    The decay starts low, `(1 + n) / (10 + n)` after n steps, so that the random start is
    forgotten (as tf.train.ExponentialMovingAverage does with `num_updates`).
    """

    def average(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        n = float(steps)
        weight = min(decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), 1 - weight)
        else:
            torch._foreach_copy_(list(averaged), list(current))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
