"""Checkpoints: written whole or not at all, and enough to go on exactly."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_NAME = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or belongs to another run."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file that is flushed and renamed, so no reader sees a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint; a cut-off write leaves the previous one."""
    path = folder / CHECKPOINT_NAME
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the run's checkpoint onto the CPU.

    Raises:
        CheckpointError: when there is none, or it cannot be read.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(f"no {CHECKPOINT_NAME} in {folder}; start without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; start the run again") from error
    return state
