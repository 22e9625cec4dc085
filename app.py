"""The page: a picture in, every face with its perceived attributes and confidence bars out.

Run `python app.py`. Environment: FACEATTR_MODEL (Hub id or folder; the weights in this
repository otherwise), FACEATTR_REVISION (commit of the Hub repository), FACEATTR_DETECTOR
(auto, yunet or haar). Pictures are processed in memory, never logged, and Gradio's temporary
copies of uploads are deleted within minutes.
"""

from __future__ import annotations

import base64
import html
import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from numpy.typing import NDArray
from PIL import Image

import faceattr
from faceattr import labels
from faceattr.drawing import annotate
from faceattr.errors import FaceAttrError, ImageDecodeError, WeightsError
from faceattr.hub import BUNDLED_NAMES
from faceattr.images import MAX_BYTES, decode_image
from faceattr.pipeline import FacePipeline, PipelineInfo
from faceattr.results import Attribute, FaceResult

log = logging.getLogger("faceattr")
TITLE = "faceattr: perceived gender, age group and race"
UPLOADS_CHECKED_S, UPLOADS_KEPT_S = 60, 300
MAX_QUEUE, CONCURRENT = 32, 2

CSS = """
.faces {display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr))}
.face {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .8rem;
       background: var(--background-fill-secondary); color: var(--body-text-color)}
.face header {display: flex; gap: .8rem; align-items: center}
.face header img {width: 88px; height: 88px; border-radius: 6px}
.face h3, .face h4 {margin: .1rem 0; color: var(--body-text-color)}
.face h4 {margin-top: .7rem; font-size: .9rem}
.face ul, .face dl {list-style: none; margin: 0; padding: 0}
.bar {display: grid; grid-template-columns: 7.5rem 1fr 3.2rem; gap: .5rem; align-items: center;
      font-size: .85rem; line-height: 1.5}
.bar.top {font-weight: 700}
.bar .track {background: var(--border-color-primary); border-radius: 3px; height: .7rem}
.bar .fill {background: var(--color-accent); border-radius: 3px; height: .7rem}
.bar .share {text-align: right; font-variant-numeric: tabular-nums}
.annotated {max-width: 100%; max-height: 70vh; border-radius: 8px; display: block;
            margin: 0 auto 1rem}
.message {padding: 1rem; border-radius: 8px; background: var(--background-fill-secondary);
          color: var(--body-text-color)}
.small {font-size: .85rem; color: var(--body-text-color)}
"""

INTRO = """# Perceived gender, age group and race of faces
Drop in a photo. Every face found is cropped, aligned and classified by a small neural network
trained on FairFace; each answer comes with the probability of every class.
"""

MEANING = """### What these labels are, and what they are not
The classes are those that FairFace's annotators gave to photographs: how a face *looked to
them*. They are not anybody's gender identity, age or ethnicity, and the network repeats the
annotators' errors and adds its own; the model card lists its accuracy for every group.
Use it to measure the make-up of image collections and to test other systems for bias, not to
decide anything about a person. In the European Union, using biometric data to infer an
individual's race is a prohibited practice (AI Act, Article 5(1)(g)); labelling lawfully acquired
data sets is not covered by that ban. This is no legal advice.

**Privacy:** pictures are processed on this server, not stored, not logged and not used for
training; temporary copies of uploads are deleted within minutes.
"""

NO_FACE = """<div class="message" role="status"><strong>No face found.</strong> Try a photo in which
faces are wider than about a twentieth of the picture, mostly turned to the camera, and not
strongly rotated.
</div>"""


def uploaded(payload: ImageData | None) -> str | bytes | None:
    """Path of an upload, or the bytes of a `data:` URL, in place of `gr.Image.preprocess`.

    Gradio's own decoding gives wrong pixels for some files and opens them before any limit is
    checked; `decode_image` does both properly. Gradio checks a path only where the client says
    that it is one of a file, so it is checked here.

    Raises:
        gr.Error: for a path outside Gradio's folder of uploads, and for a `data:` URL that is
            too long or not valid base64.
    """
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):
        return _from_data_url(payload.url)
    if payload.path is None:
        return None
    uploads = Path(get_upload_folder()).resolve()
    if not Path(payload.path).resolve().is_relative_to(uploads):
        raise gr.Error("the path is not that of an uploaded file; upload the picture first")
    return str(payload.path)


def _from_data_url(url: str) -> bytes:
    encoded = url.partition(",")[2]
    if len(encoded) > MAX_BYTES * 4 / 3 + 4:
        raise gr.Error(f"expected at most {MAX_BYTES:,} bytes in a data: URL, came more")
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        raise gr.Error("the data: URL is not valid base64") from None


def _decode(picture: str | bytes | None) -> NDArray[np.uint8]:
    """Decode a picture for the page or the API.

    Raises:
        gr.Error: with a message for people; nothing of the server leaks into it.
    """
    if picture is None:
        raise gr.Error("no picture came with the request; give one as 'picture'")
    try:
        return decode_image(picture)
    except ImageDecodeError as error:
        raise gr.Error(str(error)) from error


def _data_url(image: NDArray[np.uint8], kind: str = "JPEG") -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _bars(attribute: Attribute) -> str:
    """All classes of one task: by probability, or in order of age."""
    task = labels.task(attribute.task)
    shares = list(attribute.probabilities.items())
    if not task.ordinal:
        shares.sort(key=lambda item: -item[1])
    rows = "".join(
        f'<li class="bar{" top" if name == attribute.label else ""}">'
        f"<span>{html.escape(task.display_name(name))}</span>"
        f'<span class="track" aria-hidden="true"><span class="fill" '
        f'style="display:block;width:{share:.1%}"></span></span>'
        f'<span class="share">{share:.1%}</span></li>'
        for name, share in shares
    )
    title = {"gender": "Perceived gender", "age": "Perceived age", "race": "Perceived race"}
    return f"<h4>{title[task.name]}</h4><ul>{rows}</ul>"


