"""The API as tools for agents (Model Context Protocol), where the package `mcp` is installed.

Gradio can serve its endpoints as tools itself, but keeps a copy of each picture for good, calls
its own server at whatever address the request names, and answers in Python's notation. Here
tools go the way of every other request: front door, gate, service.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import faceattr
from page.admission.gate import Gate
from page.admission.intake import drop, to_source
from page.admission.uploads import Uploads
from page.errors import RequestError
from page.limits import Limits
from page.service import MOST_MIN_FACE, FaceService, guarded

INSTRUCTIONS = (
    "Perceived gender, age group and race of faces in pictures, as FairFace's annotators would "
    "most likely have labelled them, with calibrated probabilities. For describing picture "
    "collections and measuring other systems, never for deciding anything about a person. "
    "An answer marked unsure is to be passed on as unsure. model_info tells how accurate the "
    "answers are for which group."
)


def describe_tools(limits: Limits, detectors: list[str]) -> list[types.Tool]:
    """The tools with their arguments' JSON schemas.

    Args:
        limits: told to agents, so that they can keep to them.
        detectors: that a call may ask for.
    """
    picture = {
        "type": "string",
        "description": "the picture as a data: URL (data:image/jpeg;base64,...), or the path that "
        "POST /gradio_api/upload of this server answered with; "
        + ("a public http(s) address; " if limits.remote_urls else "no other address; ")
        + f"JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF of at most {limits.max_bytes / 1e6:g} MB and "
        f"{limits.max_pixels / 1e6:g} megapixels",
    }
    options = {
        "detector": {
            "type": "string",
            "enum": ["default", *detectors],
            "default": "default",
            "description": "what finds the faces",
        },
        "min_face": {
            "type": "number",
            "minimum": 0,
            "maximum": MOST_MIN_FACE,
            "default": 0,
            "description": "least width of a face in pixels; narrower ones are left out",
        },
    }
    pictures = {
        "type": "array",
        "items": picture,
        "description": f"1 to {limits.max_batch} pictures",
    }
    return [
        _tool(
            "predict",
            f"Find every face in a picture, largest first, at most {limits.max_faces}. For each: "
            "box and landmarks in pixels, the detector's score, and perceived gender, age group "
            "and race with the most likely label, the calibrated probability of every class, and "
            "whether that answer is unsure. An empty list means that no face was found.",
            {"picture": picture, **options},
            ["picture"],
        ),
        _tool(
            "predict_batch",
            "The same for several pictures: one entry each, in order, with faces or an error.",
            {"pictures": pictures, **options},
            ["pictures"],
        ),
        _tool(
            "classify_crop",
            "Perceived gender, age group and race of one face that fills the picture (eyes at "
            "about 0.3 of its height); no detector looks for it.",
            {"picture": picture},
            ["picture"],
        ),
        _tool(
            "model_info",
            "Which weights answer, their classes in order, the probabilities below which an answer "
            "is unsure, their accuracy, licence and limits.",
            {},
            [],
        ),
    ]


def _tool(
    name: str, description: str, properties: dict[str, Any], required: list[str]
) -> types.Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    hints = types.ToolAnnotations(readOnlyHint=True, openWorldHint=False)
    return types.Tool(name=name, description=description, inputSchema=schema, annotations=hints)


class Tools:
    """An ASGI application that speaks the protocol over streamable HTTP, without sessions."""

    def __init__(self, service: FaceService, gate: Gate, uploads: Uploads) -> None:
        """Start nothing yet; see `running`."""
        self._service = service
        self._gate = gate
        self._uploads = uploads
        self._tools = describe_tools(service.limits, service.detectors)
        server: Server[Any, Any] = Server(
            "faceattr", faceattr.__version__, instructions=INSTRUCTIONS
        )
        server.list_tools()(self._list)
        # Checked by `_work` and the service: the library's own refusal would repeat the picture.
        server.call_tool(validate_input=False)(self._call)
        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While this is entered, requests are answered; once only."""
        context: contextlib.AbstractAsyncContextManager[None] = self._manager.run()
        return context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; there are no streams to listen to and no sessions to end."""
        if scope["method"] != "POST":
            response = Response("Method Not Allowed", 405, {"Allow": "POST"})
            await response(scope, receive, send)
            return
        await self._manager.handle_request(scope, receive, send)

    async def _list(self) -> list[types.Tool]:
        return self._tools

    async def _call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        try:
            work = self._work(name, arguments)
            answer = await self._gate.run(lambda: guarded(work))
        except RequestError as error:
            return _result({"error": error.to_dict()}, f"{error.kind}: {error}")
        finally:
            drop([part for value in arguments.values() for part in _listed(value)], self._uploads)
        return _result(answer)

    def _work(self, name: str, arguments: dict[str, Any]) -> Callable[[], dict[str, Any]]:
        """What a call asks for; nothing of it has been done yet.

        Raises:
            RequestError: for an unknown tool or argument, or one that is missing.
        """
        tool = next((tool for tool in self._tools if tool.name == name), None)
        if tool is None:
            known = ", ".join(tool.name for tool in self._tools)
            raise RequestError("bad_request", f"expected a tool of: {known}")
        known_arguments = tool.inputSchema["properties"]
        if set(arguments) - set(known_arguments):
            expected = ", ".join(known_arguments) or "none"
            raise RequestError("bad_request", f"expected only these arguments: {expected}")
        if name == "model_info":
            return self._service.model_info
        options = {key: arguments[key] for key in ("detector", "min_face") if key in arguments}
        if name == "predict_batch":
            listed = _listed(arguments.get("pictures", []))
            sources = [to_source(picture, self._uploads) for picture in listed]
            return lambda: self._service.predict_batch(sources, **options)
        source = to_source(arguments.get("picture"), self._uploads)
        if name == "classify_crop":
            return lambda: self._service.classify_crop(source)
        return lambda: self._service.predict(source, **options)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _result(answer: dict[str, Any], failure: str | None = None) -> types.CallToolResult:
    """An answer as text, for models, and structured, for programs."""
    text = failure or json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)],
        structuredContent=answer,
        isError=failure is not None,
    )
