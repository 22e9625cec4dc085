"""Checkpoints: written whole or not at all, the last two kept, and enough to go on exactly."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

LOCK_NAME = ".lock"
KEEP = 2


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or belongs to another run."""


class BusyError(CheckpointError):
    """Another process is at work in a folder."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file that is flushed and renamed, so no reader sees a part.

    A failed write leaves no temporary file and what was there before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    # Let the new name outlast a power cut, where the system can flush folders.
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*-*.pt"))


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint of tensors and plain values, then drop all but the last two.

    Raises:
        CheckpointError: when it cannot be written; those before it are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    place = state["progress"]
    path = folder / f"checkpoint-{place['epoch']:04d}-{place['batch']:06d}.pt"
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror or type(error).__name__}); make room or see to "
            "the disk, then --resume goes on from the checkpoint before"
        ) from error
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the run's newest checkpoint onto the CPU; `CheckpointError` when it cannot be."""
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}; start without --resume")
    try:
        state: dict[str, Any] = torch.load(found[-1], map_location="cpu", weights_only=True)
    # A cut archive or pickle raises any of these.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        before = f"; delete it to go on from {found[-2].name}" if len(found) > 1 else ""
        raise CheckpointError(f"{found[-1]} is damaged: {error}{before}") from error
    return state


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder; `BusyError` where one does.

    The system lets go of the lock when its holder ends, however it ends: none is ever stale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / LOCK_NAME).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"another process is at work in {folder}; wait for it, or choose another folder"
        ) from error
    with held:
        yield