def _card(number: int, face: FaceResult) -> str:
    summary = ", ".join(attribute.display_label for attribute in face.attributes)
    bars = "".join(_bars(attribute) for attribute in face.attributes)
    return (
        f'<article class="face" aria-label="Face {number}"><header>'
        f'<img src="{_data_url(face.crop)}" alt="Face {number}, cropped and aligned">'
        f"<div><h3>Face {number}</h3><div>{html.escape(summary)}</div></div></header>"
        f"{bars}</article>"
    )


def render_faces(image: NDArray[np.uint8], faces: Sequence[FaceResult]) -> str:
    """HTML of the annotated picture and one card per face; pictures are inlined."""
    if not faces:
        return NO_FACE
    count = f"{len(faces)} face{'' if len(faces) == 1 else 's'} found"
    picture = _data_url(annotate(image, [face.box for face in faces]))
    cards = "".join(_card(number, face) for number, face in enumerate(faces, start=1))
    return (
        f'<p role="status"><strong>{count}</strong>, the largest first.</p>'
        f'<img class="annotated" src="{picture}" alt="Your picture with {count}, numbered">'
        f'<div class="faces">{cards}</div>'
    )


def describe(info: PipelineInfo, note: str | None = None) -> str:
    """One line on the weights and the detector in use."""
    weights = info.model
    if info.model in BUNDLED_NAMES:
        weights += " (in this repository)"
    if info.revision:
        weights += f" at {info.revision[:12]}"
    detector = {"yunet": "YuNet", "haar": "Haar cascade"}.get(info.detector, info.detector)
    notes = " ".join(f"({html.escape(text)})" for text in (note, info.detector_note) if text)
    version = faceattr.__version__
    return (
        f'<p class="small">Weights: <strong>{html.escape(weights)}</strong>. '
        f"Detector: <strong>{detector}</strong>. faceattr {version}. {notes}</p>"
    )


def load_pipeline() -> tuple[FacePipeline, str | None]:
    """The pipeline that the environment asks for, and a note when it is another one."""
    model = os.environ.get("FACEATTR_MODEL") or None
    revision = os.environ.get("FACEATTR_REVISION") or None
    detector = os.environ.get("FACEATTR_DETECTOR") or "auto"
    try:
        pipeline = FacePipeline.from_pretrained(
            model, revision if model else None, detector=detector
        )
    except WeightsError as error:
        if model is None:
            raise
        fallback = FacePipeline.from_pretrained(detector=detector)
        log.warning("FACEATTR_MODEL could not be loaded: %s", error)
        return fallback, "The configured weights could not be loaded; these are the bundled ones."
    return pipeline, None


def build_demo(pipeline: FacePipeline, note: str | None = None) -> gr.Blocks:
    """The page and the API endpoint `/predict`."""

    def find(image: NDArray[np.uint8]) -> list[FaceResult]:
        try:
            return pipeline(image)
        except FaceAttrError as error:
            raise gr.Error(str(error)) from error

    def show(picture: str | bytes | None, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        if picture is None:
            return ""
        progress(0.1, desc="Reading the picture")
        image = _decode(picture)
        progress(0.3, desc="Finding and classifying faces")
        faces = find(image)
        progress(0.9, desc="Drawing")
        return render_faces(image, faces)

    def predict(picture: str | bytes | None) -> dict[str, Any]:
        image = _decode(picture)
        faces = find(image)
        height, width = image.shape[:2]
        return {
            "width": width,
            "height": height,
            "model": pipeline.info.model,
            "revision": pipeline.info.revision,
            "detector": pipeline.info.detector,
            "faces": [face.to_dict() for face in faces],
        }

    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(UPLOADS_CHECKED_S, UPLOADS_KEPT_S)
    ) as demo:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                picture = gr.Image(
                    label="Your photo",
                    sources=["upload", "webcam", "clipboard"],
                    type="filepath",
                    image_mode=None,
                    height=360,
                )
                picture.preprocess = uploaded
                button = gr.Button("Find faces", variant="primary")
            with gr.Column(scale=2, min_width=320):
                result = gr.HTML(elem_id="result", min_height=120)
        gr.HTML(describe(pipeline.info, note), elem_id="in-use")
        gr.Markdown(MEANING)
        gr.on(
            [button.click, picture.input],
            show,
            picture,
            result,
            api_visibility="private",
            trigger_mode="always_last",
            concurrency_id="faces",
            concurrency_limit=CONCURRENT,
        )
        answer = gr.JSON(visible=False, label="faces")
        gr.Button(visible=False).click(
            predict,
            picture,
            answer,
            api_name="predict",
            concurrency_id="faces",
            concurrency_limit=CONCURRENT,
            api_description="Faces of one picture, largest first: box, score, landmarks and, "
            "for gender, age and race, label and calibrated probabilities.",
        )
    demo.queue(max_size=MAX_QUEUE)
    return demo


LAUNCH: dict[str, Any] = {
    "css": CSS,
    "ssr_mode": False,
    "run_history": False,
    "enable_monitoring": False,
    "max_file_size": "15mb",
    "footer_links": ["api"],
}
"""How the page is served, by `main` and by the tests."""


def main() -> None:
    """Serve the page until interrupted."""
    pipeline, note = load_pipeline()
    build_demo(pipeline, note).launch(**LAUNCH)


if __name__ == "__main__":
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    main()
