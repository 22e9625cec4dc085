"""JSON bodies of calls: their images go to the inbox as they come, at most 64 kB of the rest stay.

Gradio itself would download addresses without a cap, keep `data:` URLs in its session state and
copy files into a cache. What reaches it from here names an upload, or carries an address that
means nothing to it. Nothing is parsed as JSON before the images are out of it, so that neither
memory nor the event loop's time grows with what a client sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from page.admission.body import Body
from page.admission.inbox import REFERENCE, Inbox
from page.errors import RequestError

MAX_REST = 64_000
"""Bytes of a body beside its images; a call has a few hundred."""
MAX_DEPTH = 6
SURPLUS = "upload-" + "0" * 32
"""Stands for an image beyond those that a call may have; nothing of it is held."""
_START = b'"data:'
_PLAIN = re.compile(rb'(?:[^"]+|"(?!data:)(?:[^"\\]|\\.)*")*', re.S)
"""What lies before an image: anything between strings, and whole strings of another kind."""
_AT_ONCE = 16_000
"""Bytes that are gathered before they are looked at: a client may send them one by one."""


class JsonBody:
    """One JSON body.

    Attributes:
        tokens: uploads that its `data:` URLs became.
    """

    def __init__(self, body: Body, inbox: Inbox, most: int) -> None:
        """Read nothing yet.

        Args:
            body: to read from.
            inbox: for its images.
            most: images that the call may have; of others nothing is held.
        """
        self.tokens: list[str] = []
        self._body = body
        self._inbox = inbox
        self._most = most
        self._rest = bytearray()
        self._place = 0
        self._image: bytearray | None = None

    async def read(self) -> bytes:
        """The body with a token in place of each `data:` URL.

        Raises:
            RequestError: "too_large" with more than `MAX_REST` bytes beside images, "bad_request"
                for what is not JSON or was cut off, or as `Body.part`.
        """
        seen = 0
        while not self._body.ended:
            message = await self._body.part()
            if message["type"] == "http.disconnect":
                raise RequestError("bad_request", "the request was cut off")
            self._rest += message.get("body", b"")
            if self._body.ended or len(self._rest) - seen > _AT_ONCE:
                self._sort()
                seen = len(self._rest)
        if self._image is not None or self._place < len(self._rest):
            raise RequestError("bad_request", "the body is not JSON")
        return bytes(self._rest)

    def drop(self) -> None:
        """Forget its images."""
        self._inbox.drop(self.tokens)

    def _sort(self) -> None:
        """Move what came of images out of the rest."""
        rest = self._rest
        while True:
            if self._image is None:
                self._place = _PLAIN.match(rest, self._place).end()  # type: ignore[union-attr]
                if not rest.startswith(_START, self._place):
                    break
                del rest[self._place + 1 : self._place + len(_START)]
                self._place += 1
                self._image = bytearray()
            quote = rest.find(b'"', self._place)
            end = quote if quote >= 0 else len(rest)
            self._add(rest[self._place : end])
            if quote < 0:
                del rest[self._place :]
                break
            token = self._end(self._image).encode()
            rest[self._place : end] = token
            self._place += len(token) + 1
            self._image = None
            self._check(self._place)
        self._check(len(rest))

    def _check(self, count: int) -> None:
        if count > MAX_REST:
            raise RequestError(
                "too_large",
                f"expected at most {MAX_REST:,} bytes of JSON beside its pictures, came more",
            )

    def _add(self, text: bytearray) -> None:
        """More of an image; what is too large anyway need not be held, its length is enough."""
        assert self._image is not None
        is_surplus = len(self.tokens) >= self._most
        room = 0 if is_surplus else self._inbox.longest_url + 1 - len(self._image)
        self._body.hold(len(text[:room]))
        self._image += text[:room]

    def _end(self, image: bytearray) -> str:
        """The image that came last, as a token."""
        if len(self.tokens) >= self._most:
            return SURPLUS
        # Some writers of JSON escape slashes; nothing else is escaped in base64.
        text = bytes(image) if b"\\" not in image else bytes(image).replace(b"\\/", b"/")
        if b"\\" in text:
            raise RequestError("bad_request", "the data: URL is not valid base64")
        token = self._inbox.put(text, len(text), is_url=True)
        self._body.hand_over(len(text))
        self.tokens.append(token)
        return token

    def call(self, body: bytes, fitted: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
        """What `read` gave, with each image as `{"url": "inbox:…"}`.

        Args:
            body: JSON object whose images are tokens, addresses or file data. With too many
                images all are forgotten, and the reason comes the way of an answer.
            fitted: makes of the object what Gradio takes, or refuses it.

        Raises:
            RequestError: when the body is no JSON object, or as `fitted`.
        """
        try:
            values = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise RequestError("bad_request", "the body is not JSON") from None
        if not isinstance(values, dict):
            raise RequestError("bad_request", "expected a JSON object")
        values = fitted(values)
        data = values.get("data")
        addresses: list[str] = []
        referring = _referring(values, MAX_DEPTH, addresses)
        if len(addresses) <= self._most:
            return orjson.dumps(referring)
        wanted = "one picture" if self._most == 1 else f"1 to {self._most} pictures"
        reason = RequestError("bad_request", f"expected {wanted}, came more")
        if not isinstance(data, list):
            raise reason
        self.drop()
        token = self._inbox.put(reason)
        self.tokens = [token]
        values["data"] = [{"url": REFERENCE + token}, *[None] * (len(data) - 1)]
        return orjson.dumps(values)


def _referring(value: Any, depth: int, addresses: list[str]) -> Any:
    """The same with references in place of images, whose addresses are noted."""
    if depth == 0:
        raise RequestError("bad_request", "the JSON is nested too deeply")
    if isinstance(value, list):
        return [_referring(item, depth - 1, addresses) for item in value]
    address = None
    if isinstance(value, str) and value.startswith(("upload-", "data:", "http://", "https://")):
        address = value
    elif isinstance(value, dict):
        path, url = value.get("path"), value.get("url")
        is_upload = isinstance(path, str) and path.startswith("upload-")
        address = url if isinstance(url, str) and not is_upload else path
        if not isinstance(address, str):
            return {name: _referring(item, depth - 1, addresses) for name, item in value.items()}
    if address is None:
        return value
    addresses.append(address)
    return {"url": REFERENCE + address}
