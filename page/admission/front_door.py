"""Before everything else: what is closed, too large or too much is refused, images taken out."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.admission.body import Body, Budget, over
from page.admission.gradio_private import Inside
from page.admission.json_body import JsonBody
from page.calls import Calls
from page.endpoints import API, ENDPOINTS
from page.errors import RequestError, busy
from page.routes import error_response

_UPLOAD = re.compile(r"/gradio_api/upload/?")
_CALL = re.compile(r"/gradio_api/((?P<way>run|api|call|call/v2)/(?P<name>[\w-]+)|queue/join)/?")
_MESSAGE = re.compile(r"/gradio_api/(mcp|cancel|reset)/?")
_OPEN = re.compile(
    r"/gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|"
    r"call/.+|run/.+|api/.+|heartbeat/.+|file=.+|cancel|reset|theme\.css|app_id|mcp)/?"
)
_PREFIX = re.compile(r"(/[\w.~-]+){1,8}")
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

    def __init__(self, app: ASGIApp, calls: Calls, budget: Budget, inside: Inside) -> None:
        self._app = app
        self._limits = calls.service.limits
        self._gate = calls.gate
        self._inbox = calls.inbox
        self._budget = budget
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = Body(receive, self._limits, self._budget)
        scope["faceattr.body"] = body
        more = [*_ALWAYS, *(_ANYWHERE if scope["path"].startswith(API) else [])]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["faceattr.status"] = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            await self._admit(scope, body, answer)
        except RequestError as error:
            await error_response(error)(scope, receive, answer)
        finally:
            body.release()

    async def _admit(self, scope: Scope, body: Body, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        call, app = _CALL.fullmatch(path), self._app
        if path.startswith("/gradio_api/") and not _OPEN.fullmatch(path):
            app = Response("Not Found", 404)
        elif method == "OPTIONS" and path.startswith(API):
            app = Response(None, 204, _PREFLIGHT)
        elif method in ("GET", "HEAD", "OPTIONS"):
            if not self._inside.awaits(path, scope["query_string"]):
                app = Response("Not Found", 404)
        elif method != "POST":
            app = Response("Method Not Allowed", 405, {"Allow": "GET, POST"})
        else:
            self._check(scope)
            if call or _MESSAGE.fullmatch(path):
                await self._json(scope, body, send, call)
                return
            if not (path.startswith(API) or _UPLOAD.fullmatch(path)):
                app = Response("Not Found", 404)
        await app(_at_prefix(scope), body.receive, send)

    def _check(self, scope: Scope) -> None:
        """Refuse a body that says it is too large, and work while there is no room for it."""
        limit = self._limits.max_request_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise over(limit)
        if self._gate.full and not _UPLOAD.fullmatch(scope["path"]):
            raise busy()

    async def _json(self, scope: Scope, body: Body, send: Send, call: re.Match[str] | None) -> None:
        """A call; its images stay in the inbox only as long as something may still use them."""
        way, name = (call["way"], call["name"]) if call else ("", "")
        # The arguments of `call/v2` have names, and the page's own events have no endpoint; one of
        # them describes collections.
        endpoint = ENDPOINTS.get(name) if way in ("run", "api", "call") else None
        most = self._limits.max_batch if name else self._limits.max_collection
        most = 1 if endpoint and endpoint.field == "picture" else most
        letter = JsonBody(body, self._inbox, most)
        try:
            content = await letter.read()
            if self._gate.full:
                raise busy()
            if call:
                content = letter.call(content, endpoint.defaults if endpoint else None)
            messages = iter([{"type": "http.request", "body": content, "more_body": False}])

            async def again() -> Message:
                return next(messages, None) or await body.receive()

            await self._app(_with_length(scope, content), again, send)
        finally:
            is_queued = call and way not in ("run", "api")
            if not is_queued or scope.get("faceattr.status") != 200:
                letter.drop()


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
