"""Before everything else: what is closed, too large or too much is refused, images taken out."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.admission.body import Body, over
from page.admission.gradio_private import Inside
from page.admission.json_body import JsonBody
from page.calls import Calls
from page.endpoints import API, ENDPOINTS, Endpoint
from page.errors import RequestError
from page.routes import error_response

_UPLOAD = re.compile(r"/gradio_api/upload/?")
_CALL = re.compile(r"/gradio_api/((?P<way>run|api|call|call/v2)/(?P<name>[\w-]+)|queue/join)/?")
_MESSAGE = re.compile(r"/gradio_api/(mcp|cancel|reset)/?")
_OPEN = re.compile(
    r"/gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|"
    r"call/.+|run/.+|api/.+|heartbeat/.+|file=.+|cancel|reset|theme\.css|app_id|mcp)/?"
)
_CLOSED = re.compile(r"/gradio_api/.*|/openapi\.json/?", re.S)
"""All of Gradio's that is not open, and its description of what is closed."""
_PREFIX = re.compile(r"(/[\w.~-]+){1,8}")
Values: TypeAlias = dict[str, Any]


class FrontDoor:
    """Refuses what is closed, too large or too much; puts images of calls into the inbox."""

    def __init__(self, app: ASGIApp, calls: Calls, inside: Inside) -> None:
        self._app = app
        self._calls = calls
        self._limits = calls.service.limits
        self._inside = inside
        self._anywhere = CORSMiddleware(
            self._serve,
            allow_origins="*",
            allow_methods=("GET", "POST"),
            allow_headers="*",
            expose_headers=("Retry-After",),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Browsers elsewhere may ask: no cookie or other credential ever decides about an answer.
        app = self._anywhere if scope["path"].startswith(API) else self._serve
        await app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive, self._limits, self._calls.inbox)
        scope["faceattr.body"] = body

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["faceattr.status"] = message["status"]
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
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
        if _CLOSED.fullmatch(path) and not _OPEN.fullmatch(path):
            app = Response("Not Found", 404)
        elif method in ("GET", "HEAD", "OPTIONS"):
            if not self._inside.awaits(path, scope["query_string"]):
                app = Response("Not Found", 404)
        elif method != "POST" and not path.startswith(API):
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
        length = Headers(scope=scope).get("Content-Length", "0")
        if length.isdecimal() and int(length) > self._limits.max_request_bytes:
            raise over(self._limits.max_request_bytes)
        if self._calls.gate.full and not _UPLOAD.fullmatch(scope["path"]):
            raise RequestError("busy")

    async def _json(self, scope: Scope, body: Body, send: Send, call: re.Match[str] | None) -> None:
        """A call; its images stay in the inbox only as long as something may still use them."""
        way, name = (call["way"], call["name"]) if call else ("", "")
        if name and name not in ENDPOINTS:
            raise RequestError("not_found", f"expected an endpoint of: {', '.join(ENDPOINTS)}")
        # The page's own events have no endpoint; one of them describes collections.
        endpoint = ENDPOINTS.get(name)
        most = self._limits.max_batch if name else self._limits.max_collection
        most = 1 if endpoint and endpoint.field == "picture" else most
        letter = JsonBody(body, self._calls.inbox, most)
        try:
            content = await letter.read()
            if self._calls.gate.full:
                raise RequestError("busy")
            if call:
                content = letter.call(content, self._fitted(way, endpoint))
            messages = iter([{"type": "http.request", "body": content, "more_body": False}])

            async def again() -> Message:
                return next(messages, None) or await body.receive()

            headers = MutableHeaders(raw=list(scope["headers"]))
            headers["Content-Length"] = str(len(content))
            await self._app(_at_prefix({**scope, "headers": headers.raw}), again, send)
        finally:
            later = call and way not in ("run", "api")
            if not later or scope.get("faceattr.status") != 200:
                letter.drop()

    def _fitted(self, way: str, endpoint: Endpoint | None) -> Callable[[Values], Values]:
        """What makes of a call's body that which Gradio takes without failing."""
        if endpoint is None:
            return self._inside.own_event
        return partial(_named if way == "call/v2" else _listed, endpoint.arguments)


def _listed(arguments: Values, values: Values) -> Values:
    """A call whose arguments are a list; those left out at its end are added."""
    data = values.get("data")
    if not isinstance(data, list) or len(data) > len(arguments):
        raise RequestError(
            "bad_request", f'expected "data" as a list of at most {len(arguments)} values'
        )
    # The address says what is called; Gradio would rather believe a number.
    others = {name: value for name, value in values.items() if name != "fn_index"}
    return {**others, "data": [*data, *list(arguments.values())[len(data) :]]}


def _named(arguments: Values, values: Values) -> Values:
    """A call whose arguments have names; those left out are added."""
    if values.keys() - arguments.keys():
        names = ", ".join(arguments) or "none"
        raise RequestError("bad_request", f"expected only these arguments: {names}")
    return {**arguments, **values}


def _at_prefix(scope: Scope) -> Scope:
    """Where a proxy serves the page under a path of its own, and says so: that path before ours."""
    given = Headers(scope=scope).get("X-Forwarded-Prefix", "").rstrip("/")
    if scope.get("root_path") or not _PREFIX.fullmatch(given):
        return scope
    changed: dict[str, Any] = {**scope, "root_path": given, "path": given + scope["path"]}
    if scope.get("raw_path"):
        changed["raw_path"] = given.encode() + scope["raw_path"]
    return changed
