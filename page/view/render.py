"""Results as HTML: the picture with its boxes, a card for every face, and what can be downloaded.

By templates of our own where Gradio's parts cannot serve: AnnotatedImage, Gallery and
DownloadButton put their content among the server's files, and Label within `gr.render` puts it into
a session, while here nothing of a picture may be kept; none of them can mark a face's box from its
card either.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

import faceattr
from faceattr import labels
from faceattr.hub import BUNDLED_NAMES
from faceattr.images import OpenedImage
from faceattr.pipeline import PipelineInfo
from faceattr.results import FaceResult
from faceattr.search import resized
from page.service import Found
from page.view.encode import data_url, text_url, to_csv
from page.view.texts import TEMPLATES, filled

LONGEST_SIDE = 1280
"""Of the picture that is shown, in pixels."""
OPEN_CARDS = 3
"""With more faces a card shows the likeliest classes, and all of them on opening."""

TITLES = {"gender": "Perceived gender", "age": "Perceived age", "race": "Perceived race"}
DETECTORS = {"yunet": "YuNet", "haar": "Haar cascades"}


def short(face: FaceResult) -> tuple[str, str]:
    """Gender and years as they stand beside a box; a "?" marks a gender that is unsure."""
    return face.gender.display_label + ("?" if face.gender.unsure else ""), face.age_range.label


TEMPLATES.globals |= {
    "data_url": data_url,
    "detectors": DETECTORS,
    "short": short,
    "tasks": {task.name: task for task in labels.TASKS},
    "titles": TITLES,
}


def shown(picture: OpenedImage) -> NDArray[np.uint8]:
    """RGB uint8, at most `LONGEST_SIDE` pixels on its longer side: full size is slow to encode."""
    image = picture.decode(picture.reduction(LONGEST_SIDE))
    scale = LONGEST_SIDE / max(image.shape[:2])
    return image if scale >= 1 else resized(image, scale)


def render_found(found: Found, head: dict[str, Any]) -> str:
    """HTML of one result; pictures and downloads are inlined, so the server keeps nothing.

    Args:
        found: in one picture.
        head: of the answer that can be downloaded, as `FaceService.head`.
    """
    faces = found.faces
    if not faces:
        return render_message("no face")
    count = f"{len(faces)} face{'' if len(faces) == 1 else 's'} found"
    if found.detector == "none":
        count = "The whole picture treated as one face"
    document = json.dumps({**head, **found.to_dict()}, indent=2, ensure_ascii=False)
    links = (
        ("faces.json", text_url(document, "application/json"), "JSON"),
        ("faces.csv", text_url(to_csv(found), "text/csv"), "CSV"),
        ("faces.jpg", "#", "picture with boxes"),
    )
    return filled(
        "result.html",
        found=found,
        picture=shown(found.picture),
        count=count,
        opened=len(faces) <= OPEN_CARDS,
        links=links,
    )


def render_message(message: str) -> str:
    """HTML of a refusal, or of what stands for "no face"."""
    return filled("messages.html", message=message)


def describe(info: PipelineInfo, note: str | None = None) -> str:
    """One line on the weights and the detector in use, and what is not as it was asked for."""
    bundled = info.model in BUNDLED_NAMES
    version = faceattr.__version__
    return filled("in_use.html", info=info, note=note, bundled=bundled, version=version)
