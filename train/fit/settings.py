"""What a run is given besides its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from train.config import Recipe
from train.data.source import Source
from train.device import Precision


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a run is given besides its recipe.

    Attributes:
        output: folder of the run: checkpoints, history, and finally `model/`.
        source: the data.
        seed: of initial weights, order and augmentation.
        device: where to train.
        checkpoint_every: steps between checkpoints within an epoch; each epoch ends with one.
        resume: go on from the checkpoint in `output`.
        answers: folder of stored answers, for recipes with `distillation`.
        precision: of the forward pass; None for the device's best.
        limit: take only so many training rows and holdout rows, for trying.
        rank: of this process, from 0; the first writes files.
        world: how many processes train together.
    """

    output: Path
    source: Source
    seed: int = 0
    device: torch.device = torch.device("cpu")
    checkpoint_every: int = 200
    resume: bool = False
    answers: Path | None = None
    precision: Precision | None = None
    limit: int | None = None
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def check(self, recipe: Recipe) -> None:
        """Refuse what does not go together.

        Raises:
            TrainingError: saying what the recipe needs.
        """
        if (taught := recipe.distillation is not None) != (self.answers is not None):
            folder = "a folder of `python -m train answers`"
            words = f"needs --answers, {folder}" if taught else "does not take --answers"
            raise TrainingError(f"recipe {recipe.name!r} {words}")
        if self.world > 1 and recipe.mitigation is not None:
            raise TrainingError("group DRO weighs groups by what one process sees: run it with one")
        if (size := recipe.batch_size) % self.world:
            raise TrainingError(f"{self.world} processes cannot share batches of {size} evenly")
        if min(self.checkpoint_every, 1 if self.limit is None else self.limit) < 1:
            raise TrainingError("--checkpoint-every and --limit must be at least 1")
