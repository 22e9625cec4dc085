"""The page's components and the endpoints that Gradio's clients see."""

# No postponed annotations here: Gradio reads the types of the endpoints' parameters.

import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from faceattr.detection import MIN_FACE
from page.admission.gate import Gate
from page.admission.inbox import Inbox, drop, to_source, to_sources
from page.errors import RequestError
from page.service import MOST_MIN_FACE, FaceService, Found, guarded, picture_dict
from page.view.collection import collection_tab
from page.view.examples import Examples
from page.view.model_tab import card_markdown, model_html
from page.view.render import DETECTORS, describe, render_error, render_found
from page.view.snippets import ADDRESS
from page.view.texts import LIMITS, TITLE, WAITING, intro, use_html

FRESH = "async (picture, ...rest) => [await window.faceattr.fresh(picture), ...rest]"
OWN_ADDRESS = f"(text) => text.replaceAll('{ADDRESS}', window.faceattr.root())"


DEFAULTS: dict[str, list[Any]] = {
    "predict": [None, "default", 0.0],
    "predict_batch": [[], "default", 0.0],
    "classify_crop": [None],
    "explain": [None, ""],
    "model_info": [],
}
"""What stands for the arguments that a call leaves out, by endpoint."""


def _as_it_came(payload: Any) -> Any:
    """The reference that the front door wrote, in place of `gr.Image.preprocess`.

    Gradio's own decoding gives wrong pixels for some files and checks no limit before it.
    """
    return None if payload is None else payload.model_dump()


