"""Results as HTML: the picture with its boxes, a card for every face, and what can be downloaded.

Written by hand where Gradio's parts cannot serve: AnnotatedImage, Gallery and DownloadButton put
their content among the server's files, and Label within `gr.render` puts it into a session, while
here nothing of a picture may be kept; none of them can mark a face's box from its card either.
"""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

import faceattr
from faceattr import labels
from faceattr.hub import BUNDLED_NAMES
from faceattr.images import Picture, shrink
from faceattr.pipeline import PipelineInfo
from faceattr.results import Attribute, FaceResult
from page.service import Found
from page.view.encode import data_url, text_url, to_csv

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

NO_FACE = """<div class="fa-message" role="status"><h2>No face found</h2>
<p>The detector looks for faces that are turned to the camera and not too small. Under
<em>Options</em>, another detector may find one, and so may a smaller minimum size if it was
raised.</p>
<p>If the picture <strong>is</strong> a cropped face, the button below treats all of it as one.</p>
</div>"""


def percent(share: float) -> str:
    """A share for people: never "100 %" for what is not certain."""
    if 0.995 <= share < 1:
        return ">\u00a099\u00a0%"
    if 0 < share < 0.005:
        return "<\u00a01\u00a0%"
    return f"{share:.0%}".replace("%", "\u00a0%")


def short(face: FaceResult) -> tuple[str, str]:
    """Gender and years as they stand beside a box; a "?" marks a gender that is unsure."""
    return face.gender.display_label + ("?" if face.gender.unsure else ""), face.age_range.label


def _bars(attribute: Attribute, note: str) -> str:
    """All classes of one task, by probability or in order of age; CSS hides those unlikely."""
    task = labels.task(attribute.task)
    shares = attribute.probabilities
    likeliest = sorted(shares, key=shares.__getitem__, reverse=True)
    rows = []
    for name in task.classes if task.ordinal else likeliest:
        kind = " fa-top" if name == attribute.label else ""
        kind += " fa-rest" if name not in likeliest[:LIKELIEST] else ""
        rows.append(
            f'<li class="fa-bar{kind}"><span>{html.escape(task.display_name(name))}</span>'
            f'<span class="fa-track"><span style="width:{shares[name]:.1%}"></span></span>'
            f'<span class="fa-share">{html.escape(percent(shares[name]))}</span></li>'
        )
    title = f'{TITLES[task.name]} <span class="fa-note">{note}</span>'
    return f"<section><h3>{title}</h3><ul>{''.join(rows)}</ul></section>"


def _why(number: int) -> str:
    options = "".join(f'<option value="{name}">{title}</option>' for name, title in TITLES.items())
    return (
        f'<div class="fa-why"><label>What drives this? <select aria-label="What drives the answer '
        f'for face {number}">{options}</select></label> '
        f'<button type="button" class="fa-button" data-why="{number}">Show heat map</button>'
        f'<div class="fa-map" aria-live="polite"></div></div>'
    )


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


def _card(number: int, face: FaceResult, opened: bool) -> str:
    years = face.age_range
    remarks = {a.task: "unsure" if a.unsure else "" for a in face.attributes}
    remarks["age"] = f"{years.label}: {percent(years.probability)}"
    bars = "".join(_bars(attribute, remarks[attribute.task]) for attribute in face.attributes)
    notes = "; ".join(_notes(face))
    gender, age = (html.escape(part) for part in short(face))
    more = (
        f'<button type="button" class="fa-button" data-more aria-expanded="false" '
        f'aria-controls="more-{number}" aria-label="All classes of face {number}">'
        "All classes</button>"
    )
    return (
        f'<article class="fa-face{" fa-open" if opened else ""}" id="face-{number}" '
        f'data-face="{number}" style="--c:#{_colour(number)}" aria-label="Face {number}"><header>'
        f'<img class="fa-crop" src="{data_url(face.crop, lossless=opened)}" '
        f'alt="Face {number}, cropped and turned upright"><div>'
        f'<h2><a class="fa-number" href="#box-{number}" aria-label="Face {number} in the picture">'
        f'{number}</a> <span class="fa-nowrap">{gender},</span> '
        f'<span class="fa-nowrap">{age}</span></h2>'
        f'<p class="fa-small">{notes}</p></div></header>'
        f'<div class="fa-bars" id="more-{number}">{bars}</div>'
        f'<div class="fa-foot">{"" if opened else more}{_why(number)}</div></article>'
    )


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _figure(found: Found, count: str) -> str:
    """The picture, and over it a link for each face to its card."""
    boxes = []
    for number, face in enumerate(found.faces, start=1):
        if face.score is None:
            continue
        box = face.box
        left, width = (f"{side / found.width:.2%}" for side in (box.x, box.width))
        top, height = (f"{side / found.height:.2%}" for side in (box.y, box.height))
        gender, age = (html.escape(part) for part in short(face))
        boxes.append(
            f'<a class="fa-box" id="box-{number}" href="#face-{number}" data-face="{number}" '
            f'style="--c:#{_colour(number)};left:{left};top:{top};width:{width};height:{height}" '
            f'aria-label="Face {number}: {gender}, {age}"><span class="fa-tag"><b>{number}</b> '
            f"<span>{gender},</span> <span>{age}</span></span></a>"
        )
    return (
        f'<figure class="fa-figure"><img src="{data_url(shown(found.picture))}" '
        f'alt="Your picture: {count}">{"".join(boxes)}</figure>'
    )


