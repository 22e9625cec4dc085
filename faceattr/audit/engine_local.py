"""Worker processes on this machine."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from faceattr.audit.places import Ref
from faceattr.audit.store import digest_of
from faceattr.audit.work import SINGLE_THREAD, Settings
from faceattr.audit.worker import send
from faceattr.errors import AuditError

ATTEMPTS = 2
"""Times that a part is tried before the image that ends its process is looked for."""


class Part(NamedTuple):
    """Consecutive images.

    Attributes:
        number: of the part, from 0.
        first: number of its first image.
        refs: its images.
    """

    number: int
    first: int
    refs: list[Ref]


@dataclass
class Outcome:
    """What an engine did.

    Attributes:
        peak_megabytes: largest memory of a worker.
        info: `PipelineInfo` of the workers' pipelines; None where nothing was left to do.
    """

    peak_megabytes: float = 0.0
    info: Any = None


def run_local(
    settings: Settings,
    folder: Path,
    parts: Iterator[Part],
    workers: int,
    done: Callable[[int], None],
) -> Outcome:
    """Work through parts with several processes.

    Args:
        settings: see `Settings`.
        folder: of the `Store`.
        parts: that are not done yet; taken one at a time, as workers become free.
        workers: number of processes.
        done: called with a number of images when they are done.

    Raises:
        AuditError: what a worker says, or when the processes cannot be kept alive.
    """
    first = next(parts, None)
    outcome = Outcome()
    if first is None:
        return outcome
    queue = _Queue(first, parts)
    threads = [
        threading.Thread(
            target=_attend, args=(settings, folder, queue, done, outcome), name=f"audit-{number}"
        )
        for number in range(workers)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        queue.stop(None)
        raise
    if queue.error is not None:
        raise queue.error
    return outcome


class _Queue:
    """Parts for several threads; empty as soon as one of them has failed."""

    def __init__(self, first: Part, rest: Iterator[Part]) -> None:
        self._first: Part | None = first
        self._rest = rest
        self._lock = threading.Lock()
        self._stopped = False
        self.error: BaseException | None = None

    def next(self) -> Part | None:
        with self._lock:
            if self._stopped:
                return None
            try:
                part = self._first or next(self._rest, None)
            # Whatever the source raises ends the run, in the thread that started it.
            except BaseException as error:
                self._stopped, self.error = True, error
                return None
            self._first = None
            return part

    def stop(self, error: BaseException | None) -> None:
        with self._lock:
            self._stopped = True
            self.error = self.error or error


def _attend(
    settings: Settings,
    folder: Path,
    queue: _Queue,
    done: Callable[[int], None],
    outcome: Outcome,
) -> None:
    """Feed one process, and its successors where it dies."""
    process = _Process(settings, folder)
    try:
        while (part := queue.next()) is not None:
            peak = process.work(part)
            outcome.peak_megabytes = max(outcome.peak_megabytes, peak)
            outcome.info = process.info
            done(len(part.refs))
    # Handed to the thread that waits for all.
    except BaseException as error:
        queue.stop(error)
    finally:
        process.close()


class _Process:
    """A worker process; started when it is first needed, and again when it has died."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._hello = (settings, folder)
        self._running: subprocess.Popen[bytes] | None = None
        self.info: Any = None

    def work(self, part: Part) -> float:
        """Have a part done; returns the process's largest memory in MiB.

        A part that ends the process twice is done image by image, to find out which image does
        it; that one becomes a row with the error "crashed".

        Raises:
            AuditError: what the worker says, or when it dies without an image being at fault.
        """
        skip: set[int] = set()
        deaths = 0
        while True:
            alone = deaths >= ATTEMPTS
            position = None
            try:
                self._start()
                refs = part.refs
                self._send((part.number, digest_of(refs), part.first, refs, skip, alone))
                kind, value = self._receive()
                while kind == "at":
                    position = value
                    kind, value = self._receive()
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                deaths += 1
                self.close()
                if alone and (position is None or position in skip):
                    raise AuditError(
                        "a worker process was ended from outside, perhaps for want of memory; "
                        "give the same command again with fewer --workers"
                    ) from None
                if alone and position is not None:
                    skip.add(position)
                continue
            if kind == "failed":
                raise AuditError(str(value))
            return float(value)

    def _start(self) -> None:
        if self._running is not None:
            return
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._running = subprocess.Popen(
            [sys.executable, "-m", "faceattr.audit.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **SINGLE_THREAD, "PYTHONPATH": paths},
        )
        self._send(self._hello)
        kind, value = self._receive()
        if kind == "failed":
            raise AuditError(str(value))
        self.info = value

    def _send(self, message: Any) -> None:
        if self._running is None or self._running.stdin is None:
            raise EOFError
        send(self._running.stdin, message)  # type: ignore[arg-type]

    def _receive(self) -> tuple[str, Any]:
        if self._running is None or self._running.stdout is None:
            raise EOFError
        kind, value = pickle.load(self._running.stdout)
        return kind, value

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._running = self._running, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        process.wait()
