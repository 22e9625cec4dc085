"""Results as HTML: the picture with its boxes, a card for every face, and what can be downloaded.

By templates of our own where Gradio's parts cannot serve: AnnotatedImage, Gallery and
DownloadButton put their content among the server's files, and Label within `gr.render` puts it into
a session, while here nothing of a picture may be kept; none of them can mark a face's box from its
card either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import faceattr
from faceattr import labels
from faceattr.hub import BUNDLED_NAMES
from faceattr.images import OpenedImage, shrink
from faceattr.pipeline import PipelineInfo
from faceattr.results import Attribute, FaceResult
from page.service import FaceService, Found, picture_dict
from page.view.encode import data_url, text_url, to_csv
from page.view.texts import TEMPLATES, filled, percent

LONGEST_SIDE = 1280
"""Of the picture that is shown, in pixels."""
OPEN_CARDS = 3
"""With more faces a card shows the likeliest classes, and all of them on opening."""
LIKELIEST = 3
"""Classes of each task on a card that is not opened."""
SMALL = 50
"""Width of a face in pixels below which its answers are worse than they claim."""
WIDE = 1.6
"""Width by height from which a picture of many stands over its cards, not beside them."""
COLOURS = ("1d4ed8", "b91c1c", "15803d", "a21caf", "b45309", "0e7490", "6d28d9", "be185d")
"""Of the boxes in turn; white letters on each have a contrast of 4.5 or more."""

TITLES = {"gender": "Perceived gender", "age": "Perceived age", "race": "Perceived race"}
DETECTORS = {"yunet": "YuNet", "haar": "Haar cascades"}
BACKENDS = {"torch": "PyTorch", "onnx": "ONNX Runtime"}


def short(face: FaceResult) -> tuple[str, str]:
    """Gender and years as they stand beside a box; a "?" marks a gender that is unsure."""
    return face.gender.display_label + ("?" if face.gender.unsure else ""), face.age_range.label


def _task(attribute: Attribute, note: str) -> dict[str, Any]:
    """All classes of one task, by probability or in order of age; CSS hides those unlikely."""
    task = labels.task(attribute.task)
    shares = attribute.probabilities
    likeliest = sorted(shares, key=shares.__getitem__, reverse=True)
    rows = [
        {
            "name": task.display_name(name),
            "share": shares[name],
            "top": name == attribute.label,
            "rest": name not in likeliest[:LIKELIEST],
        }
        for name in (task.classes if task.ordinal else likeliest)
    ]
    return {"title": TITLES[task.name], "note": note, "rows": rows}


def _notes(face: FaceResult) -> list[str]:
    """What a reader of the answers should know about this face."""
    if face.score is None:
        return ["the whole picture"]
    notes = [f"{face.box.width:.0f} pixels wide"]
    if face.turn:
        notes.append(f"turned by {face.turn}° to stand upright")
    if face.age_range.may_be_under_20:
        notes.append("may be under 20")
    return notes


def _place(face: FaceResult, found: Found) -> str:
    """Where a face's box lies over the picture, as CSS; empty for a whole picture."""
    if face.score is None:
        return ""
    box, width, height = face.box, found.width, found.height
    sides = {
        "left": box.x / width,
        "top": box.y / height,
        "width": box.width / width,
        "height": box.height / height,
    }
    return ";".join(f"{name}:{share:.2%}" for name, share in sides.items())


def _face(number: int, face: FaceResult, found: Found) -> dict[str, Any]:
    years = face.age_range
    remarks = {a.task: "unsure" if a.unsure else "" for a in face.attributes}
    remarks["age"] = f"{years.label}: {percent(years.probability)}"
    gender, label = short(face)
    return {
        "number": number,
        "colour": COLOURS[(number - 1) % len(COLOURS)],
        "crop": data_url(face.crop, lossless=len(found.faces) <= OPEN_CARDS),
        "gender": gender,
        "years": label,
        "notes": "; ".join(_notes(face)),
        # What follows is advice to programs.
        "warning": (face.crop_note or "").partition("; align=")[0],
        "place": _place(face, found),
        "tasks": [_task(attribute, remarks[attribute.task]) for attribute in face.attributes],
    }


def shown(picture: OpenedImage) -> NDArray[np.uint8]:
    """RGB uint8, at most `LONGEST_SIDE` pixels on its longer side: full size is slow to encode."""
    image = picture.decode(picture.reduction(LONGEST_SIDE))
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return shrink(image, width, height)


def rendered(service: FaceService, found: Found) -> str:
    """HTML of one result, with the answer that the API would give to download."""
    return render_found(found, {**service.head(found.detector), **picture_dict(found)})


def render_found(found: Found, answer_json: dict[str, Any]) -> str:
    """HTML of one result; pictures and downloads are inlined, so the server keeps nothing."""
    faces = found.faces
    if not faces:
        return render_message("no face")
    count = f"{len(faces)} face{'' if len(faces) == 1 else 's'} found"
    if found.detector == "none":
        count = "The whole picture treated as one face"
    notes = ", the largest first" if len(faces) > 1 else ""
    if found.truncated:
        notes += f"; the picture has more, only the {len(faces)} largest are shown"
    is_small = any(face.score is not None and face.box.width < SMALL for face in faces)
    opened = len(faces) <= OPEN_CARDS
    document = json.dumps(answer_json, indent=2, ensure_ascii=False)
    links = (
        ("faces.json", text_url(document, "application/json"), "JSON"),
        ("faces.csv", text_url(to_csv(faces), "text/csv"), "CSV"),
        ("faces.jpg", "#", "picture with boxes"),
    )
    return filled(
        "result.html",
        count=count,
        notes=notes,
        shape=min(len(faces), OPEN_CARDS + 1),
        wide=not opened and found.width / found.height > WIDE,
        opened=opened,
        small=SMALL if is_small else None,
        picture=data_url(shown(found.picture)),
        links=links,
        titles=TITLES,
        faces=[_face(number, face, found) for number, face in enumerate(faces, start=1)],
    )


def downloads(links: Sequence[tuple[str, str, str]]) -> str:
    """HTML of files to download.

    Args:
        links: name, `data:` URL and label of each.
    """
    macros: Any = TEMPLATES.get_template("downloads.html").module
    return str(macros.downloads(links))


def render_message(message: str) -> str:
    """HTML of a refusal, or of what stands for "no face"."""
    return filled("messages.html", message=message)


def describe(info: PipelineInfo, note: str | None = None) -> str:
    """One line on the weights and the detector in use, and what is not as it was asked for."""
    weights = info.model
    if info.model in BUNDLED_NAMES:
        weights += " (in this repository)"
    if info.revision:
        weights += f" at {info.revision[:12]}"
    return filled(
        "in_use.html",
        note=note,
        weights=weights,
        detector=DETECTORS.get(info.detector, info.detector),
        version=faceattr.__version__,
    )
