"""Checkpoints: written whole or not at all, the last few kept, and enough to go on exactly.

A checkpoint is a file `checkpoint-EPOCH-BATCH.pt` in the run's folder: one line with the SHA-256
of what follows, then what `torch.save` writes. A digest rather than luck says whether it is whole.
"""

from __future__ import annotations

import errno
import hashlib
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
_HEADER = b"faceattr checkpoint, SHA-256 "


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or belongs to another run."""


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
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Let the new name outlast a power cut, where the system can flush folders."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def checkpoints(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*-*.pt"))


def save_checkpoint(
    folder: Path, state: dict[str, Any], *, epoch: int, batch: int, keep: int = KEEP
) -> Path:
    """Write a checkpoint, then drop all but the last `keep`.

    Args:
        folder: of the run.
        state: tensors and plain values.
        epoch: whole epochs done.
        batch: batches done after them.
        keep: how many to keep, at least 1.

    Raises:
        CheckpointError: when it cannot be written; those before it are untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    header = _HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n"
    path = folder / f"checkpoint-{epoch:04d}-{batch:06d}.pt"
    try:
        write_atomically(path, header + content)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        kept = checkpoints(folder)
        raise CheckpointError(
            f"cannot write {path} ({error.strerror or type(error).__name__}); "
            + ("make room" if full else "see to the disk")
            + (f", then --resume goes on from {kept[-1].name}" if kept else " and start again")
        ) from error
    for old in checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def _read(path: Path) -> dict[str, Any]:
    """One checkpoint, onto the CPU.

    Raises:
        CheckpointError: when it cannot be read or is not what was written.
    """
    try:
        header, _, content = path.read_bytes().partition(b"\n")
        if header != _HEADER + hashlib.sha256(content).hexdigest().encode():
            raise CheckpointError(f"{path} is damaged: its content does not have its SHA-256")
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return state


def load_checkpoint(folder: Path, *, previous: bool = False) -> dict[str, Any]:
    """Read the run's newest checkpoint onto the CPU, or the newest sound one before it.

    Args:
        folder: of the run.
        previous: leave the newest out, for when it is damaged.

    Raises:
        CheckpointError: when there is none, or it cannot be read.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}; start without --resume")
    if not previous:
        try:
            return _read(found[-1])
        except CheckpointError as error:
            advice = "start the run again in another folder"
            if len(found) > 1:
                advice = f"--resume --from-previous goes on from {found[-2].name}"
            raise CheckpointError(f"{error}; {advice}") from error
    for path in reversed(found[:-1]):
        try:
            return _read(path)
        except CheckpointError:
            continue
    raise CheckpointError(f"no sound checkpoint before {found[-1].name} in {folder}")


def forget_after(folder: Path, *, epoch: int, batch: int) -> None:
    """Set aside the checkpoints after one that a run goes back to, as `*.set-aside`."""
    last = f"checkpoint-{epoch:04d}-{batch:06d}.pt"
    for path in checkpoints(folder):
        if path.name > last:
            path.replace(path.with_name(path.name + ".set-aside"))


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder.

    The system lets go of the lock when its holder ends, however it ends: none is ever stale.

    Raises:
        CheckpointError: when another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CheckpointError(
            f"another process is training in {folder}; wait for it, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
