"""Before everything else: what is closed, too large or too much is refused, pictures rewritten."""

from __future__ import annotations

import re
from urllib.parse import unquote

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from page.admission.body import Body, Budget, over, replay
from page.admission.gate import Gate
from page.admission.intake import Intake
from page.admission.uploads import Uploads
from page.errors import RequestError, busy
from page.limits import Limits
from page.routes import error_response
from page.view.blocks import DEFAULTS

_CALLS = re.compile(r"/gradio_api/(call/(v2/)?[\w-]+/?|run/[\w-]+/?|api/[\w-]+/?|queue/join)")
_NAMED = re.compile(r"/gradio_api/(call|run|api)/(?P<endpoint>[\w-]+)/?")
_TOOLS = re.compile(r"/gradio_api/mcp/?")
_ANSWER = re.compile(r"/gradio_api/call/(v2/)?[\w-]+/(?P<event>[\w-]+)/?")
_OPEN = re.compile(
    r"/gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|"
    r"call/.+|run/.+|api/.+|heartbeat/.+|file=.+|cancel|reset|theme\.css|app_id|mcp)/?"
)


class FrontDoor:
    """Refuses what is closed, too large or too much; `intake` rewrites pictures."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        gate: Gate,
        uploads: Uploads,
        budget: Budget,
        demo: gr.Blocks,
    ) -> None:
        self._app = app
        self._limits = limits
        self._gate = gate
        self._uploads = uploads
        self._budget = budget
        self._demo = demo
        self._intake = Intake(uploads, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(receive, self._limits, self._budget)
        try:
            admitted = await self._admitted(scope, receive, body)
            if admitted is None:
                await Response("Not Found", 404)(scope, receive, send)
                return
            await self._app(scope, admitted, send)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        finally:
            body.release()

    async def _admitted(self, scope: Scope, receive: Receive, body: Body) -> Receive | None:
        """The body as the application may see it; None for what does not exist here."""
        path = scope["path"]
        if path.startswith("/gradio_api/") and not self._is_open(path):
            return None
        if scope["method"] != "POST":
            return receive if self._is_awaited(scope) else None
        limit = self._limits.max_request_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise over(limit)
        is_rewritten = bool(_CALLS.fullmatch(path) or _TOOLS.fullmatch(path))
        if (is_rewritten or path.startswith("/api/v1/")) and self._gate.full:
            raise busy()
        if not is_rewritten:
            return body.receive
        content = await self._rewritten(path, body)
        scope["headers"] = [
            *((k, v) for k, v in scope["headers"] if k != b"content-length"),
            (b"content-length", str(len(content)).encode()),
        ]
        return replay(content, receive)

    async def _rewritten(self, path: str, body: Body) -> bytes:
        """The body of a call, its pictures put among the uploads."""
        content = await body.read()
        if self._gate.full:
            raise busy()
        if _TOOLS.fullmatch(path):
            rewritten = await self._intake.rewrite_tool_call(content)
        else:
            name = _NAMED.fullmatch(path)
            defaults = DEFAULTS.get(name["endpoint"]) if name else None
            rewritten = await self._intake.rewrite(content, defaults)
        body.release()
        return rewritten

    def _is_awaited(self, scope: Scope) -> bool:
        """False for the answer of a call that nobody made: Gradio would fail while answering."""
        known = self._demo._queue.pending_messages_per_session
        call = _ANSWER.fullmatch(scope["path"])
        if call:
            calls = self._demo._queue.event_ids_to_events
            return call["event"] in known or call["event"] in calls
        if scope["path"] == "/gradio_api/queue/data":
            return Request(scope).query_params.get("session_hash", "") in known
        return True

    def _is_open(self, path: str) -> bool:
        if path.startswith("/gradio_api/file="):
            return self._uploads.holds(unquote(path.removeprefix("/gradio_api/file=")))
        return _OPEN.fullmatch(path) is not None
