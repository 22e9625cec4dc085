"""The API as tools for agents (Model Context Protocol), where the package `mcp` is installed.

Gradio can serve its endpoints as tools itself, but keeps a copy of each image for good, calls
its own server at whatever address the request names, and answers in Python's notation. Here
tools go the way of every other request: front door, gate, service. The protocol's plain server is
used, not FastMCP, since what a tool takes already stands in `openapi.json` as JSON Schema.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, TextContent, Tool, ToolAnnotations
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import faceattr
from page.calls import Calls
from page.endpoints import DOCUMENT, ENDPOINTS, openapi
from page.errors import RequestError
from page.limits import Limits


def _result(answer: dict[str, Any], failure: str | None = None) -> CallToolResult:
    """An answer as text, for models, and structured, for programs."""
    text = failure or json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structuredContent=answer,
        isError=failure is not None,
    )


def _tools(detectors: list[str], limits: Limits) -> dict[str, Tool]:
    """The tools; limits are told to agents, so that they can keep to them."""
    schemas = openapi(faceattr.__version__, detectors, limits.max_batch)["components"]["schemas"]
    words = (
        "the picture as a data: URL (data:image/jpeg;base64,...), or the path that POST "
        "/gradio_api/upload of this server answered with; no other address; JPEG, PNG, WebP, "
        f"BMP, GIF, TIFF or AVIF of at most {limits.max_bytes / 1e6:g} MB and "
        f"{limits.max_pixels / 1e6:g} megapixels"
    )
    picture = {"type": "string", "description": words}
    several = f"1 to {limits.max_batch} pictures: each {words}"
    schemas["picture"] = picture
    schemas["pictures"] = {"type": "array", "items": picture, "description": several}
    tools = {}
    for endpoint in ENDPOINTS.values():
        if not endpoint.description:
            continue
        names = [endpoint.field] if endpoint.field else []
        schema = {
            "type": "object",
            "properties": {name: schemas[name] for name in [*names, *endpoint.options]},
            "required": names,
        }
        tools[endpoint.name] = Tool(
            name=endpoint.name,
            description=endpoint.description,
            inputSchema=schema,
            annotations=ToolAnnotations(readOnlyHint=True, openWorldHint=False),
        )
    return tools


class Tools:
    """An ASGI application that speaks the protocol over streamable HTTP, without sessions."""

    def __init__(self, calls: Calls) -> None:
        """Start nothing yet; see `running`."""
        server: Any = Server("faceattr", faceattr.__version__, DOCUMENT["info"]["description"])
        tools = _tools(calls.service.detectors, calls.service.limits)

        @server.list_tools()  # type: ignore[untyped-decorator]
        async def listed() -> list[Tool]:
            return list(tools.values())

        @server.call_tool(validate_input=False)  # type: ignore[untyped-decorator]
        async def called(name: str, arguments: dict[str, Any]) -> CallToolResult:
            try:
                if name not in tools:
                    raise RequestError("bad_request", f"expected a tool of: {', '.join(tools)}")
                known = tools[name].inputSchema["properties"]
                if arguments.keys() - known.keys():
                    names = ", ".join(known) or "none"
                    raise RequestError("bad_request", f"expected only these arguments: {names}")
                payload = arguments.pop(ENDPOINTS[name].field, None)
                return _result(await calls.endpoint(name, payload, arguments))
            except RequestError as error:
                return _result({"error": error.to_dict()}, f"{error.kind}: {error}")

        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While this is entered, requests are answered; once only."""
        return self._manager.run()  # type: ignore[no-any-return]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; there are no streams to listen to and no sessions to end."""
        if scope["method"] != "POST":
            response = Response("Method Not Allowed", 405, {"Allow": "POST"})
            await response(scope, receive, send)
            return
        await self._manager.handle_request(scope, receive, send)
