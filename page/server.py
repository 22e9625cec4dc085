"""The server: front door, plain HTTP endpoints, Gradio's page behind them, a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from page.admission.body import Budget
from page.admission.front_door import FrontDoor
from page.admission.gate import Gate
from page.admission.gradio_private import Inside
from page.admission.heads import protocol
from page.admission.inbox import KEPT_S, Inbox
from page.calls import Calls
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


def make_tools(calls: Calls) -> Tools | None:
    """The application for agents; None where the package `mcp` is not installed."""
    try:
        installed = version("mcp")
    except PackageNotFoundError:
        return None
    if not installed.startswith("1."):
        log.warning("no tools for agents: they need mcp below version 2, not %s", installed)
        return None
    from page.tools import Tools

    return Tools(calls)


class Site:
    """One server's parts, for `serve` and for tests.

    Attributes:
        service: what answers.
        gate: what admits.
        budget: bytes of images that are held.
        inbox: images between upload and request.
        calls: the way of every call through these.
        tools: the application for agents, if there is one.
        demo: Gradio's page.
        inside: Gradio's application and queue.
        app: the ASGI application.
    """

    def __init__(self, service: FaceService) -> None:
        limits = service.limits
        self.service = service
        self.gate = Gate(limits.workers, limits.max_waiting, limits.time_limit)
        self.budget = Budget(limits.max_held_bytes)
        self.inbox = Inbox(limits, self.budget)
        self.calls = Calls(service, self.gate, self.inbox)
        self.tools = make_tools(self.calls)
        self.demo = build_page(self.calls, self.tools is not None)
        self.app = FastAPI(
            lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None, debug=False
        )
        self.inside = self._assemble()

    def _assemble(self) -> Inside:
        app = self.app
        add_routes(app, self.calls)
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
        inside = Inside(app, self.demo)
        app.add_middleware(FrontDoor, calls=self.calls, budget=self.budget, inside=inside)
        return inside

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async def sweep() -> None:
            while True:
                self.inbox.sweep()
                self.inside.forget_answers(KEPT_S)
                await asyncio.sleep(SWEEP_S)

        task = asyncio.create_task(sweep())
        try:
            async with self.tools.running() if self.tools else contextlib.nullcontext():
                yield
        finally:
            task.cancel()
            self.gate.close()


class _Server(uvicorn.Server):
    """Uvicorn that answers what is in flight before it stops."""

    def __init__(self, config: uvicorn.Config, site: Site, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._site = site
        self._ready = ready
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

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


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address that nobody else has; port 0 takes a free one.

    Raises:
        ValueError: saying why the address cannot be had.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(kind, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ValueError(
            f"cannot serve on {host}:{port}: {(error.strerror or str(error)).lower()}; choose "
            "another with GRADIO_SERVER_NAME and GRADIO_SERVER_PORT"
        ) from None
    return found


def _server(site: Site, ready: Callable[[], None]) -> _Server:
    config = uvicorn.Config(
        site.app,
        http=protocol(site.service.limits.head_time),
        ws="none",
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
        proxy_headers=True,
        server_header=False,
    )
    return _Server(config, site, ready)


@contextlib.contextmanager
def running(service: FaceService) -> Iterator[tuple[str, Site]]:
    """A server on a free port of the loopback interface: its address and parts."""
    site, ready = Site(service), threading.Event()
    at = bind("127.0.0.1", 0)
    server = _server(site, ready.set)
    thread = threading.Thread(target=server.run, args=([at],), daemon=True)
    thread.start()
    while not ready.wait(0.05):
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
    try:
        yield f"http://127.0.0.1:{at.getsockname()[1]}/", site
    finally:
        server.should_exit = True
        thread.join(10)


def serve(service: FaceService, at: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes.

    Args:
        service: what answers.
        at: as `bind` gives it.
        ready: called once requests are answered.
    """
    _server(Site(service), ready).run([at])
