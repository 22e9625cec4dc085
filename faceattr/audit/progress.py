"""How far an audit is: a bar on a terminal, a plain line every half minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

EVERY_S = 30.0
"""Seconds between plain lines."""


class Progress:
    """Counts images; may be told from several threads."""

    def __init__(
        self, total: int | None, *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        """Show nothing yet.

        Args:
            total: images of the collection; None where it is not known.
            quiet: whether nothing is shown at all.
            stream: where to; standard error by default.
        """
        self._stream = stream or sys.stderr
        self._total = total
        self._quiet = quiet
        self._lock = threading.Lock()
        self._start = self._said = time.monotonic()
        self._kept = self._done = self._shown = 0
        plain = quiet or not self._stream.isatty()
        self._bar = None if plain else tqdm(total=total, unit="image", file=self._stream)

    def __enter__(self) -> Progress:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar; say the last line."""
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._done and self._shown != self._kept + self._done:
            self._say()

    @property
    def rate(self) -> float:
        """Images a second of this run, those kept from an earlier one not counted."""
        return self._done / max(time.monotonic() - self._start, 1e-9)

    def kept(self, count: int) -> None:
        """Images that an earlier run has done."""
        with self._lock:
            self._kept += count
            if self._bar is not None:
                self._bar.initial += count
                self._bar.update(count)

    def done(self, count: int) -> None:
        """Images that are done now."""
        with self._lock:
            self._done += count
            if self._bar is not None:
                self._bar.update(count)
            elif time.monotonic() - self._said >= EVERY_S:
                self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        if self._quiet:
            return
        there = self._shown = self._kept + self._done
        of = "" if self._total is None else f" of {self._total:,}"
        left = ""
        if self._total is not None and there < self._total and self._done:
            left = f", {_span((self._total - there) / self.rate)} left"
        self._stream.write(f"{there:,}{of} images, {self.rate:.1f} a second{left}\n")
        self._stream.flush()


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
