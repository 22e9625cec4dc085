"""Whether the Hub can be reached: asked briefly, and a silence is remembered."""

from __future__ import annotations

import time

RETRY_S = 120.0
"""Seconds for which a Hub that did not answer is taken to be out of reach.

One start looks for several files there; each wait of its own would add up.
"""

_silent_until = 0.0


def hub_answers(url: str, limit: float) -> bool:
    """Whether the Hub answers a question about one of its files; an HTTP error is an answer.

    The Hub's client retries for about 23 s; this one request without retries goes first.

    Args:
        url: address of the file.
        limit: longest wait in seconds.
    """
    # Imported here: local weights need neither, and together they take a quarter of a second.
    import httpx2
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    global _silent_until
    if time.monotonic() < _silent_until:
        return False
    try:
        get_hf_file_metadata(url, timeout=limit)
    except HfHubHTTPError:
        return True
    except (httpx2.HTTPError, OSError):
        _silent_until = time.monotonic() + RETRY_S
        return False
    return True
