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


MESSAGES = {
    "busy": "busy, try again in a moment",
    "too_much": "the server holds too many pictures just now, try again in a moment",
    "internal": "something went wrong on the server; it has been logged",
}
"""What is said where nothing else is."""


class RequestError(Exception):
    """A request that gets no result.

    Attributes:
        kind: key of `STATUS`; stable, for programs.
        allowed: methods that the address has, for "not_allowed".
    """

    def __init__(self, kind: str, message: str = "", allowed: str = "") -> None:
        super().__init__(message or MESSAGES[kind])
        self.kind = kind
        self.allowed = allowed

    def to_dict(self) -> dict[str, str]:
        """`kind` and `message`."""
        return {"kind": self.kind, "message": str(self)}
