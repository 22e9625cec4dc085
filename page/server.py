"""The server: the front door, plain HTTP endpoints, Gradio's page behind them, a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import get_upload_folder
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from page.blocks import DEFAULTS, build_page
from page.errors import RequestError, busy, internal
from page.gate import Gate
from page.intake import Intake, capped, over, read_body, replay
from page.service import API_VERSION, FaceService, Source, guarded
from page.theme import CSS, HEAD, theme
from page.uploads import Uploads

DRAIN_S = 25.0
"""Seconds that requests in flight get after SIGTERM; Spaces and Docker kill after 30."""
SWEEP_S = 15.0
MAX_CONNECTIONS = 1_000
LINGER_S = 1.5
"""Seconds in which clients may still fetch the answers that were finished last."""

_CALLS = re.compile(r"/gradio_api/(call/(v2/)?[\w-]+/?|run/[\w-]+/?|api/[\w-]+/?|queue/join)")
_NAMED = re.compile(r"/gradio_api/(call|run|api)/(?P<endpoint>[\w-]+)/?")
_ANSWER = re.compile(r"/gradio_api/call/(v2/)?[\w-]+/(?P<event>[\w-]+)/?")
_OPEN = re.compile(
    r"/gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|"
    r"call/.+|run/.+|api/.+|heartbeat/.+|file=.+|cancel|reset|theme\.css|app_id|mcp(/.*)?)/?"
)


class Site:
    """One server's parts, for `serve` and for tests.

    Attributes:
        service: what answers.
        gate: what admits.
        uploads: files between upload and request.
        app: the ASGI application.
    """

    def __init__(self, service: FaceService) -> None:
        limits = service.limits
        self.service = service
        self.gate = Gate(limits.workers, limits.max_waiting, limits.time_limit)
        self.uploads = Uploads(Path(get_upload_folder()), limits.max_bytes)
        self.demo = build_page(service, self.gate, self.uploads)
        self.app = self._assemble()

    def _assemble(self) -> FastAPI:
        app = FastAPI(
            lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None, debug=False
        )
        add_routes(app, self)
        gr.mount_gradio_app(
            app,
            self.demo,
            path="/",
            theme=theme(),
            css=CSS,
            head=HEAD,
            ssr_mode=False,
            show_error=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            max_file_size=self.service.limits.max_bytes,
            footer_links=[],
        )
        app.add_middleware(FrontDoor, site=self)
        _forget(self.demo)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                await asyncio.to_thread(self.uploads.sweep)
                await asyncio.sleep(SWEEP_S)

        task = asyncio.create_task(sweep())
        try:
            yield
        finally:
            task.cancel()
            self.gate.close()
            self.uploads.sweep(older_than=-1)


class _Stateless(SessionState):  # type: ignore[misc]
    """A session that keeps no input and no result."""

    def __init__(self, blocks: gr.Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False

    def _update_value_in_config(self, key: int, value: Any) -> None:
        return


class _Forgetful(StateHolder):  # type: ignore[misc]
    """Makes a new session for every request.

    Gradio would keep the inputs and results of the last 10,000 sessions, and describe every
    component of the page anew for each.
    """

    def __getitem__(self, session_id: str) -> SessionState:
        return _Stateless(self.blocks)


def _forget(demo: gr.Blocks) -> None:
    """Let Gradio keep nothing of a request, and count nothing."""
    holder = _Forgetful()
    demo.app.state_holder = holder
    holder.set_blocks(demo)
    # Its queue makes a pandas table of the last 10,000 events after each event, for a dashboard.
    demo._queue.ANALYTICS_MAX_EVENTS = 1
    demo._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize


class FrontDoor:
    """Refuses what is closed, too large or too much, and rewrites pictures; see `page.intake`."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site
        self._intake = Intake(site.uploads, site.service.limits)
        self._reading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            admitted = await self._admitted(scope, receive)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        if admitted is None:
            await Response("Not Found", 404)(scope, receive, send)
            return
        await self._app(scope, admitted, send)

    async def _admitted(self, scope: Scope, receive: Receive) -> Receive | None:
        """The body as the application may see it; None for what does not exist here."""
        path = scope["path"]
        if path.startswith("/gradio_api/") and not self._is_open(path):
            return None
        if scope["method"] != "POST":
            return receive if self._is_awaited(scope) else None
        limit = self._site.service.limits.max_request_bytes
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise over(limit)
        is_call = _CALLS.fullmatch(path) is not None
        if (is_call or path.startswith("/api/v1/")) and self._site.gate.full:
            raise busy()
        if not is_call:
            return capped(receive, limit)
        body = await self._rewritten(path, receive, limit)
        scope["headers"] = [
            *((k, v) for k, v in scope["headers"] if k != b"content-length"),
            (b"content-length", str(len(body)).encode()),
        ]
        return replay(body, receive)

    async def _rewritten(self, path: str, receive: Receive, limit: int) -> bytes:
        """The body of a call of Gradio's; no more of them are held than may be waiting."""
        gate = self._site.gate
        if gate.pending + self._reading >= gate.capacity:
            raise busy()
        name = _NAMED.fullmatch(path)
        defaults = DEFAULTS.get(name["endpoint"]) if name else None
        self._reading += 1
        try:
            return await self._intake.rewrite(await read_body(receive, limit), defaults)
        finally:
            self._reading -= 1

    def _is_awaited(self, scope: Scope) -> bool:
        """False for the answer of a call that nobody made: Gradio would fail while answering."""
        known = self._site.demo._queue.pending_messages_per_session
        call = _ANSWER.fullmatch(scope["path"])
        if call:
            calls = self._site.demo._queue.event_ids_to_events
            return call["event"] in known or call["event"] in calls
        if scope["path"] == "/gradio_api/queue/data":
            return Request(scope).query_params.get("session_hash", "") in known
        return True

    def _is_open(self, path: str) -> bool:
        if path.startswith("/gradio_api/file="):
            return self._site.uploads.holds(unquote(path.removeprefix("/gradio_api/file=")))
        return _OPEN.fullmatch(path) is not None


