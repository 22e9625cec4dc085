"""The way of every call, whichever way it came in: its turn, its images, its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from page.admission.gate import Gate
from page.admission.inbox import Inbox
from page.endpoints import ENDPOINTS
from page.errors import RequestError
from page.service import FaceService, Source

T = TypeVar("T")


@dataclass(frozen=True)
class Calls:
    """What page, plain HTTP, Gradio's protocol and agents share.

    Attributes:
        service: what answers.
        gate: what admits.
        inbox: images between upload and request.
    """

    service: FaceService
    gate: Gate
    inbox: Inbox

    async def run(self, payload: Any, work: Callable[[list[Source]], T]) -> T:
        """Work on the images that a request names; they are let go whatever becomes of it.

        Args:
            payload: an image of a request, or a list of them.
            work: called in a worker thread with their sources.

        Raises:
            RequestError: as `Gate.run`, or where the front door refused all images.
        """
        try:
            sources = self.inbox.sources(payload)
            return await self.gate.run(lambda: work(sources))
        finally:
            self.inbox.drop(payload)

    async def endpoint(self, name: str, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of an endpoint of the API.

        Raises:
            RequestError: as `run`, and for a bad image or option.
        """
        return await self.run(payload, lambda sources: self.answer(name, sources, options))

    def answer(
        self, name: str, sources: list[Source], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The same in the thread that calls it.

        Raises:
            RequestError: for a bad image or option, or not one image where one is wanted.
        """
        field = ENDPOINTS[name].field
        if field == "picture" and len(sources) != 1:
            raise RequestError("bad_request", f"expected one picture, came {len(sources)}")
        images = {"": [], "picture": sources}.get(field, [sources])
        return getattr(self.service, name)(*images, **options)  # type: ignore[no-any-return]
