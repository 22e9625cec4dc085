"""Whether the Hub can be reached: asked briefly, and a silence is remembered."""

from __future__ import annotations

import threading
import time

RETRY_S = 120.0
"""Seconds for which a Hub that did not answer is taken to be out of reach.

One start looks for several files there; each wait of its own would add up.
"""

_silent_until = 0.0


def hub_answers(url: str, limit: float) -> bool:
    """Whether the Hub answers a question about one of its files; an HTTP error is an answer.

    Args:
        url: address of the file.
        limit: longest wait in seconds.
    """
    global _silent_until
    if time.monotonic() < _silent_until:
        return False
    answers: list[bool] = []
    # The client may ask for more than the file, with limits of its own: hence a thread that can
    # be left behind.
    thread = threading.Thread(target=_ask, args=(url, limit, answers), name="hub", daemon=True)
    thread.start()
    thread.join(limit)
    if answers == [True]:
        return True
    _silent_until = time.monotonic() + RETRY_S
    return False


def _ask(url: str, limit: float, answers: list[bool]) -> None:
    """Append whether there was an answer to one request; `hf_hub_download` retries for 23 s."""
    # Imported here: local weights need neither, and together they take a quarter of a second.
    import httpx2
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(url, timeout=limit)
        answers.append(True)
    except HfHubHTTPError:
        answers.append(True)
    except (httpx2.HTTPError, OSError):
        answers.append(False)
