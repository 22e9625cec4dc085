"""How large an image may be, and what is said of one that is larger."""

from __future__ import annotations

UPLOAD_BYTES = 15_000_000
"""Largest file in bytes that a server takes from strangers."""

UPLOAD_PIXELS = 40_000_000
"""Largest width times height that a server takes from strangers."""

OWN_BYTES = 500_000_000
"""Largest file in bytes that library and command line read unless told otherwise."""

OWN_PIXELS = 250_000_000
"""Largest width times height that they read unless told otherwise: above any phone's camera.

Decoded whole, such an image takes 750 MB.
"""


def too_many_bytes(limit: int, came: int | None = None) -> str:
    """What to tell of a file with more than `limit` bytes; `came` where its size is known."""
    return (
        f"expected at most {limit:,} bytes an image, came {'more' if came is None else f'{came:,}'}"
        "; shrink the image or save it with more compression"
    )


def too_many_pixels(limit: int, size: tuple[int, int] | None = None) -> str:
    """What to tell of an image with more than `limit` pixels; `size` where it is known."""
    came = "more" if size is None else f"{size[0]} x {size[1]}"
    # Only who has set no limit is told how: strangers cannot.
    advice = ", or allow it with max_pixels (--max-pixels)" if limit == OWN_PIXELS else ""
    return f"expected at most {limit:,} pixels an image, came {came}; shrink the image{advice}"


MOST_THREADS = 1_024
"""Threads of a pipeline; more take minutes to start."""
