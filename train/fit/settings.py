"""What a run is given besides its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from train.config import Recipe
from train.data.source import Source
from train.fit.device import Precision


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
        start: weights folder to start from, for recipes that start from a run.
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
    start: Path | None = None
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
        if (recipe.distillation is not None) != (self.answers is not None):
            wants = "learns from stored answers" if self.answers is None else "has no distillation"
            raise TrainingError(
                f"recipe {recipe.name!r} {wants}, but --answers was "
                f"{'not given' if self.answers is None else 'given'}; it names a folder of "
                "`python -m train answers`"
            )
        if (recipe.start == "run") != (self.start is not None):
            wants = "starts from a run" if recipe.start == "run" else f"starts {recipe.start}"
            raise TrainingError(
                f"recipe {recipe.name!r} {wants}, but --start was "
                f"{'not given' if self.start is None else 'given'}; it names the model/ folder of "
                "a finished run"
            )
        if self.world > 1 and recipe.mitigation is not None:
            raise TrainingError(
                f"recipe {recipe.name!r} weighs groups by what one process sees; run it with one"
            )
        if recipe.batch_size % self.world:
            raise TrainingError(
                f"{self.world} processes cannot share batches of {recipe.batch_size} rows evenly"
            )
        if self.limit is not None and self.limit < 1:
            raise TrainingError(f"--limit must be at least 1, came {self.limit}")
