"""The plain HTTP endpoints: forms in, JSON out, errors as HTTP status."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import faceattr
from page.calls import Calls
from page.endpoints import API, ENDPOINTS, SCHEMAS, openapi
from page.errors import STATUS, RequestError
from page.service import API_VERSION, Source


def error_response(error: RequestError) -> JSONResponse:
    """An error as JSON; `detail` is where Gradio's clients look."""
    content = {"api_version": API_VERSION, "error": error.to_dict(), "detail": str(error)}
    headers = {
        "busy": {"Retry-After": "1"},
        "too_much": {"Retry-After": "1"},
        # The rest of such a body is not waited for.
        "too_slow": {"Connection": "close"},
        "not_allowed": {"Allow": error.allowed},
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

    def description() -> dict[str, Any]:
        return openapi(faceattr.__version__, service.detectors, limits.max_batch)

    readable = {"model_info": service.model_info, "openapi.json": description}

    async def call(request: Request) -> Response:
        name, method = request.path_params["name"], request.method
        if name in readable:
            if method not in ("GET", "HEAD"):
                raise RequestError("not_allowed", f"expected GET, came {method}", "GET, HEAD")
            return JSONResponse(readable[name]())
        if name not in ENDPOINTS:
            raise RequestError("not_found", f"expected an endpoint of: {', '.join(ENDPOINTS)}")
        if method != "POST":
            raise RequestError(
                "not_allowed", f"expected POST with a form (multipart), came {method}", "POST"
            )
        endpoint = ENDPOINTS[name]
        most = limits.max_batch if endpoint.field == "pictures" else 1
        async with _form(request, endpoint.field, endpoint.options, most) as (files, texts):
            options = {name: _value(name, text) for name, text in texts.items()}
            # Read by the worker, so that no more images are copied than are worked on.
            sources: list[Source] = [file.file.read for file in files]
            return JSONResponse(await gate.run(lambda: calls.answer(name, sources, options)))

    app.add_route("/health", health, methods=["GET"])
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app.add_route(API + "{name:path}", call, methods=methods)
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
                    await file.close()
                    tokens.append(inbox.put(content, len(content)))
                    request.scope["faceattr.body"].hand_over(len(content))
            except RequestError:
                inbox.drop(tokens)
                raise
        return JSONResponse(tokens)

    async def progress(_: Request) -> Response:
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    async def shown(request: Request) -> Response:
        content = inbox.peek(request.path_params["token"])
        if content is None:
            return Response("Not Found", 404)
        # Browsers go by the content of an image, and do nothing else with a file of this type.
        kind = "application/octet-stream"
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
        "bad_request",
        f"expected multipart/form-data with a file in the field {field!r}, and each other field "
        "once, as text",
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
        count = "one file" if most == 1 else f"{most} files"
        raise RequestError(
            "bad_request", f"the form is damaged, cut off, or holds more than {count}"
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
        texts = {name: value for name, value in items if name != field and isinstance(value, str)}
        if not found or len(found) + len(texts) < len(items):
            raise expected
        yield found, texts
    finally:
        await form.close()
