"""One-click examples: photographs that may be shown, with results that are computed once."""

from __future__ import annotations

import io
import json
import threading
from contextlib import suppress
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

from page.errors import RequestError
from page.service import FaceService
from page.view.encode import data_url
from page.view.render import rendered
from page.view.texts import filled

FOLDER = files("page.view") / "static" / "examples"
THUMBNAIL = (180, 110)
"""Largest width and height in pixels."""


class Examples:
    """The pictures of `page/view/static/examples`, listed with their credit in `examples.json`."""

    def __init__(self, service: FaceService) -> None:
        """Read the list, and let a thread of its own compute the results."""
        listed = json.loads(FOLDER.joinpath("examples.json").read_text("utf-8"))
        self.credit: str = listed["credit"]
        self._pictures: list[dict[str, str]] = listed["pictures"]
        self._service = service
        self._lock = threading.Lock()
        self._result = cache(self._render)
        # No daemon: at exit the network would be torn down while it runs.
        threading.Thread(target=self._compute, name="examples").start()

    @property
    def samples(self) -> list[list[str]]:
        """A thumbnail with its name for each, as HTML: no file is served for it."""
        return [
            [filled("example.html", image=_thumbnail(entry["file"]), title=entry["name"])]
            for entry in self._pictures
        ]

    def html(self, index: int) -> str:
        """The result of one example.

        Raises:
            RequestError: as `FaceService.find`.
        """
        with self._lock:
            return self._result(index)

    def _render(self, index: int) -> str:
        content = FOLDER.joinpath(self._pictures[index]["file"]).read_bytes()
        return rendered(self._service, self._service.find(content))

    def _compute(self) -> None:
        for index in range(len(self._pictures)):
            # A server with tighter limits says so on the click.
            with suppress(RequestError):
                self.html(index)


def _thumbnail(name: str) -> str:
    with Image.open(io.BytesIO(FOLDER.joinpath(name).read_bytes())) as image:
        image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
        return data_url(np.asarray(image.convert("RGB")))
