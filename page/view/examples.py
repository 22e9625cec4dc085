"""One-click examples: pictures that belong to nobody, with results that are computed once."""

from __future__ import annotations

import json
import threading
from importlib.resources import files
from typing import Any

from page.service import FaceService, picture_dict
from page.view.render import render_found

FOLDER = files("page.view") / "static" / "examples"


class Examples:
    """The pictures of `page/view/static/examples`, listed with their credit in `examples.json`."""

    def __init__(self, service: FaceService) -> None:
        listed: dict[str, Any] = json.loads(FOLDER.joinpath("examples.json").read_text("utf-8"))
        self.credit: str = listed["credit"]
        self._files: dict[str, str] = listed["pictures"]
        self._service = service
        self._results: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What the buttons say."""
        return list(self._files)

    def html(self, name: str) -> str:
        """The result of one example.

        Raises:
            RequestError: as `FaceService.find`.
        """
        with self._lock:
            if name not in self._results:
                content = FOLDER.joinpath(self._files[name]).read_bytes()
                found = self._service.find(content)
                answer = {**self._service.head(found.detector), **picture_dict(found)}
                self._results[name] = render_found(found, answer)
            return self._results[name]
