"""JSON bodies of calls: their images go to the inbox as they come, at most 64 kB of the rest stay.

Gradio itself would download addresses without a cap, keep `data:` URLs in its session state and
copy files into a cache. What reaches it from here names an upload, or carries an address that
means nothing to it. Nothing is parsed as JSON before the images are out of it, so that neither
memory nor the event loop's time grows with what a client sends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
_SPECIAL = re.compile(rb'["\\]')


class JsonBody:
    """One JSON body.

    Attributes:
        inbox: for its images.
        most: images that the call may have; of others nothing is held.
        tokens: uploads that its `data:` URLs became.
    """

    def __init__(self, body: Body, inbox: Inbox, most: int) -> None:
        """Read nothing yet."""
        self.tokens: list[str] = []
        self._body = body
        self.inbox = inbox
        self.most = most
        self._rest = bytearray()
        self._text: bytearray | None = None
        self._in_string = False

    async def read(self) -> bytes:
        """The body with a token in place of each `data:` URL.

        Raises:
            RequestError: "too_large" with more than `MAX_REST` bytes beside images, "bad_request"
                for what is not JSON, or as `Body.part`.
        """
        carried = b""
        while not self._body.ended:
            carried = self._scan(carried + await self._body.part())
        if carried or self._in_string or self._text is not None:
            raise RequestError("bad_request", "the body is not JSON")
        return bytes(self._rest)

    def drop(self) -> None:
        """Forget its images."""
        for token in self.tokens:
            self.inbox.drop(token)

    def _scan(self, data: bytes) -> bytes:
        """Sort a part; returns its end where that says too little."""
        place = 0
        while place < len(data):
            if self._text is not None:
                step = self._image(data, place)
            elif self._in_string:
                step = self._string(data, place)
            else:
                step = self._between(data, place)
            if step == place:
                break
            place = step
        return data[place:]

    def _between(self, data: bytes, place: int) -> int:
        quote = data.find(b'"', place)
        self._keep(data[place : quote if quote >= 0 else len(data)])
        if quote < 0:
            return len(data)
        if len(data) - quote < len(_START) and not self._body.ended:
            return quote
        if data.startswith(_START, quote):
            self._text = bytearray()
            return quote + len(_START)
        self._keep(b'"')
        self._in_string = True
        return quote + 1

    def _string(self, data: bytes, place: int) -> int:
        found = _SPECIAL.search(data, place)
        if found is None:
            self._keep(data[place:])
            return len(data)
        if found[0] == b"\\":
            end = min(found.end() + 1, len(data))
            if end == found.end():
                self._keep(data[place : found.start()])
                return found.start()
        else:
            end, self._in_string = found.end(), False
        self._keep(data[place:end])
        return end

    def _image(self, data: bytes, place: int) -> int:
        quote = data.find(b'"', place)
        end = quote if quote >= 0 else len(data)
        if data[end - 1 : end] == b"\\" and end > place:
            if quote >= 0:
                raise RequestError("bad_request", "the data: URL is not valid base64")
            end -= 1
        # Some writers of JSON escape slashes.
        self._add(data[place:end].replace(b"\\/", b"/"))
        if quote < 0:
            return end
        self._keep(b'"' + self._end().encode() + b'"')
        return quote + 1

    @property
    def _is_full(self) -> bool:
        return len(self.tokens) >= self.most

    def _end(self) -> str:
        """The image that came last, as a token."""
        assert self._text is not None
        text, self._text = self._text, None
        if self._is_full:
            return SURPLUS
        token = self.inbox.put(bytes(text), len(text), is_url=True)
        self._body.hand_over(len(text))
        self.tokens.append(token)
        return token

    def _add(self, text: bytes) -> None:
        assert self._text is not None
        # What is too large anyway need not be held: its length is enough for the refusal.
        room = 0 if self._is_full else self.inbox.longest_url + 1 - len(self._text)
        self._body.hold(len(text[:room]))
        self._text += text[:room]

    def _keep(self, part: bytes) -> None:
        if len(self._rest) + len(part) > MAX_REST:
            raise RequestError(
                "too_large",
                f"expected at most {MAX_REST:,} bytes of JSON beside its pictures, came more",
            )
        self._rest += part


def as_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        RequestError: when it is none.
    """
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("bad_request", "the body is not JSON") from None
    if not isinstance(values, dict):
        raise RequestError("bad_request", "expected a JSON object")
    return values


def rewrite(body: bytes, letter: JsonBody, defaults: Sequence[Any] | None) -> bytes:
    """The body of a call with each image as `{"url": "inbox:…"}`.

    Args:
        body: JSON object whose images are tokens, addresses or file data.
        letter: that it came from; with too many images all are forgotten, and the reason comes
            the way of an answer.
        defaults: of each argument in its list "data"; those left out at its end are added.

    Raises:
        RequestError: when the body is no JSON object, or "data" no list of that length.
    """
    values = as_object(body)
    if defaults is not None:
        data = values.get("data")
        if not isinstance(data, list) or len(data) > len(defaults):
            raise RequestError(
                "bad_request", f'expected "data" as a list of at most {len(defaults)} values'
            )
        values["data"] = [*data, *defaults[len(data) :]]
    references = _References(letter.most)
    try:
        return orjson.dumps(references.walk(values, MAX_DEPTH))
    except _TooManyError:
        reason = RequestError("bad_request", f"expected 1 to {letter.most} pictures, came more")
    data = values.get("data")
    if not isinstance(data, list):
        raise reason
    letter.drop()
    values["data"] = [{"url": REFERENCE + letter.inbox.put(reason)}, *[None] * (len(data) - 1)]
    return orjson.dumps(values)


class _TooManyError(Exception):
    pass


class _References:
    """Puts references in place of images, and counts them."""

    def __init__(self, most: int) -> None:
        self._left = most

    def walk(self, value: Any, depth: int) -> Any:
        if depth == 0:
            raise RequestError("bad_request", "the JSON is nested too deeply")
        if isinstance(value, list):
            return [self.walk(item, depth - 1) for item in value]
        if isinstance(value, str) and value.startswith(("upload-", "data:", "http://", "https://")):
            return self._reference(value)
        if not isinstance(value, dict):
            return value
        path, url = value.get("path"), value.get("url")
        if isinstance(url, str) and not (isinstance(path, str) and path.startswith("upload-")):
            return self._reference(url)
        if isinstance(path, str):
            return self._reference(path)
        return {name: self.walk(item, depth - 1) for name, item in value.items()}

    def _reference(self, address: Any) -> dict[str, str]:
        self._left -= 1
        if self._left < 0:
            raise _TooManyError
        return {"url": REFERENCE + address}
