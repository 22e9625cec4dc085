"""The bodies of requests while they come: bounded in bytes, in time, and all of them together."""

from __future__ import annotations

import asyncio

import anyio
from starlette.types import Message, Receive

from page.admission.inbox import Inbox
from page.errors import RequestError
from page.limits import Limits


class Body:
    """One request's body."""

    def __init__(self, receive: Receive, limits: Limits, inbox: Inbox) -> None:
        """Start the clock.

        Args:
            receive: what the server gives to the application.
            limits: of bytes and seconds.
            inbox: where its bytes count while they are held.
        """
        self._receive = receive
        self._limits = limits
        self._inbox = inbox
        self._end = asyncio.get_running_loop().time() + limits.body_time
        self._came = 0
        self._held = 0
        self.ended = False

    async def part(self) -> Message:
        """The next part; the caller holds it.

        Raises:
            RequestError: "too_large" or "too_slow".
        """
        with anyio.move_on_at(self._end):
            message = await self._receive()
            self._came += len(message.get("body", b""))
            if self._came > self._limits.max_request_bytes:
                raise over(self._limits.max_request_bytes)
            self.ended = not message.get("more_body", False)
            return message
        raise RequestError(
            "too_slow",
            f"expected the whole request within {self._limits.body_time:g} s; send a smaller "
            "picture",
        )

    async def receive(self) -> Message:
        """The next part, which counts until `release`, and after the last what the client does.

        Raises:
            RequestError: as `part`, or "too_much".
        """
        if self.ended:
            return await self._receive()
        message = await self.part()
        self.hold(len(message.get("body", b"")))
        return message

    def hold(self, count: int) -> None:
        """Let so many bytes count until `release`.

        Raises:
            RequestError: "too_much".
        """
        self._inbox.hold(count, spare=self._held + count <= self._limits.max_bytes)
        self._held += count

    def hand_over(self, count: int) -> None:
        """Leave so many of the bytes it holds to another to count, and to let go."""
        self._held -= count

    def release(self) -> None:
        """Let its bytes count no longer."""
        self._inbox.let_go(self._held)
        self._held = 0


def over(limit: int) -> RequestError:
    """A body larger than the limit."""
    return RequestError("too_large", f"expected at most {limit:,} bytes a request, came more")