def shown(picture: Picture) -> NDArray[np.uint8]:
    """RGB uint8, at most `LONGEST_SIDE` pixels on its longer side: full size is slow to encode."""
    image = picture.decode(picture.reduction(LONGEST_SIDE))
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return shrink(image, width, height)


def render_found(found: Found, answer_json: dict[str, Any]) -> str:
    """HTML of one result; pictures and downloads are inlined, so the server keeps nothing."""
    faces = found.faces
    if not faces:
        return NO_FACE
    count = f"{len(faces)} face{'' if len(faces) == 1 else 's'} found"
    if found.detector == "none":
        count = "The whole picture treated as one face"
    notes = ", the largest first" if len(faces) > 1 else ""
    if found.truncated:
        notes += f"; the picture has more, only the {len(faces)} largest are shown"
    small = any(face.score is not None and face.box.width < SMALL for face in faces)
    hint = (
        f'<p class="fa-small">Faces narrower than about {SMALL} pixels hold little detail; their '
        "answers are less reliable than the probabilities say.</p>"
        if small
        else ""
    )
    opened = len(faces) <= OPEN_CARDS
    cards = "".join(_card(number, face, opened) for number, face in enumerate(faces, start=1))
    wide = " fa-wide" if not opened and found.width / found.height > WIDE else ""
    return (
        f'<div class="fa-result{wide}" data-count="{min(len(faces), OPEN_CARDS + 1)}">'
        f'<div class="fa-side"><div class="fa-head"><p class="fa-count" role="status">'
        f"<strong>{count}</strong>{notes}.</p>{_downloads(found, answer_json)}</div>"
        f'{_figure(found, count)}</div><div>{hint}<div class="fa-faces">{cards}</div></div></div>'
    )


def _downloads(found: Found, answer_json: dict[str, Any]) -> str:
    document = json.dumps(answer_json, indent=2, ensure_ascii=False)
    links = (
        ("faces.json", text_url(document, "application/json"), "JSON"),
        ("faces.csv", text_url(to_csv(found.faces), "text/csv"), "CSV"),
        ("faces.jpg", "#", "picture with boxes"),
    )
    items = "".join(
        f'<a class="fa-button" download="{name}" href="{address}">{label}</a>'
        for name, address, label in links
    )
    return f'<nav class="fa-downloads" aria-label="Downloads"><span>Download:</span> {items}</nav>'


def render_error(message: str) -> str:
    """HTML of a refusal."""
    return (
        '<div class="fa-message fa-error" role="alert"><h2>That did not work</h2>'
        f"<p>{html.escape(message[:1].upper() + message[1:])}.</p></div>"
    )


def describe(info: PipelineInfo, note: str | None = None) -> str:
    """One line on the weights and the detector in use, and what is not as it was asked for."""
    weights = info.model
    if info.model in BUNDLED_NAMES:
        weights += " (in this repository)"
    if info.revision:
        weights += f" at {info.revision[:12]}"
    detector = DETECTORS.get(info.detector, info.detector)
    warning = f'<p class="fa-message fa-warning">{html.escape(note)}</p>' if note else ""
    return (
        f'{warning}<p class="fa-small">Weights: <strong>{html.escape(weights)}</strong>. Detector: '
        f"<strong>{html.escape(detector)}</strong>. faceattr {faceattr.__version__}.</p>"
    )