def error_response(error: RequestError) -> JSONResponse:
    """An error as JSON; `detail` is where Gradio's clients look."""
    content = {"api_version": API_VERSION, "error": error.to_dict(), "detail": str(error)}
    headers = {"Retry-After": "1"} if error.kind == "busy" else None
    return JSONResponse(content, error.status, headers)


def add_routes(app: FastAPI, site: Site) -> None:
    """The plain HTTP endpoints, the health check, and our own upload in place of Gradio's."""
    service, gate, uploads = site.service, site.gate, site.uploads

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
            paths = []
            for file in files:
                uploads.check(file.size or 0)
                content = await file.read()
                paths.append(
                    await asyncio.to_thread(uploads.save, content, file.filename or "picture")
                )
        return JSONResponse([str(path) for path in paths])

    async def upload_progress(_: Request) -> Response:
        return StreamingResponse(
            iter(['data: {"msg": "done"}\n\n']), media_type="text/event-stream"
        )

    for path, endpoint, method in (
        ("/health", health, "GET"),
        ("/api/v1/model_info", model_info, "GET"),
        ("/api/v1/predict", predict, "POST"),
        ("/api/v1/predict_batch", predict_batch, "POST"),
        ("/api/v1/classify_crop", classify_crop, "POST"),
        ("/api/v1/explain", explain, "POST"),
        ("/gradio_api/upload", upload, "POST"),
        ("/gradio_api/upload_progress", upload_progress, "GET"),
    ):
        app.add_route(path, endpoint, methods=[method])


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


class _Server(uvicorn.Server):
    """Uvicorn that answers what is in flight before it stops."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """First signal: drain, then stop; second: stop at once."""
        if self._draining is not None or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        # A signal may come while the loop sleeps, hence a call that wakes it.
        self._draining = asyncio.get_running_loop().create_task(self._drain())
        asyncio.get_running_loop().call_soon_threadsafe(lambda: None)

    async def _drain(self) -> None:
        await self._site.gate.drained(DRAIN_S)
        await asyncio.sleep(LINGER_S)
        self.should_exit = True


def make_server(site: Site, host: str, port: int) -> _Server:
    """A server that is not running yet; port 0 takes a free one."""
    config = uvicorn.Config(
        site.app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
        proxy_headers=True,
        server_header=False,
    )
    return _Server(config, site)


@contextlib.contextmanager
def running(service: FaceService) -> Iterator[tuple[str, Site]]:
    """A server on a free port of the loopback interface: its address and parts."""
    site = Site(service)
    server = make_server(site, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/", site
    finally:
        server.should_exit = True
        thread.join(10)


def serve(service: FaceService, host: str, port: int) -> None:
    """Serve until a signal comes."""
    with tempfile.TemporaryDirectory(prefix="faceattr-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        make_server(Site(service), host, port).run()
