"""The plain HTTP endpoints: forms in, JSON out, errors as HTTP status."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import faceattr
from page.calls import Calls
from page.endpoints import API, ENDPOINTS, SCHEMAS, openapi
from page.errors import STATUS, RequestError
from page.service import API_VERSION, Source

FORMS = {name: endpoint for name, endpoint in ENDPOINTS.items() if endpoint.field}
_MAGIC = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"\0\0\0": "avif",
}


def error_response(error: RequestError) -> JSONResponse:
    """An error as JSON; `detail` is where Gradio's clients look."""
    content = {"api_version": API_VERSION, "error": error.to_dict(), "detail": str(error)}
    headers = {
        "busy": {"Retry-After": "1"},
        "too_much": {"Retry-After": "1"},
        # The rest of such a body is not waited for.
        "too_slow": {"Connection": "close"},
        "not_allowed": {"Allow": "POST"},
    }.get(error.kind)
    return JSONResponse(content, STATUS[error.kind], headers)


def add_routes(app: Starlette, calls: Calls) -> None:
    """The plain HTTP endpoints, the health check, and our own upload in place of Gradio's."""
    service, limits, gate = calls.service, calls.service.limits, calls.gate

    async def health(_: Request) -> Response:
        state = "stopping" if gate.closed else "ok"
        info = service.pipeline.info
        content = {"status": state, "model": info.model, "pending": gate.pending}
        return JSONResponse(content, 503 if gate.closed else 200)

    async def model_info(_: Request) -> Response:
        return JSONResponse(service.model_info())

    async def description(_: Request) -> Response:
        return JSONResponse(openapi(faceattr.__version__, service.detectors, limits.max_batch))

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FORMS:
            raise RequestError("not_found", f"expected an endpoint of: {', '.join(FORMS)}")
        if request.method != "POST":
            raise RequestError(
                "not_allowed", f"expected POST with a form (multipart), came {request.method}"
            )
        endpoint = FORMS[name]
        most = limits.max_batch if endpoint.field == "pictures" else 1
        async with _form(request, endpoint.field, endpoint.options, most) as (files, texts):
            options = {name: _value(name, text) for name, text in texts.items()}
            # Read by the worker, so that no more images are copied than are worked on.
            sources: list[Source] = [file.file.read for file in files]
            return JSONResponse(await gate.run(lambda: calls.answer(name, sources, options)))

    for route, handler, methods in (
        ("/health", health, ["GET"]),
        (f"{API}model_info", model_info, ["GET"]),
        (f"{API}openapi.json", description, ["GET"]),
        (API + "{name:path}", call, ["GET", "POST"]),
    ):
        app.add_route(route, handler, methods=methods)
    _add_uploads(app, calls)


def _value(name: str, text: str) -> Any:
    """An option of a form as its type."""
    if SCHEMAS[name]["type"] != "number":
        return text
    try:
        return float(text)
    except ValueError:
        raise RequestError("bad_request", f"expected {name} as a number") from None


def _add_uploads(app: Starlette, calls: Calls) -> None:
    """Gradio's way to upload, and to look at what was uploaded, from memory."""
    limits, inbox = calls.service.limits, calls.inbox
    # Gradio's page sends all files of a collection in one form.
    most = max(limits.max_batch, limits.max_collection)

    async def upload(request: Request) -> Response:
        tokens: list[str] = []
        async with _form(request, "files", (), most) as (files, _):
            try:
                for file in files:
                    limits.check(file.size or 0)
                    content = await file.read()
                    request.scope["faceattr.body"].hand_over(len(content))
                    await file.close()
                    tokens.append(inbox.put(content, len(content)))
            except RequestError:
                inbox.drop(tokens)
                raise
        return JSONResponse(tokens)

    async def progress(_: Request) -> Response:
        lines = iter(['data: {"msg": "done"}\n\n'])
        return StreamingResponse(lines, media_type="text/event-stream")

    async def shown(request: Request) -> Response:
        content = inbox.peek(request.path_params["token"])
        if content is None:
            return Response("Not Found", 404)
        kinds = (kind for magic, kind in _MAGIC.items() if content.startswith(magic))
        kind = next((f"image/{kind}" for kind in kinds), "application/octet-stream")
        return Response(content, media_type=kind, headers={"Cache-Control": "no-store"})

    app.add_route("/gradio_api/upload", upload, methods=["POST"])
    app.add_route("/gradio_api/upload_progress", progress, methods=["GET"])
    app.add_route("/gradio_api/file={token:path}", shown, methods=["GET"])


@contextlib.asynccontextmanager
async def _form(
    request: Request, field: str, options: Iterable[str], most: int
) -> AsyncIterator[tuple[list[UploadFile], dict[str, str]]]:
    """The files of a form under one name, and its other fields as text; closed afterwards.

    Raises:
        RequestError: when the form is damaged or holds something else.
    """
    expected = RequestError(
        "bad_request", f"expected multipart/form-data with a file in the field {field!r}"
    )
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise expected
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=most, max_fields=8, max_part_size=1_000
    )
    # The body's own limit holds; an image is never written to a disk.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except RequestError:
        raise
    # Starlette's parser raises its own HTTPException, python-multipart several types.
    except Exception:
        raise RequestError(
            "bad_request", f"the form is damaged, cut off, or holds more than {most} files"
        ) from None
    try:
        items = form.multi_items()
        known = [field, *options]
        if unknown := sorted({name for name, _ in items} - set(known)):
            raise RequestError(
                "bad_request",
                f"expected only the form fields {', '.join(known)}; came {unknown[0][:40]!r}",
            )
        found = [value for name, value in items if name == field and isinstance(value, UploadFile)]
        if not found:
            raise expected
        yield found, {name: value for name, value in items if isinstance(value, str)}
    finally:
        await form.close()
