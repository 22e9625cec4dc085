"""The server: front door, plain HTTP endpoints, Gradio's page behind them, a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from copy import copy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import get_upload_folder
from starlette.routing import Route

from page.admission.body import Budget
from page.admission.front_door import FrontDoor
from page.admission.gate import Gate
from page.admission.uploads import KEPT_S, Uploads
from page.routes import add_routes
from page.service import FaceService
from page.view.blocks import build_page
from page.view.theme import CSS, HEAD, theme

if TYPE_CHECKING:
    from page.tools import Tools

log = logging.getLogger("faceattr")
TOOLS_PATH = "/gradio_api/mcp"
"""Where agents find the tools; Gradio's own servers of tools have the same path."""
DRAIN_S = 25.0
"""Seconds that requests in flight get after SIGTERM; Spaces and Docker kill after 30."""
SWEEP_S = 15.0
MAX_CONNECTIONS = 1_000
LINGER_S = 1.5
"""Seconds in which clients may still fetch the answers that were finished last."""


def make_tools(service: FaceService, gate: Gate, uploads: Uploads) -> Tools | None:
    """The application for agents; None where the package `mcp` is not installed."""
    try:
        installed = version("mcp")
    except PackageNotFoundError:
        return None
    if not installed.startswith("1."):
        log.warning("no tools for agents: they need mcp below version 2, not %s", installed)
        return None
    from page.tools import Tools

    return Tools(service, gate, uploads)


class Site:
    """One server's parts, for `serve` and for tests.

    Attributes:
        service: what answers.
        gate: what admits.
        uploads: files between upload and request.
        budget: bytes of pictures that are held.
        tools: the application for agents, if there is one.
        app: the ASGI application.
        gradio: Gradio's application within it.
    """

    def __init__(self, service: FaceService) -> None:
        limits = service.limits
        self.service = service
        self.gate = Gate(limits.workers, limits.max_waiting, limits.time_limit)
        self.budget = Budget(limits.max_held_bytes)
        self.uploads = Uploads(Path(get_upload_folder()), limits.max_bytes, self.budget)
        self.tools = make_tools(service, self.gate, self.uploads)
        self.demo = build_page(service, self.gate, self.uploads, self.tools is not None)
        self.app = self._assemble()

    def _assemble(self) -> FastAPI:
        app = FastAPI(
            lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None, debug=False
        )
        add_routes(app, self.service, self.gate, self.uploads)
        if self.tools is not None:
            for path in (TOOLS_PATH, f"{TOOLS_PATH}/"):
                app.router.routes.append(Route(path, self.tools))
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
            footer_links=["api"],
        )
        app.add_middleware(
            FrontDoor,
            limits=self.service.limits,
            gate=self.gate,
            uploads=self.uploads,
            budget=self.budget,
            demo=self.demo,
        )
        self.gradio = _forget(app, self.demo)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            idle: dict[str, float] = {}
            while True:
                await asyncio.to_thread(self.uploads.sweep)
                forget_answers(self.demo, idle)
                await asyncio.sleep(SWEEP_S)

        task = asyncio.create_task(sweep())
        try:
            async with self.tools.running() if self.tools else contextlib.nullcontext():
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


def _forget(app: FastAPI, demo: gr.Blocks) -> App:
    """Let Gradio keep nothing of a request, and count nothing; returns its application."""
    parts = [getattr(route, "app", None) for route in app.routes]
    mounted: App = next(part for part in parts if isinstance(part, App))
    mounted.state_holder = _Forgetful()
    mounted.state_holder.set_blocks(demo)
    # Its queue makes a pandas table of the last 10,000 events after each event, for a dashboard.
    demo._queue.ANALYTICS_MAX_EVENTS = 1
    demo._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    return mounted


def forget_answers(demo: gr.Blocks, idle: dict[str, float], kept: float = KEPT_S) -> None:
    """Drop answers that nobody fetched; Gradio would keep those of the last 2,000 sessions.

    Args:
        demo: whose queue.
        idle: since when a session has had no call in progress, by its name; updated.
        kept: seconds after which its answers go.
    """
    queue, now = demo._queue, time.monotonic()
    running = {event.session_hash for event in list(queue.event_ids_to_events.values())}
    known = list(queue.pending_messages_per_session)
    for session in set(idle) - set(known) | running:
        idle.pop(session, None)
    for session in set(known) - running:
        if now - idle.setdefault(session, now) >= kept:
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)
            del idle[session]


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