def build_page(
    service: FaceService, gate: Gate, uploads: Inbox, has_tools: bool = False
) -> gr.Blocks:
    """The page and the named endpoints; `has_tools` is said on the page."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
        info = service.pipeline.info
        gr.HTML(intro(info.model, info.revision))
        with gr.Tabs():
            with gr.Tab("Try it"):
                _try_tab(service, gate, uploads)
            with gr.Tab("Collection"):
                collection_tab(service, gate, uploads)
            with gr.Tab("Model"):
                gr.HTML(model_html(service), elem_id="model")
                if card := card_markdown(service):
                    with gr.Accordion("The weights' card: by group, training", open=False):
                        gr.Markdown(card, elem_id="card", elem_classes="fa-prose")
            with gr.Tab("Use it"):
                use = gr.HTML(use_html(service.limits, has_tools), elem_id="use")
            with gr.Tab("Limits"):
                gr.Markdown(LIMITS, elem_id="limits", elem_classes="fa-prose")
        demo.load(None, use, use, js=OWN_ADDRESS)
        _endpoints(service, gate, uploads)
    demo.queue(max_size=None)
    return demo


def _try_tab(service: FaceService, gate: Gate, uploads: Inbox) -> None:
    examples = Examples(service)
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            picture = gr.Image(
                label="Your photo",
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                image_mode=None,
                height=290,
                buttons=[],
                elem_id="picture",
            )
            picture.preprocess = _as_it_came
            live = gr.Checkbox(
                False, label="Live answers over the camera's picture", elem_id="live"
            )
            live.change(None, live, js="(wanted) => { window.faceattr.live(wanted); }")
        with gr.Column(scale=2, min_width=300):
            samples = gr.Dataset(
                label="No photo at hand?",
                components=["html"],
                samples=examples.samples,
                type="index",
                layout="gallery",
                elem_id="examples",
            )
            gr.HTML(f'<p class="fa-small">{html.escape(examples.credit)}</p>')
            options = _options(service)
    result = gr.HTML(WAITING, elem_id="result", min_height=60)
    whole = gr.Button("Treat the whole picture as one face", visible=False, elem_id="whole")
    gr.HTML(describe(service.pipeline.info, service.note), elem_id="in-use")
    result.change(None, js="() => window.faceattr.shown()")
    _wire(service, gate, uploads, (picture, *options), (result, whole))
    samples.click(
        _example(gate, examples),
        [samples],
        [result, whole],
        api_visibility="private",
        concurrency_limit=None,
        show_progress_on=result,
    )


def _options(service: FaceService) -> tuple[gr.Radio, gr.Number, gr.Button]:
    with gr.Accordion("Options", open=False, elem_id="options"):
        names = [(DETECTORS.get(n, n), n) for n in service.detectors]
        detector = gr.Radio(names, value=service.detectors[0], label="Detector", elem_id="detector")
        min_face = gr.Number(
            MIN_FACE,
            label="Smallest face, in pixels of the picture",
            minimum=MIN_FACE,
            maximum=MOST_MIN_FACE,
            precision=0,
            elem_id="min-face",
        )
        button = gr.Button("Find faces again", size="sm", elem_id="find")
    return detector, min_face, button


def _example(gate: Gate, examples: Examples) -> Callable[..., Any]:
    async def show(index: int) -> tuple[str, Any]:
        try:
            return await gate.run(lambda: examples.html(index)), gr.update(visible=False)
        except RequestError as error:
            return render_error(str(error)), gr.update(visible=False)

    return show


def _wire(
    service: FaceService,
    gate: Gate,
    uploads: Inbox,
    inputs: tuple[gr.Image, gr.Radio, gr.Number, gr.Button],
    outputs: tuple[gr.HTML, gr.Button],
) -> None:
    """Connect the fields with the service."""
    picture, detector, min_face, button = inputs
    result, whole = outputs

    async def show(
        picture: Any,
        detector: str,
        min_face: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any]:
        if picture is None:
            return WAITING, gr.update(visible=False)
        progress(0.2, desc="Finding and classifying faces")
        source, cleanup = to_source(picture, uploads), lambda: drop([picture], uploads)
        options: dict[str, Any] = {"detector": detector, "min_face": min_face or 0.0}
        return await _shown(gate, lambda: service.find(source, **options), service, cleanup)

    async def show_whole(picture: Any) -> tuple[str, Any]:
        if picture is None:
            return WAITING, gr.update(visible=False)
        source, cleanup = to_source(picture, uploads), lambda: drop([picture], uploads)
        return await _shown(gate, lambda: service.whole(source), service, cleanup)

    shared: dict[str, Any] = {
        "api_visibility": "private",
        "concurrency_limit": None,
        "show_progress_on": result,
    }
    everything = [picture, detector, min_face]
    gr.on(
        [button.click, picture.input],
        show,
        everything,
        [result, whole],
        js=FRESH,
        trigger_mode="always_last",
        **shared,
    )
    whole.click(show_whole, [picture], [result, whole], js=FRESH, **shared)
    picture.clear(lambda: (WAITING, gr.update(visible=False)), None, [result, whole], **shared)


async def _shown(
    gate: Gate, work: Callable[[], Found], service: FaceService, cleanup: Callable[[], None]
) -> tuple[str, Any]:
    """HTML of what was found or why nothing was, and whether to offer the whole picture."""

    def rendered() -> dict[str, Any]:
        found = work()
        answer = {**service.head(found.detector), **picture_dict(found)}
        return {"html": render_found(found, answer), "empty": not found.faces}

    try:
        values = await gate.run(lambda: guarded(rendered))
    except RequestError as error:
        return render_error(str(error)), gr.update(visible=False)
    finally:
        cleanup()
    return values["html"], gr.update(visible=values["empty"])


def _refusal(error: RequestError) -> gr.Error:
    return gr.Error(str(error), title=error.kind, print_exception=False)


def _endpoints(service: FaceService, gate: Gate, uploads: Inbox) -> None:
    """The named endpoints of Gradio's protocol."""

    async def answered(work: Callable[[], dict[str, Any]], payloads: list[Any]) -> dict[str, Any]:
        try:
            return await gate.run(lambda: guarded(work))
        except RequestError as error:
            raise _refusal(error) from None
        finally:
            drop(payloads, uploads)

    async def predict(
        picture: gr.FileData, detector: str = "default", min_face: float = 0.0
    ) -> dict:  # type: ignore[type-arg]
        source = to_source(picture, uploads)
        return await answered(
            lambda: service.predict(source, detector=detector, min_face=min_face), [picture]
        )

    async def predict_batch(
        pictures: list[gr.FileData], detector: str = "default", min_face: float = 0.0
    ) -> dict:  # type: ignore[type-arg]
        try:
            sources = to_sources(pictures, uploads)
        except RequestError as error:
            raise _refusal(error) from None
        return await answered(
            lambda: service.predict_batch(sources, detector=detector, min_face=min_face), pictures
        )

    async def classify_crop(picture: gr.FileData) -> dict:  # type: ignore[type-arg]
        source = to_source(picture, uploads)
        return await answered(lambda: service.classify_crop(source), [picture])

    async def explain(picture: gr.FileData, task: str) -> dict:  # type: ignore[type-arg]
        source = to_source(picture, uploads)
        return await answered(lambda: service.explain(source, task), [picture])

    async def model_info() -> dict:  # type: ignore[type-arg]
        return await answered(service.model_info, [])

    for function, words in (
        (
            predict,
            "Faces of one picture, largest first: box, score, landmarks and, for perceived gender, "
            "age and race, label, calibrated probabilities and whether the answer is unsure.",
        ),
        (
            predict_batch,
            "The same for several pictures: one entry each, with a result or an error in place.",
        ),
        (classify_crop, "An already cropped face, the eyes at 0.3 of its height; no detector."),
        (explain, "Heat map of one answer on a cropped face. Task: gender, age or race."),
        (model_info, "Weights, revision, classes, thresholds, accuracy, licence and limits."),
    ):
        gr.api(
            function,
            api_name=function.__name__,
            api_description=words,
            concurrency_limit=None,
        )
