"""Every way a picture can come in over Gradio's protocol becomes an upload or a clear refusal.

Gradio itself would download addresses without a cap, keep `data:` URLs in its session state and
copy files into a cache. A front door before it rewrites each request, so that what reaches it
names an upload of ours or carries the reason why there is none.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from page.errors import STATUS, RequestError
from page.limits import Limits
from page.remote import fetch
from page.service import Source
from page.uploads import Uploads

UPLOAD, ERROR = "upload:", "error:"
_DEPTH = 6


class Intake:
    """Rewrites the JSON bodies of Gradio's calls."""

    def __init__(self, uploads: Uploads, limits: Limits) -> None:
        self._uploads = uploads
        self._limits = limits

    async def rewrite(self, body: bytes, defaults: Sequence[Any] | None = None) -> bytes:
        """The body with every picture replaced by `{"url": "upload:…"}` or `{"url": "error:…"}`.

        Args:
            body: JSON object.
            defaults: of each argument in its list "data"; those left out at its end are added.

        Raises:
            RequestError: when the body is no JSON object, or "data" no list of that length.
        """
        try:
            values = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise RequestError("bad_request", "the body is not JSON") from None
        if not isinstance(values, dict):
            raise RequestError("bad_request", "expected a JSON object")
        if defaults is not None:
            data = values.get("data")
            if not isinstance(data, list) or len(data) > len(defaults):
                raise RequestError(
                    "bad_request", f'expected "data" as a list of at most {len(defaults)} values'
                )
            values["data"] = [*data, *defaults[len(data) :]]
        return orjson.dumps(await self._walk(values, _DEPTH))

    async def _walk(self, value: Any, depth: int) -> Any:
        if depth == 0:
            raise RequestError("bad_request", "the JSON is nested too deeply")
        if isinstance(value, list):
            return [await self._walk(item, depth - 1) for item in value]
        if isinstance(value, str) and value.startswith(("data:", "http://", "https://")):
            return await self._picture({"url": value})
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("path"), str) or isinstance(value.get("url"), str):
            return await self._picture(value)
        return {name: await self._walk(item, depth - 1) for name, item in value.items()}

    async def _picture(self, value: dict[str, Any]) -> dict[str, str]:
        path, url = value.get("path"), value.get("url")
        try:
            if isinstance(path, str) and self._uploads.holds(path):
                return {"url": UPLOAD + path}
            address = path if isinstance(path, str) and path.startswith("http") else url
            if isinstance(address, str) and address.startswith("data:"):
                content = await asyncio.to_thread(self._from_data_url, address)
            elif isinstance(address, str) and address.startswith(("http://", "https://")):
                content = await self._from_address(address)
            else:
                raise RequestError(
                    "bad_request",
                    "the path is not that of an uploaded file; upload the picture first",
                )
            saved = await asyncio.to_thread(self._uploads.save, content, "picture")
        except RequestError as error:
            return {"url": f"{ERROR}{error.kind}:{error}"}
        return {"url": f"{UPLOAD}{saved}"}

    def _from_data_url(self, url: str) -> bytes:
        encoded = url.partition(",")[2]
        self._uploads.check(len(encoded) * 3 // 4 - 2)
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("bad_picture", "the data: URL is not valid base64") from None

    async def _from_address(self, url: str) -> bytes:
        if not self._limits.remote_urls:
            raise RequestError(
                "bad_request",
                "this server fetches no pictures from addresses; send or upload the picture itself",
            )
        return await fetch(url, self._limits.max_bytes)


def to_source(payload: Any, uploads: Uploads) -> Source:
    """What a rewritten picture stands for."""
    url = payload.get("url") if isinstance(payload, dict) else None
    if isinstance(url, str) and url.startswith(UPLOAD):
        return lambda: uploads.take(url[len(UPLOAD) :])
    if isinstance(url, str) and url.startswith(ERROR):
        kind, _, message = url[len(ERROR) :].partition(":")
        return RequestError(kind if kind in STATUS else "bad_request", message)
    return RequestError("bad_request", "no picture came with the request")


def drop(payloads: Sequence[Any], uploads: Uploads) -> None:
    """Delete the uploads that rewritten pictures stand for, where no work has read them."""
    for payload in payloads:
        url = payload.get("url") if isinstance(payload, dict) else None
        if isinstance(url, str) and url.startswith(UPLOAD):
            uploads.drop(url[len(UPLOAD) :])


Receive = Callable[[], Awaitable[Any]]


async def read_body(receive: Receive, limit: int) -> bytes:
    """A request's whole body.

    Raises:
        RequestError: "too_large", or "bad_request" when the client went away.
    """
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("bad_request", "the request was cut off")
        content += message.get("body", b"")
        if len(content) > limit:
            raise over(limit)
        if not message.get("more_body", False):
            return bytes(content)


def over(limit: int) -> RequestError:
    """A body larger than the limit."""
    return RequestError("too_large", f"expected at most {limit:,} bytes a request, came more")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once and then what the client does next."""
    sent = False

    async def again() -> Any:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def capped(receive: Receive, limit: int) -> Receive:
    """A `receive` that raises `RequestError` once more than `limit` bytes have come."""
    count = 0

    async def counted() -> Any:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > limit:
            raise over(limit)
        return message

    return counted
