"""Before everything else: what is closed, too large or too much is refused, images taken out."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.admission.body import Body, Budget, over, replay
from page.admission.gate import Gate
from page.admission.gradio_private import Inside
from page.admission.inbox import Inbox
from page.admission.json_body import JsonBody, rewrite
from page.errors import RequestError, busy
from page.limits import Limits
from page.routes import error_response
from page.view.blocks import DEFAULTS

API = "/api/v1/"
_FORMS = re.compile(r"/api/v1/.*|/gradio_api/upload/?")
_TOOLS = re.compile(r"/gradio_api/mcp/?")
_DIRECT = re.compile(r"/gradio_api/(run|api)/[\w-]+/?")
_QUEUED = re.compile(r"/gradio_api/(call/(v2/)?[\w-]+/?|queue/join)")
_SMALL = re.compile(r"/gradio_api/(cancel|reset/?)")
_NAMED = re.compile(r"/gradio_api/(call|run|api)/(?P<endpoint>[\w-]+)/?")
_OPEN = re.compile(
    r"/gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|"
    r"call/.+|run/.+|api/.+|heartbeat/.+|file=.+|cancel|reset|theme\.css|app_id|mcp)/?"
)
_PREFIX = re.compile(r"(/[\w.~-]+){1,8}")
_SINGLE = ("predict", "classify_crop", "explain")
_ALWAYS = [(b"x-content-type-options", b"nosniff")]
_ANYWHERE = [
    # Browsers elsewhere may ask: no cookie or other credential ever decides about an answer.
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After"),
]
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "600",
}


class FrontDoor:
    """Refuses what is closed, too large or too much; puts images of calls into the inbox."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        gate: Gate,
        inbox: Inbox,
        budget: Budget,
        inside: Inside,
    ) -> None:
        self._app = app
        self._limits = limits
        self._gate = gate
        self._inbox = inbox
        self._budget = budget
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send, scope["path"])
        body = Body(receive, self._limits, self._budget)
        scope["faceattr.body"] = body
        try:
            await self._admit(scope, receive, send, body)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        finally:
            body.release()

    async def _admit(self, scope: Scope, receive: Receive, send: Send, body: Body) -> None:
        path, method = scope["path"], scope["method"]
        if path.startswith("/gradio_api/") and not _OPEN.fullmatch(path):
            await Response("Not Found", 404)(scope, receive, send)
        elif method == "OPTIONS" and path.startswith(API):
            await Response(None, 204, _PREFLIGHT)(scope, receive, send)
        elif method in ("GET", "HEAD", "OPTIONS"):
            known = self._inside.awaits(path, scope["query_string"])
            app = self._app if known else Response("Not Found", 404)
            await app(_at_prefix(scope), receive, send)
        elif method == "POST":
            await self._post(scope, receive, send, body)
        else:
            allowed = {"Allow": "GET, POST"}
            await Response("Method Not Allowed", 405, allowed)(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send, body: Body) -> None:
        path, limit = scope["path"], self._limits.max_request_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise over(limit)
        if (path.startswith(API) or not _FORMS.fullmatch(path)) and self._gate.full:
            raise busy()
        if _FORMS.fullmatch(path):
            await self._app(_at_prefix(scope), body.receive, send)
        elif any(kind.fullmatch(path) for kind in (_TOOLS, _DIRECT, _QUEUED, _SMALL)):
            await self._json(scope, receive, send, body)
        else:
            await Response("Not Found", 404)(scope, receive, send)

    async def _json(self, scope: Scope, receive: Receive, send: Send, body: Body) -> None:
        """A call; its images stay in the inbox only as long as something may still use them."""
        path, status = scope["path"], 0
        named = _NAMED.fullmatch(path)
        endpoint = named["endpoint"] if named else None
        # The page's own events have no name; one of them describes collections.
        most = self._limits.max_batch if endpoint else self._limits.max_collection
        most = 1 if endpoint in _SINGLE else most
        letter = JsonBody(body, self._inbox, most)

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            content = await letter.read()
            if self._gate.full:
                raise busy()
            if not (_TOOLS.fullmatch(path) or _SMALL.fullmatch(path)):
                content = rewrite(content, letter, DEFAULTS.get(endpoint or ""))
            await self._app(_with_length(scope, content), replay(content, receive), watched)
        finally:
            if status != 200 or not _QUEUED.fullmatch(path):
                letter.drop()


def _with_headers(send: Send, path: str) -> Send:
    more = [*_ALWAYS, *(_ANYWHERE if path.startswith(API) else [])]

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return wrapped


def _with_length(scope: Scope, content: bytes) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    length = (b"content-length", str(len(content)).encode())
    return _at_prefix({**scope, "headers": [*headers, length]})


def _at_prefix(scope: Scope) -> Scope:
    """Where a proxy serves the page under a path of its own, and says so: that path before ours."""
    given = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1").rstrip("/")
    if scope.get("root_path") or not _PREFIX.fullmatch(given):
        return scope
    changed: dict[str, Any] = {**scope, "root_path": given, "path": given + scope["path"]}
    if scope.get("raw_path"):
        changed["raw_path"] = given.encode() + scope["raw_path"]
    return changed
