"""The server: front door, plain HTTP endpoints, Gradio's page behind them, a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import gradio as gr
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

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
        self.inbox = Inbox(limits)
        self.calls = Calls(service, self.gate, self.inbox)
        self.tools = make_tools(self.calls)
        self.demo = build_page(self.calls, has_tools=self.tools is not None)
        self.app = Starlette(lifespan=self._lifespan)
        add_routes(self.app, self.calls)
        if self.tools is not None:
            for path in (TOOLS_PATH, f"{TOOLS_PATH}/"):
                self.app.router.routes.append(Route(path, self.tools))
        self._mount()
        self.inside = Inside(self.app, self.demo)
        self.app.add_middleware(FrontDoor, calls=self.calls, inside=self.inside)

    def _mount(self) -> None:
        gr.mount_gradio_app(
            self.app,
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

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
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

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """First signal: drain, then stop; second: stop at once."""
        if self._draining is not None:
            super().handle_exit(sig, frame)
            return
        # A signal may come while the loop sleeps, hence a call that wakes it.
        self._draining = asyncio.get_running_loop().create_task(self._drain())
        asyncio.get_running_loop().call_soon_threadsafe(lambda: None)

    async def _drain(self) -> None:
        is_idle = self._gate.pending == 0
        await self._gate.drained(DRAIN_S)
        await asyncio.sleep(0 if is_idle else LINGER_S)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address which nobody else has; port 0 takes a free one.

    Raises:
        ValueError: saying why the address cannot be had.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=kind, backlog=2_048)
    except OSError as error:
        # Python adds the address, which the message names already.
        reason = (error.strerror or str(error)).partition(" (")[0].lower()
        raise ValueError(
            f"cannot serve on {host}:{port}: {reason}; choose "
            "another with GRADIO_SERVER_NAME and GRADIO_SERVER_PORT"
        ) from None


def make_server(site: Site) -> uvicorn.Server:
    """A server of a site, to be run with the socket that `bind` gave."""
    config = uvicorn.Config(
        site.app,
        http=protocol(site.service.limits.head_time),
        ws="none",
        log_level="warning",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=30,
        server_header=False,
    )
    return _Server(config, site.gate)
