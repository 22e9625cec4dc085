"""What a request may cost; every value can be set by an environment variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from faceattr.limits import UPLOAD_BYTES, UPLOAD_PIXELS, too_many_bytes
from page.errors import RequestError


def _limit(default: Any, variable: str, meaning: str) -> Any:
    return field(default=default, metadata={"variable": variable, "meaning": meaning})


@dataclass(frozen=True)
class Limits:
    """Limits of one server; see each field's metadata for its variable and meaning."""

    max_bytes: int = _limit(UPLOAD_BYTES, "FACEATTR_MAX_BYTES", "bytes of one picture's file")
    max_pixels: int = _limit(UPLOAD_PIXELS, "FACEATTR_MAX_PIXELS", "pixels of one picture")
    max_faces: int = _limit(100, "FACEATTR_MAX_FACES", "faces of one picture; the largest are kept")
    max_batch: int = _limit(16, "FACEATTR_MAX_BATCH", "pictures of one batch")
    max_collection: int = _limit(
        50, "FACEATTR_MAX_COLLECTION", "pictures of one collection on the page"
    )
    max_request_bytes: int = _limit(
        120_000_000, "FACEATTR_MAX_REQUEST_BYTES", "bytes of one request's body"
    )
    max_held_bytes: int = _limit(
        200_000_000,
        "FACEATTR_MAX_HELD_BYTES",
        "bytes of all bodies and uploads that are held; more are answered with `too_much`",
    )
    head_time: float = _limit(
        10.0, "FACEATTR_HEAD_TIME", "seconds in which a request's head has to come"
    )
    body_time: float = _limit(60.0, "FACEATTR_BODY_TIME", "seconds in which a body has to come")
    workers: int = _limit(2, "FACEATTR_WORKERS", "requests that are worked on at the same time")
    max_waiting: int = _limit(
        32, "FACEATTR_MAX_WAITING", "requests that wait; more are answered with `busy`"
    )
    time_limit: float = _limit(
        30.0,
        "FACEATTR_TIME_LIMIT",
        "seconds that a request may be worked on, and that the line may stand still",
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), 0 if item.name == "max_waiting" else 1
            if not (value >= least and math.isfinite(value)):
                raise ValueError(
                    f"{item.metadata['variable']}: expected at least {least}, came {value}"
                )

    def check(self, count: int) -> None:
        """Refuse an image by the bytes of its file.

        Raises:
            RequestError: "too_large".
        """
        if count > self.max_bytes:
            raise RequestError("too_large", too_many_bytes(self.max_bytes, count))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Limits:
        """Read the variables that are set.

        Raises:
            ValueError: naming the variable and what it expects.
        """
        values: dict[str, Any] = {}
        for item in fields(cls):
            text = environ.get(item.metadata["variable"], "").strip()
            if text:
                values[item.name] = _parsed(text, item.default, item.metadata["variable"])
        return cls(**values)


def _parsed(text: str, default: object, variable: str) -> int | float:
    kind, wanted = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{variable}: expected {wanted}, came {text!r}") from None
