"""The bodies of requests while they come: bounded in bytes, in time, and all of them together."""

from __future__ import annotations

import asyncio
import threading

import anyio
from starlette.types import Message, Receive

from page.errors import RequestError, too_much
from page.limits import Limits


class Budget:
    """Bytes of pictures that are held at the same time; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        """Hold nothing yet."""
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Hold more.

        Raises:
            RequestError: "too_much", when that would be over the limit.
        """
        with self._lock:
            if self.held + count > self.limit:
                raise too_much()
            self.held += count

    def remove(self, count: int) -> None:
        """Hold less."""
        with self._lock:
            self.held -= count


class Body:
    """One request's body."""

    def __init__(self, receive: Receive, limits: Limits, budget: Budget) -> None:
        """Start the clock.

        Args:
            receive: what the server gives to the application.
            limits: of bytes and seconds.
            budget: in which the bytes count until `release`.
        """
        self._receive = receive
        self._limits = limits
        self._budget = budget
        self._start = asyncio.get_running_loop().time()
        self._count = 0
        self._ended = False

    async def receive(self) -> Message:
        """The next part, and after the last one what the client does next.

        Raises:
            RequestError: "too_large", "too_slow", or "too_much".
        """
        if self._ended:
            return await self._receive()
        message = await self._next()
        count, limit = len(message.get("body", b"")), self._limits.max_request_bytes
        if self._count + count > limit:
            raise over(limit)
        self._budget.add(count)
        self._count += count
        self._ended = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        limit = self._limits.body_time
        passed = asyncio.get_running_loop().time() - self._start
        with anyio.move_on_after(max(0.0, limit - passed)):
            return await self._receive()
        raise RequestError(
            "too_slow", f"expected the whole request within {limit:g} s; send a smaller picture"
        )

    async def read(self) -> bytes:
        """All of it.

        Raises:
            RequestError: as `receive`, and "bad_request" when the client went away.
        """
        content = bytearray()
        while not self._ended:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise RequestError("bad_request", "the request was cut off")
            content += message.get("body", b"")
        return bytes(content)

    def release(self) -> None:
        """Let its bytes count no longer."""
        self._budget.remove(self._count)
        self._count = 0


def over(limit: int) -> RequestError:
    """A body larger than the limit."""
    return RequestError("too_large", f"expected at most {limit:,} bytes a request, came more")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once and then what the client does next."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
