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
    """Collect the first SIGTERM or SIGINT instead of dying in mid-step; a second ends at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield received
    finally:
        restore()
