"""Ending a run when asked to, between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 - not an error: the run was asked to stop and did
    """A signal asked the run to stop; its checkpoint is written."""


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying in mid-step; the same again ends at once.

    One of each is collected: torchrun answers Ctrl-C, which reaches every process, with a SIGTERM
    to each besides.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
