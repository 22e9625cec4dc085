"""The API as tools for agents (Model Context Protocol), where the package `mcp` is installed.

Gradio can serve its endpoints as tools itself, but keeps a copy of each image for good, calls
its own server at whatever address the request names, and answers in Python's notation. Here
tools go the way of every other request: front door, gate, service.
"""

# No postponed annotations here: FastMCP reads those of the tools, which are made at run time.

import contextlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from mcp.server.fastmcp import FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from page.admission.gate import Gate
from page.admission.inbox import Inbox, drop, to_source, to_sources
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
_HINTS = ToolAnnotations(readOnlyHint=True, openWorldHint=False)


class _Server(FastMCP):  # type: ignore[misc]
    """FastMCP that says what is wrong with a call as the API does, without repeating it."""

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """The result of a tool, or why there is none."""
        tools = {tool.name: tool for tool in await self.list_tools()}
        if name not in tools:
            return _refused(f"expected a tool of: {', '.join(tools)}")
        known = tools[name].inputSchema["properties"]
        if arguments.keys() - known.keys():
            return _refused(f"expected only these arguments: {', '.join(known) or 'none'}")
        try:
            return await super().call_tool(name, arguments)
        except ToolError as error:
            cause = error.__cause__
            if not isinstance(cause, ValidationError):
                raise
            wrong = cause.errors(include_input=False, include_url=False)[0]
            return _refused(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}")


def _refused(message: str) -> CallToolResult:
    return _failed(RequestError("bad_request", message))


def _failed(error: RequestError) -> CallToolResult:
    return _result({"error": error.to_dict()}, f"{error.kind}: {error}")


def _result(answer: dict[str, Any], failure: str | None = None) -> CallToolResult:
    """An answer as text, for models, and structured, for programs."""
    text = failure or json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structuredContent=answer,
        isError=failure is not None,
    )


class Tools:
    """An ASGI application that speaks the protocol over streamable HTTP, without sessions."""

    def __init__(self, service: FaceService, gate: Gate, inbox: Inbox) -> None:
        """Start nothing yet; see `running`."""
        self._service = service
        self._gate = gate
        self._inbox = inbox
        # Whatever host a proxy names is this server; no cookie decides about an answer.
        self._server = _Server(
            "faceattr",
            INSTRUCTIONS,
            host="0.0.0.0",
            log_level="WARNING",
            json_response=True,
            stateless_http=True,
        )
        self._add(service.limits)
        self._server.streamable_http_app()

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """While this is entered, requests are answered; once only."""
        context: contextlib.AbstractAsyncContextManager[None] = self._server.session_manager.run()
        return context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; there are no streams to listen to and no sessions to end."""
        if scope["method"] != "POST":
            response = Response("Method Not Allowed", 405, {"Allow": "POST"})
            await response(scope, receive, send)
            return
        await self._server.session_manager.handle_request(scope, receive, send)

    async def _answer(self, work: Callable[[], dict[str, Any]], *pictures: str) -> CallToolResult:
        try:
            return _result(await self._gate.run(lambda: guarded(work)))
        except RequestError as error:
            return _failed(error)
        finally:
            drop(list(pictures), self._inbox)

    def _add(self, limits: Limits) -> None:
        """The tools; limits are told to agents, so that they can keep to them."""
        service, inbox = self._service, self._inbox
        words = (
            "the picture as a data: URL (data:image/jpeg;base64,...), or the path that POST "
            "/gradio_api/upload of this server answered with; no other address; JPEG, PNG, WebP, "
            f"BMP, GIF, TIFF or AVIF of at most {limits.max_bytes / 1e6:g} MB and "
            f"{limits.max_pixels / 1e6:g} megapixels"
        )
        Picture = Annotated[str, Field(description=words)]  # noqa: N806
        several = Field(description=f"1 to {limits.max_batch} pictures: each {words}")
        Pictures = Annotated[list[str], several]  # noqa: N806
        known = ("default", *service.detectors)
        names = Literal[known]  # type: ignore[valid-type]
        Detector = Annotated[names, Field(description="what finds the faces")]  # noqa: N806
        width = "least width of a face in pixels; narrower ones are left out"
        Width = Annotated[  # noqa: N806
            float, Field(ge=0, le=MOST_MIN_FACE, description=width)
        ]

        async def predict(
            picture: Picture, detector: Detector = "default", min_face: Width = 0.0
        ) -> CallToolResult:
            source, options = to_source(picture, inbox), {"min_face": min_face}
            return await self._answer(
                lambda: service.predict(source, detector=detector, **options), picture
            )

        async def predict_batch(
            pictures: Pictures, detector: Detector = "default", min_face: Width = 0.0
        ) -> CallToolResult:
            sources, options = to_sources(pictures, inbox), {"min_face": min_face}
            return await self._answer(
                lambda: service.predict_batch(sources, detector=detector, **options), *pictures
            )

        async def classify_crop(picture: Picture) -> CallToolResult:
            source = to_source(picture, inbox)
            return await self._answer(lambda: service.classify_crop(source), picture)

        async def model_info() -> CallToolResult:
            return await self._answer(service.model_info)

        for function, description in (
            (
                predict,
                f"Find every face in a picture, largest first, at most {limits.max_faces}. For "
                "each: box and landmarks in pixels, the detector's score, and perceived gender, "
                "age group and race with the most likely label, the calibrated probability of "
                "every class, and whether that answer is unsure. An empty list means that no face "
                "was found.",
            ),
            (
                predict_batch,
                "The same for several pictures: one entry each, in order, with faces or an error.",
            ),
            (
                classify_crop,
                "Perceived gender, age group and race of one face that fills the picture (eyes at "
                "about 0.3 of its height); no detector looks for it.",
            ),
            (
                model_info,
                "Which weights answer, their classes in order, the probabilities below which an "
                "answer is unsure, their accuracy, licence and limits.",
            ),
        ):
            self._server.add_tool(function, description=description, annotations=_HINTS)
