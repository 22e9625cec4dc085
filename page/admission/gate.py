"""A bounded queue before a few worker threads, with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from page.errors import RequestError

T = TypeVar("T")
log = logging.getLogger("faceattr")


class Gate:
    """Admits work while there is room; all methods run on the event loop's thread."""

    def __init__(self, workers: int, waiting: int, time_limit: float) -> None:
        """Start no thread yet.

        Args:
            workers: calls that run at the same time.
            waiting: calls that may wait for a worker.
            time_limit: seconds that a call may run, and that the line may stand still.
        """
        self.capacity = workers + waiting
        self.pending = 0
        self.closed = False
        self._time_limit = time_limit
        self._moved = 0.0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="faces")

    @property
    def full(self) -> bool:
        """Whether the next call would be refused."""
        return self.closed or self.pending >= self.capacity

    async def run(self, work: Callable[[], T]) -> T:
        """Call `work` in a worker thread, with the caller's context variables.

        Where the machine is slow a call waits as long as those before it take: it is given up
        only when none of them has begun for the time limit.

        Raises:
            RequestError: as `work`; "internal" for any other error of it, which is logged; "busy"
                when there is no room; "timeout" when it takes too long. A call that has started
                goes on and keeps its worker until it ends.
        """
        if self.full:
            raise RequestError("busy")
        loop, came = asyncio.get_running_loop(), time.monotonic()
        began: list[float] = []

        def turn() -> T:
            self._moved = time.monotonic()
            began.append(self._moved)
            return _guarded(work)

        def done(_: object) -> None:
            # Work may outlive a server that was stopped in the middle of it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._release)

        self.pending += 1
        future = self._pool.submit(contextvars.copy_context().run, turn)
        future.add_done_callback(done)
        answer = asyncio.wrap_future(future)
        try:
            while not answer.done():
                since = began[0] if began else max(came, self._moved)
                left = since + self._time_limit - time.monotonic()
                if left <= 0:
                    raise RequestError(
                        "timeout", f"no answer within {self._time_limit:g} s; try a smaller picture"
                    )
                await asyncio.wait([answer], timeout=left)
            return answer.result()
        except asyncio.CancelledError:
            if self.closed:
                raise RequestError("busy", "the server is stopping") from None
            raise
        finally:
            # Of a cancelled one nothing is told to a loop that may be closed by then.
            answer.cancel()
            future.cancel()

    def _release(self) -> None:
        self.pending -= 1

    async def drained(self, limit: float) -> bool:
        """Admit nothing more and wait for what runs, at most `limit` seconds."""
        self.closed = True
        end = time.monotonic() + limit
        while self.pending and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return self.pending == 0

    def close(self) -> None:
        """Let the threads end."""
        self.closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except RequestError:
        raise
    # The boundary to strangers: an error of ours must not carry its text to them.
    except Exception:
        log.exception("a request failed")
        raise RequestError("internal") from None
