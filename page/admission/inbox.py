"""Images between the request that brings them and the one that uses them, in memory."""

from __future__ import annotations

import base64
import binascii
import math
import re
import secrets
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import unquote

from page.errors import RequestError
from page.limits import Limits
from page.service import Source

KEPT_S = 120.0
"""Seconds after which an upload that no request has used is forgotten."""
SAFE_S = 10.0
"""Seconds in which it stays even where another one needs its room."""
LEAST = 4_000
"""Bytes that every upload counts at least, for what surrounds it."""

_TOKEN = re.compile(r"upload-[0-9a-f]{32}")
_FILE = "/gradio_api/file="
REFERENCE = "inbox:"
"""What the front door writes before a reference, so that Gradio takes it for no address."""


@dataclass(frozen=True)
class _Entry:
    content: bytes | RequestError
    is_url: bool
    counted: int
    since: float


class Inbox:
    """Uploads by token; each is an image's bytes, or why there are none. Thread-safe.

    Attributes:
        held: bytes of images that are here, or come and go with a request, in all.
    """

    def __init__(self, limits: Limits) -> None:
        """Hold nothing yet."""
        self.held = 0
        self._limits = limits
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Uploads that wait."""
        return len(self._entries)

    def hold(self, count: int, *, spare: bool = True) -> None:
        """Let so many bytes more count.

        Args:
            count: bytes.
            spare: whether they may take the last quarter, which is kept for small requests.

        Raises:
            RequestError: "too_much", when that would be over the limit.
        """
        limit = self._limits.max_held_bytes * (4 if spare else 3) // 4
        with self._lock:
            if self.held + count > limit:
                raise RequestError("too_much")
            self.held += count

    def let_go(self, count: int) -> None:
        """Let so many bytes count no longer."""
        with self._lock:
            self.held -= count

    @property
    def longest_url(self) -> int:
        """Characters of the longest `data:` URL, without its scheme."""
        return self._limits.max_bytes * 4 // 3 + 1_000

    def put(self, content: bytes | RequestError, counted: int = 0, *, is_url: bool = False) -> str:
        """Keep an image, or the reason why it is none, and return its token.

        Args:
            content: bytes of a file, or of the text of a `data:` URL without its scheme.
            counted: how many of them count already; the inbox lets them go.
            is_url: which of both it is.

        Raises:
            RequestError: "too_large" for a file, or "too_much" when too much waits.
        """
        size = 0 if isinstance(content, RequestError) else len(content)
        if not is_url:
            self._limits.check(size)
        size = max(size, LEAST)
        try:
            self.hold(size - counted)
        except RequestError:
            self.sweep(older_than=SAFE_S)
            self.hold(size - counted)
        token = f"upload-{secrets.token_hex(16)}"
        with self._lock:
            self._entries[token] = _Entry(content, is_url, size, time.monotonic())
        return token

    def peek(self, token: str) -> bytes | None:
        """The file behind a token, which stays; None where there is none."""
        entry = self._entries.get(token)
        if entry is None or entry.is_url or isinstance(entry.content, RequestError):
            return None
        return entry.content

    def sources(self, payload: Any, *, keep: bool = False) -> list[Source]:
        """What stands behind an image of a request, or behind each of a list of them.

        It stays from now on until a source is called, or `drop`: a request that waits in line
        keeps its images, however long it waits.

        Args:
            payload: a token, `{"path": …}` or `{"url": …}`, or a list of such.
            keep: whether each stays until `drop` alone, to be read more than once.

        Raises:
            RequestError: where the front door refused a list as a whole.
        """
        if isinstance(payload, list):
            return [self._source(item, keep) for item in payload]
        source = self._source(payload, keep)
        entry = self._entries.get(_token(payload))
        if entry is not None and isinstance(entry.content, RequestError):
            raise entry.content
        return [source]

    def _source(self, payload: Any, keep: bool) -> Source:
        token = _token(payload)
        if _TOKEN.fullmatch(token):
            with self._lock:
                if entry := self._entries.get(token):
                    self._entries[token] = replace(entry, since=math.inf)
            return partial(self._read if keep else self.take, token)
        if token.startswith(("http://", "https://")):
            return RequestError(
                "bad_request",
                "this server fetches no pictures from addresses; send or upload the picture itself",
            )
        if token:
            return RequestError(
                "bad_request", "the path is not that of an uploaded file; upload the picture first"
            )
        return RequestError("bad_request", "no picture came with the request")

    def take(self, token: str) -> bytes:
        """The image behind a token, which is forgotten here; for worker threads.

        Raises:
            RequestError: "bad_request" when it was used before or waited too long, or why there
                is none.
        """
        return self._content(self._remove(token))

    def _read(self, token: str) -> bytes:
        """The same, and it stays."""
        return self._content(self._entries.get(token))

    def _content(self, entry: _Entry | None) -> bytes:
        if entry is None:
            raise RequestError(
                "bad_request", "this upload is gone: each can be used once; upload it again"
            )
        if isinstance(entry.content, RequestError):
            raise entry.content
        return self._decoded(entry.content) if entry.is_url else entry.content

    def _decoded(self, url: bytes) -> bytes:
        encoded = url.partition(b",")[2]
        self._limits.check(len(encoded) * 3 // 4 - 2)
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("bad_picture", "the data: URL is not valid base64") from None

    def drop(self, payload: Any) -> None:
        """Forget the uploads that an image, or a list of them, stands for, if they are here."""
        for item in payload if isinstance(payload, list) else [payload]:
            self._remove(_token(item))

    def sweep(self, older_than: float = KEPT_S) -> None:
        """Forget what no request has asked for since more than so many seconds ago."""
        limit = time.monotonic() - older_than
        for token, entry in list(self._entries.items()):
            if entry.since <= limit:
                self._remove(token)

    def _remove(self, token: str) -> _Entry | None:
        with self._lock:
            entry = self._entries.pop(token, None)
        if entry is not None:
            self.let_go(entry.counted)
        return entry


def _token(payload: Any) -> str:
    """What a request says of an image: the token of an upload, or another address."""
    if isinstance(payload, dict):
        payload = payload.get("path") or payload.get("url")
    text = payload.removeprefix(REFERENCE) if isinstance(payload, str) else ""
    return unquote(text.rpartition(_FILE)[2]) if _FILE in text else text
