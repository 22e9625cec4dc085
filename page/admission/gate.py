"""A bounded queue before a few worker threads, with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from page.errors import RequestError, busy

T = TypeVar("T")


class Gate:
    """Admits work while there is room; all methods run on the event loop's thread."""

    def __init__(self, workers: int, waiting: int, time_limit: float) -> None:
        """Start no thread yet.

        Args:
            workers: calls that run at the same time.
            waiting: calls that may wait for a worker.
            time_limit: seconds from admission to the answer.
        """
        self.capacity = workers + waiting
        self.pending = 0
        self.closed = False
        self._time_limit = time_limit
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")

    @property
    def full(self) -> bool:
        """Whether the next call would be refused."""
        return self.closed or self.pending >= self.capacity

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in a worker thread, with the caller's context variables.

        Raises:
            RequestError: "busy" when there is no room, "timeout" when it takes too long. A call
                that has started goes on and keeps its worker until it ends.
        """
        if self.full:
            raise busy()
        loop = asyncio.get_running_loop()
        future = self._pool.submit(contextvars.copy_context().run, work)
        self.pending += 1

        def done(_: object) -> None:
            # Work may outlive a server that was stopped in the middle of it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._release)

        future.add_done_callback(done)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._time_limit)
        except asyncio.TimeoutError:
            raise RequestError(
                "timeout", f"no answer within {self._time_limit:g} s; try a smaller picture"
            ) from None

    def _release(self) -> None:
        self.pending -= 1

    async def drained(self, limit: float) -> bool:
        """Admit nothing more and wait for what runs, at most `limit` seconds."""
        self.closed = True
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        while self.pending and loop.time() < end:
            await asyncio.sleep(0.02)
        return self.pending == 0

    def close(self) -> None:
        """Let the threads end."""
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
