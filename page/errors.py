"""Why a request was refused; the message is safe to show to a client."""

from __future__ import annotations

STATUS = {
    "bad_request": 400,
    "not_found": 404,
    "not_allowed": 405,
    "too_slow": 408,
    "too_large": 413,
    "bad_picture": 422,
    "too_much": 429,
    "busy": 503,
    "timeout": 504,
    "internal": 500,
}
"""HTTP status by kind of error."""


class RequestError(Exception):
    """A request that gets no result.

    Attributes:
        kind: key of `STATUS`; stable, for programs.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.kind]

    def to_dict(self) -> dict[str, str]:
        """`kind` and `message`."""
        return {"kind": self.kind, "message": str(self)}


def busy() -> RequestError:
    """The answer when the queue is full."""
    return RequestError("busy", "busy, try again in a moment")


def too_much() -> RequestError:
    """The answer when the server holds as many images as it may."""
    return RequestError(
        "too_much", "the server holds too many pictures just now, try again in a moment"
    )


def internal() -> RequestError:
    """The answer to an error of ours; what happened stands in the server's log."""
    return RequestError("internal", "something went wrong on the server; it has been logged")
