"""Targets, losses, optimiser, schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from faceattr import labels
from faceattr.model import FaceAttributeModel
from train.recipe import Distillation, Recipe

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
MOMENTUM = 0.9


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


def class_weights(counts: Mapping[str, Sequence[int]], power: float) -> dict[str, Tensor]:
    """Weights count^-power by task, scaled to a mean of 1 over the rows.

    Raises:
        ValueError: for a class without rows, when the power is not 0.
    """
    result = {}
    for name, numbers in counts.items():
        if power > 0 and min(numbers) < 1:
            raise ValueError(f"class_balance needs rows of every class of {name!r}: {numbers}")
        count = torch.tensor(numbers, dtype=torch.float64)
        weights = count**-power if power > 0 else torch.ones_like(count)
        result[name] = (weights * count.sum() / (weights * count).sum()).float()
    return result


def mix(
    images: Tensor, soft: Mapping[str, Tensor], alpha: float, rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mix each picture and its targets with another of the batch in one drawn proportion."""
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    mixed = {name: share * part + (1 - share) * part[order] for name, part in soft.items()}
    return share * images + (1 - share) * images[order], mixed


def soft_losses(
    logits: Mapping[str, Tensor], soft: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mean weighted cross-entropy in nats by task, from target distributions `(N, classes)`."""
    return {
        name: F.cross_entropy(logits[name].float(), target, weight=weights[name])
        for name, target in soft.items()
    }


def resized(images: Tensor, side: int) -> Tensor:
    """Float images `(N, 3, S, S)` to `(N, 3, side, side)`, smoothed where they shrink."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def teacher_targets(
    teachers: Sequence[FaceAttributeModel], images: Tensor, settings: Distillation
) -> dict[str, Tensor]:
    """Mean softened probabilities of the teachers `(N, classes)` by task."""
    views = [images, images.flip(3)] if settings.mirrored else [images]
    with torch.no_grad():
        answers = [
            teacher(resized(view, teacher.config.preprocessing.image_size))
            for teacher in teachers
            for view in views
        ]
    return {
        task.name: torch.stack(
            [(answer[task.name].float() / settings.temperature).softmax(1) for answer in answers]
        ).mean(0)
        for task in labels.TASKS
    }


def twice(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor's rows, and the same again: for a batch with its mirror images behind it."""
    return {name: torch.cat([part, part]) for name, part in parts.items()}


def distilled(
    losses: Mapping[str, Tensor],
    logits: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    settings: Distillation,
) -> dict[str, Tensor]:
    """The labels' losses joined with the divergence from the teachers (Hinton et al., 2015)."""
    result = {}
    for name, loss in losses.items():
        student = (logits[name].float() / settings.temperature).log_softmax(1)
        divergence = F.kl_div(student, teacher[name], reduction="batchmean")
        part = settings.weight * settings.temperature**2 * divergence
        result[name] = (1 - settings.weight) * loss + part
    return result


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and batch norms are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, MOMENTUM, nesterov=True)
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


def _averaged(model: nn.Module, share: Callable[[float], float]) -> AveragedModel:
    """A running average; `share(n)` is the newest weights' share after n updates.

    Counters of batch norms are copied: PyTorch's own functions would divide whole numbers.
    """

    def average(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), share(float(steps)))
        else:
            torch._foreach_copy_(list(averaged), list(current))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and batch-norm statistics.

    The decay starts low, `(1 + n) / (10 + n)` after n steps, so that the random start is
    forgotten (as tf.train.ExponentialMovingAverage does with `num_updates`).
    """
    return _averaged(model, lambda n: 1 - min(decay, (1 + n) / (10 + n)))


def make_equal_average(model: nn.Module) -> AveragedModel:
    """Plain mean of weights and batch-norm statistics (Izmailov et al., UAI 2018)."""
    return _averaged(model, lambda n: 1 / (n + 1))
