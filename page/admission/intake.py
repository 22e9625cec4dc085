"""Every way a picture can come in over Gradio's protocol becomes an upload or a clear refusal.

Gradio itself would download addresses without a cap, keep `data:` URLs in its session state and
copy files into a cache. A front door before it rewrites each request, so that what reaches it
names an upload of ours or carries the reason why there is none.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import orjson

from page.admission.remote import fetch
from page.admission.uploads import Uploads
from page.errors import STATUS, RequestError
from page.limits import Limits
from page.service import Source

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
        values = _object(body)
        if defaults is not None:
            data = values.get("data")
            if not isinstance(data, list) or len(data) > len(defaults):
                raise RequestError(
                    "bad_request", f'expected "data" as a list of at most {len(defaults)} values'
                )
            values["data"] = [*data, *defaults[len(data) :]]
        return orjson.dumps(await self._walk(values, _DEPTH))

    async def rewrite_tool_call(self, body: bytes) -> bytes:
        """The same for the arguments of a tool, in the Model Context Protocol.

        Raises:
            RequestError: when the body is no JSON object.
        """
        values = _object(body)
        parameters = values.get("params")
        if values.get("method") != "tools/call" or not isinstance(parameters, dict):
            return body
        parameters["arguments"] = await self._walk(parameters.get("arguments"), _DEPTH)
        return orjson.dumps(values)

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
            held = _file(address)
            if held is not None and self._uploads.holds(held):
                return {"url": UPLOAD + held}
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


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("bad_request", "the body is not JSON") from None
    if not isinstance(values, dict):
        raise RequestError("bad_request", "expected a JSON object")
    return values


def _file(address: Any) -> str | None:
    """The path in the address of an upload, which is what Gradio's upload helpers send."""
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        return None
    return unquote(address.partition("/gradio_api/file=")[2]) or None


def _reference(payload: Any) -> str:
    """What a rewritten picture, or the path of an upload, refers to."""
    url = payload.get("url") if isinstance(payload, dict) else None
    if isinstance(payload, str):
        return UPLOAD + payload
    return url if isinstance(url, str) else ""


def to_source(payload: Any, uploads: Uploads) -> Source:
    """What a rewritten picture, or the path of an upload, stands for."""
    reference = _reference(payload)
    if reference.startswith(UPLOAD):
        return lambda: uploads.take(reference[len(UPLOAD) :])
    if reference.startswith(ERROR):
        kind, _, message = reference[len(ERROR) :].partition(":")
        return RequestError(kind if kind in STATUS else "bad_request", message)
    return RequestError("bad_request", "no picture came with the request")


def drop(payloads: Sequence[Any], uploads: Uploads) -> None:
    """Delete the uploads that pictures stand for, where no work has read them."""
    for payload in payloads:
        reference = _reference(payload)
        if reference.startswith(UPLOAD):
            uploads.drop(reference[len(UPLOAD) :])
