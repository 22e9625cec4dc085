"""What a request may cost; every value can be set by an environment variable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from faceattr.limits import UPLOAD_BYTES, UPLOAD_PIXELS, too_many_bytes
from page.errors import RequestError


def variable(name: str) -> str:
    """The environment variable that sets a limit."""
    return f"FACEATTR_{name.upper()}"


@dataclass(frozen=True)
class Limits:
    """Limits of one server; docs/api.md says what each bounds. Times are in seconds.

    Attributes:
        max_bytes: of one image's file.
        max_pixels: of one image.
        max_faces: of one image; the largest are kept.
        max_batch: images of one batch.
        max_collection: images of one collection on the page.
        max_request_bytes: of one request's body.
        max_held_bytes: of all bodies and uploads that are held; more are "too_much".
        head_time: in which a request's head has to come.
        body_time: in which a body has to come.
        workers: requests that are worked on at the same time.
        max_waiting: requests that wait; more are "busy".
        time_limit: that a request may be worked on, and that the line may stand still.
    """

    max_bytes: int = UPLOAD_BYTES
    max_pixels: int = UPLOAD_PIXELS
    max_faces: int = 100
    max_batch: int = 16
    max_collection: int = 50
    max_request_bytes: int = 120_000_000
    max_held_bytes: int = 200_000_000
    head_time: float = 10.0
    body_time: float = 60.0
    workers: int = 2
    max_waiting: int = 32
    time_limit: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "max_waiting" else 1
            if not (value >= least and math.isfinite(value)):
                raise ValueError(f"{variable(name)}: expected at least {least}, came {value}")

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
            text = environ.get(variable(item.name), "").strip()
            kind, wanted = (int, "whole number") if item.type == "int" else (float, "number")
            try:
                values |= {item.name: kind(text)} if text else {}
            except ValueError:
                raise ValueError(
                    f"{variable(item.name)}: expected a {wanted}, came {text!r}"
                ) from None
        return cls(**values)
