"""All that is used of Gradio beyond its documented parts; checked when the page is built."""

from __future__ import annotations

import re
import sys
import time
from copy import copy
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.applications import Starlette

from page.errors import RequestError

TESTED = "6.31"
"""The minor version of Gradio that this file was written for."""


def _moved(what: str) -> RuntimeError:
    return RuntimeError(
        f"Gradio {gr.__version__} has no {what} as this page needs it; "
        f"install the version that was tested: pip install 'gradio~={TESTED}.0'"
    )


try:
    from gradio.routes import App
    from gradio.state_holder import SessionState, StateHolder
except ImportError as _error:
    raise _moved(f"module or class ({_error})") from _error

_ANSWER = re.compile(r"/gradio_api/call/(v2/)?[\w-]+/(?P<event>[\w-]+)/?")
_QUEUE = (
    "pending_messages_per_session",
    "pending_event_ids_session",
    "event_ids_to_events",
    "ANALYTICS_MAX_EVENTS",
    "ANAYLTICS_CACHE_FREQUENCY",
    "sleep_when_free",
)


def check(demo: gr.Blocks) -> None:
    """Hold each name that is used below against the Gradio that is installed.

    Raises:
        RuntimeError: naming what is not there, and the version that has it.
    """
    try:
        attrgetter("default_config", "fns", *(f"_queue.{name}" for name in _QUEUE))(demo)
        attrgetter("set_blocks", "session_data", "__getitem__")(StateHolder())
        attrgetter("__getitem__", "_update_value_in_config")(SessionState)
    except AttributeError as error:
        raise _moved(f"such name ({error})") from error
    ours, theirs = vars(_Stateless(demo)), vars(SessionState(demo))
    for name in theirs.keys() - ours.keys():
        raise _moved(f"SessionState without {name}")


class Inside:
    """Gradio's application and queue within ours."""

    def __init__(self, app: Starlette, demo: gr.Blocks) -> None:
        """Let Gradio keep nothing of a request, and count nothing.

        Args:
            app: where the page is mounted.
            demo: the page.

        Raises:
            RuntimeError: as `check`.
        """
        check(demo)
        parts = [getattr(route, "app", None) for route in app.routes]
        self.app: App = next(part for part in parts if isinstance(part, App))
        self.app.state_holder = _Forgetful()
        self.app.state_holder.set_blocks(demo)
        self.queue = demo._queue
        # It makes a pandas table of the last 10,000 events after each event, for a dashboard.
        self.queue.ANALYTICS_MAX_EVENTS = 1
        self.queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
        # Looking for work a thousand times a second keeps a twelfth of a core busy with nothing.
        self.queue.sleep_when_free = 0.01
        self._events = demo.fns
        self._idle: dict[str, float] = {}

    def own_event(self, values: dict[str, Any]) -> dict[str, Any]:
        """The body of an event of the page: Gradio would fail where there is none of its number.

        Raises:
            RequestError: "bad_request".
        """
        number = values.get("fn_index")
        if not isinstance(number, int) or number not in self._events:
            raise RequestError(
                "bad_request", "expected fn_index as the number of an event; load the page again"
            )
        return values

    def awaits(self, path: str, query: bytes) -> bool:
        """False for the answer of a call that nobody made: Gradio would fail while answering."""
        known = self.queue.pending_messages_per_session
        call = _ANSWER.fullmatch(path)
        if call:
            return call["event"] in known or call["event"] in self.queue.event_ids_to_events
        if path == "/gradio_api/queue/data":
            return parse_qs(query.decode("latin-1")).get("session_hash", [""])[0] in known
        return True

    def forget_answers(self, kept: float) -> None:
        """Drop answers that nobody fetched; Gradio would keep those of the last 2,000 sessions.

        Args:
            kept: seconds without a call in progress after which a session's answers go.
        """
        idle, now = self._idle, time.monotonic()
        running = {event.session_hash for event in list(self.queue.event_ids_to_events.values())}
        known = list(self.queue.pending_messages_per_session)
        for session in set(idle) - set(known) | running:
            idle.pop(session, None)
        for session in set(known) - running:
            if now - idle.setdefault(session, now) >= kept:
                self.queue.pending_messages_per_session.pop(session, None)
                self.queue.pending_event_ids_session.pop(session, None)
                del idle[session]


class _Stateless(SessionState):  # type: ignore[misc]
    """A session that keeps no input and no result."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 0

    def _update_value_in_config(self, key: int, value: Any) -> None:
        return


class _Forgetful(StateHolder):  # type: ignore[misc]
    """Makes a new session for every request.

    Gradio would keep the inputs and results of the last 10,000 sessions, and describe every
    component of the page anew for each.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        return _Stateless(self.blocks)
