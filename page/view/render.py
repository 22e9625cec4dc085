"""Results as HTML: the numbered picture, a card for every face, and what can be downloaded."""

from __future__ import annotations

import html
import json
from typing import Any

import faceattr
from faceattr import labels
from faceattr.drawing import annotate
from faceattr.hub import BUNDLED_NAMES
from faceattr.pipeline import PipelineInfo
from faceattr.results import Attribute, FaceResult
from page.service import Found
from page.view.encode import data_url, text_url, to_csv

OPEN_CARDS = 3
"""With more faces the bars are folded away under each card's summary."""

TITLES = {"gender": "Perceived gender", "age": "Perceived age", "race": "Perceived race"}
DETECTORS = {"yunet": "YuNet", "haar": "Haar cascades"}
BACKENDS = {"torch": "PyTorch", "onnx": "ONNX Runtime"}

NO_FACE = """<div class="fa-message" role="status"><h2>No face found</h2>
<p>The detector looks for faces that are turned to the camera, upright or nearly so, and wider than
about a twentieth of the picture. Under <em>Options</em>, another detector may find one, and so may
a smaller minimum size if it was raised.</p>
<p>If the picture <strong>is</strong> a cropped face, the button below treats all of it as one.</p>
</div>"""


def percent(share: float) -> str:
    """A share for people: never "100 %" for what is not certain."""
    if 0.995 <= share < 1:
        return ">\u00a099\u00a0%"
    if 0 < share < 0.005:
        return "<\u00a01\u00a0%"
    return f"{share:.0%}".replace("%", "\u00a0%")


def ranked(attribute: Attribute) -> list[tuple[str, float]]:
    """Names for people with their probabilities, the most likely first."""
    task = labels.task(attribute.task)
    shares = sorted(attribute.probabilities.items(), key=lambda item: -item[1])
    return [(task.display_name(name), share) for name, share in shares]


def answer(attribute: Attribute) -> str:
    """The answer in words: the label, or "unsure" with the two likeliest."""
    (first, share), (second, other) = ranked(attribute)[:2]
    if attribute.unsure:
        return f"unsure: {first} ({percent(share)}) or {second} ({percent(other)})"
    return f"{first} ({percent(share)})"


def _answer_html(attribute: Attribute) -> str:
    """`answer` that breaks only between its parts."""
    words = html.escape(answer(attribute))
    parts = [f'<span class="fa-nowrap">{part}</span>' for part in words.split(" or ")]
    return " or ".join(parts).replace(": ", ':</span> <span class="fa-nowrap">')


def _bars(attribute: Attribute) -> str:
    """All classes of one task: by probability, or in order of age."""
    task = labels.task(attribute.task)
    if task.ordinal:
        shares = [(task.display_name(n), s) for n, s in attribute.probabilities.items()]
    else:
        shares = ranked(attribute)
    top = ranked(attribute)[0][0]
    rows = "".join(
        f'<li class="fa-bar{" fa-top" if name == top else ""}">'
        f"<span>{html.escape(name)}</span>"
        f'<span class="fa-track" aria-hidden="true"><span style="width:{share:.1%}"></span></span>'
        f'<span class="fa-share">{html.escape(percent(share))}</span></li>'
        for name, share in shares
    )
    verdict = f'<p class="fa-answer{" fa-unsure" if attribute.unsure else ""}">'
    verdict += f"{_answer_html(attribute)}</p>"
    return f"<section><h4>{TITLES[task.name]}</h4>{verdict}<ul>{rows}</ul></section>"


def _summary(face: FaceResult) -> str:
    rows = "".join(
        f"<dt>{TITLES[attribute.task]}</dt>"
        f'<dd class="{"fa-unsure" if attribute.unsure else ""}">{_answer_html(attribute)}</dd>'
        for attribute in face.attributes
    )
    return f'<dl class="fa-summary">{rows}</dl>'


def _why(number: int) -> str:
    options = "".join(f'<option value="{name}">{title}</option>' for name, title in TITLES.items())
    return (
        f'<div class="fa-why"><label>What drives this? <select aria-label="What drives the answer '
        f'for face {number}">{options}</select></label> '
        f'<button type="button" class="fa-button" data-why="{number}">Show heat map</button>'
        f'<div class="fa-map" aria-live="polite"></div></div>'
    )


def _card(number: int, face: FaceResult, opened: bool) -> str:
    bars = "".join(_bars(attribute) for attribute in face.attributes)
    bars = f'<div class="fa-bars">{bars}</div>{_why(number)}'
    if opened:
        head, body = "", bars
    else:
        head, body = (
            _summary(face),
            f"<details><summary>All probabilities</summary>{bars}</details>",
        )
    width = f"{face.box.width:.0f} pixels wide" if face.score is not None else "the whole picture"
    return (
        f'<article class="fa-face" aria-label="Face {number}"><header>'
        f'<img class="fa-crop" src="{data_url(face.crop, lossless=opened)}" '
        f'alt="Face {number}, cropped and turned upright">'
        f'<div><h3>Face {number}</h3><p class="fa-small">{width}</p>{head}</div></header>'
        f"{body}</article>"
    )


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
    small = any(face.score is not None and face.box.width < 50 for face in faces)
    hint = (
        '<p class="fa-small">Faces narrower than about 50 pixels hold little detail; their '
        "answers are less reliable than the probabilities say.</p>"
        if small
        else ""
    )
    boxes = [face.box for face in faces if face.score is not None]
    picture = data_url(annotate(found.picture, boxes))
    opened = len(faces) <= OPEN_CARDS
    cards = "".join(_card(number, face, opened) for number, face in enumerate(faces, start=1))
    return (
        f'<div class="fa-result"><p class="fa-count" role="status"><strong>{count}</strong>{notes}.'
        f"</p>{hint}"
        f'<img class="fa-annotated" src="{picture}" alt="Your picture: {count}, numbered boxes">'
        f"{_downloads(found, answer_json, picture)}"
        f'<div class="fa-faces" data-count="{min(len(faces), OPEN_CARDS + 1)}">{cards}</div></div>'
    )


def _downloads(found: Found, answer_json: dict[str, Any], picture: str) -> str:
    document = json.dumps(answer_json, indent=2, ensure_ascii=False)
    links = (
        ("faces.json", text_url(document, "application/json"), "JSON"),
        ("faces.csv", text_url(to_csv(found.faces), "text/csv"), "CSV"),
        ("faces.jpg", picture, "picture with boxes"),
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
    """One line on the weights and the detector in use."""
    weights = info.model
    if info.model in BUNDLED_NAMES:
        weights += " (in this repository)"
    if info.revision:
        weights += f" at {info.revision[:12]}"
    detector = DETECTORS.get(info.detector, info.detector)
    remark = f"({html.escape(note)})" if note else ""
    return (
        f'<p class="fa-small">Weights: <strong>{html.escape(weights)}</strong>. Detector: '
        f"<strong>{html.escape(detector)}</strong>. faceattr {faceattr.__version__}. {remark}</p>"
    )
