"""The plain HTTP endpoints: forms in, JSON out, errors as HTTP status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from page.admission.gate import Gate
from page.admission.uploads import Uploads
from page.errors import RequestError, internal
from page.service import API_VERSION, FaceService, Source, guarded


def error_response(error: RequestError) -> JSONResponse:
    """An error as JSON; `detail` is where Gradio's clients look."""
    content = {"api_version": API_VERSION, "error": error.to_dict(), "detail": str(error)}
    headers = {
        "busy": {"Retry-After": "1"},
        "too_much": {"Retry-After": "1"},
        # The rest of such a body is not waited for.
        "too_slow": {"Connection": "close"},
    }.get(error.kind)
    return JSONResponse(content, error.status, headers)


def add_routes(app: FastAPI, service: FaceService, gate: Gate, uploads: Uploads) -> None:
    """The plain HTTP endpoints, the health check, and our own upload in place of Gradio's."""

    async def refused(_: Request, error: Exception) -> Response:
        return error_response(error if isinstance(error, RequestError) else internal())

    app.add_exception_handler(RequestError, refused)

    async def health(_: Request) -> Response:
        state = "stopping" if gate.closed else "ok"
        info = service.pipeline.info
        content = {"status": state, "model": info.model, "pending": gate.pending}
        return JSONResponse(content, 503 if gate.closed else 200)

    async def model_info(_: Request) -> Response:
        return JSONResponse(service.model_info())

    async def predict(request: Request) -> Response:
        async with _form(request, service, "picture", 1) as (sources, options):
            return await _answer(gate, lambda: service.predict(sources[0], **_shared(options)))

    async def predict_batch(request: Request) -> Response:
        most = service.limits.max_batch
        async with _form(request, service, "pictures", most) as (sources, options):
            return await _answer(gate, lambda: service.predict_batch(sources, **_shared(options)))

    async def classify_crop(request: Request) -> Response:
        async with _form(request, service, "picture", 1) as (sources, _):
            return await _answer(gate, lambda: service.classify_crop(sources[0]))

    async def explain(request: Request) -> Response:
        async with _form(request, service, "picture", 1) as (sources, options):
            task = options.get("task", "")
            return await _answer(gate, lambda: service.explain(sources[0], task))

    async def upload(request: Request) -> Response:
        limits = service.limits
        async with _files(request, "files", limits.max_batch) as (files, _):
            paths: list[Path] = []
            try:
                for file in files:
                    uploads.check(file.size or 0)
                    name = file.filename or "picture"
                    paths.append(await asyncio.to_thread(uploads.save, await file.read(), name))
            except RequestError:
                for path in paths:
                    uploads.drop(str(path))
                raise
        return JSONResponse([str(path) for path in paths])

    async def upload_progress(_: Request) -> Response:
        return StreamingResponse(
            iter(['data: {"msg": "done"}\n\n']), media_type="text/event-stream"
        )

    for route, endpoint, method in (
        ("/health", health, "GET"),
        ("/api/v1/model_info", model_info, "GET"),
        ("/api/v1/predict", predict, "POST"),
        ("/api/v1/predict_batch", predict_batch, "POST"),
        ("/api/v1/classify_crop", classify_crop, "POST"),
        ("/api/v1/explain", explain, "POST"),
        ("/gradio_api/upload", upload, "POST"),
        ("/gradio_api/upload_progress", upload_progress, "GET"),
    ):
        app.add_route(route, endpoint, methods=[method])


async def _answer(gate: Gate, work: Callable[[], dict[str, Any]]) -> Response:
    return JSONResponse(await gate.run(lambda: guarded(work)))


@contextlib.asynccontextmanager
async def _files(
    request: Request, field: str, most: int
) -> AsyncIterator[tuple[list[UploadFile], dict[str, str]]]:
    """The files of a form under one name, and its other fields as text; closed afterwards.

    Raises:
        RequestError: when the form is damaged or holds something else.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RequestError(
            "bad_request", f"expected multipart/form-data with a file in the field {field!r}"
        )
    try:
        form = await request.form(max_files=most, max_fields=8, max_part_size=1_000)
    except RequestError:
        raise
    # Starlette's parser raises its own HTTPException, python-multipart several types.
    except Exception:
        raise RequestError(
            "bad_request", f"the form is damaged, cut off, or holds more than {most} files"
        ) from None
    try:
        items = form.multi_items()
        found = [value for name, value in items if name == field and isinstance(value, UploadFile)]
        if not found:
            raise RequestError("bad_request", f"expected a file in the form field {field!r}")
        yield found, {name: value for name, value in items if isinstance(value, str)}
    finally:
        await form.close()


@contextlib.asynccontextmanager
async def _form(
    request: Request, service: FaceService, field: str, most: int
) -> AsyncIterator[tuple[list[Source], dict[str, str]]]:
    """The files of a form as sources; one that is too large becomes an error in its place."""
    async with _files(request, field, most) as (files, options):
        sources: list[Source] = []
        for file in files:
            if (file.size or 0) > service.limits.max_bytes:
                sources.append(
                    RequestError(
                        "too_large",
                        f"expected at most {service.limits.max_bytes:,} bytes a picture, "
                        f"came {file.size:,}",
                    )
                )
            else:
                # Read by the worker, so that no more pictures are in memory than are worked on.
                sources.append(file.file.read)
        yield sources, options


def _shared(options: dict[str, str]) -> dict[str, Any]:
    """The options of `/predict` and `/predict_batch` from form fields."""
    values: dict[str, Any] = {}
    if "detector" in options:
        values["detector"] = options["detector"]
    if "min_face" in options:
        try:
            values["min_face"] = float(options["min_face"])
        except ValueError:
            raise RequestError("bad_request", "expected min_face as a number") from None
    return values
