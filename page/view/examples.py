"""One-click examples: photographs that may be shown, with results that are computed once."""

from __future__ import annotations

import io
import json
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from page.service import FaceService
from page.view.encode import data_url
from page.view.render import render_found
from page.view.texts import filled

FOLDER = files("page.view") / "static" / "examples"
LISTED: dict[str, Any] = json.loads(FOLDER.joinpath("examples.json").read_text("utf-8"))
"""The pictures of that folder by file and name, and their credit."""
THUMBNAIL = (180, 110)
"""Largest width and height in pixels."""


def samples() -> list[list[str]]:
    """A thumbnail with its name for each, as HTML: no file is served for it."""
    return [
        [filled("example.html", image=_thumbnail(_read(entry)), title=entry["name"])]
        for entry in LISTED["pictures"]
    ]


def results(service: FaceService) -> list[Future[str]]:
    """HTML of what is found in each, computed in a thread of its own from now on."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="examples")

    def result(entry: dict[str, str]) -> str:
        found = service.find(_read(entry))
        return render_found(found, service.head(found.detector))

    return [pool.submit(result, entry) for entry in LISTED["pictures"]]


def _read(entry: dict[str, str]) -> bytes:
    return FOLDER.joinpath(entry["file"]).read_bytes()


def _thumbnail(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
        return data_url(np.asarray(image.convert("RGB")))
