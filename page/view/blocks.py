"""The page's components and the endpoints that Gradio's clients see."""

# No postponed annotations here: Gradio reads the types of the endpoints' parameters.

import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from faceattr.detection import MIN_FACE
from page.calls import Calls
from page.endpoints import ENDPOINTS, SCHEMAS, Endpoint
from page.errors import RequestError
from page.service import FaceService, Found, Source
from page.view import examples
from page.view.collection import collection_tab
from page.view.model_tab import card_markdown, model_html
from page.view.render import DETECTORS, describe, render_found, render_message
from page.view.texts import ADDRESS, TITLE, filled

FRESH = "async (picture, ...rest) => [await window.faceattr.fresh(picture), ...rest]"
OWN_ADDRESS = f"(text) => text.replaceAll('{ADDRESS}', window.faceattr.root())"
WAITING = render_message("waiting")
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
"""Of the page's own events; the gate limits them."""


def _as_it_came(payload: Any) -> Any:
    """The reference that the front door wrote, in place of `gr.Image.preprocess`.

    Gradio's own decoding gives wrong pixels for some files and checks no limit before it.
    """
    return None if payload is None else payload.model_dump()


def build_page(calls: Calls, has_tools: bool = False) -> gr.Blocks:
    """The page and the named endpoints; `has_tools` is said on the page."""
    service = calls.service
    with gr.Blocks(title=TITLE, analytics_enabled=False) as demo:
        gr.HTML(filled("intro.html", info=service.pipeline.info, space=os.environ.get("SPACE_ID")))
        with gr.Tabs():
            with gr.Tab("Try it"):
                _try_tab(calls)
            with gr.Tab("Collection"):
                collection_tab(calls)
            with gr.Tab("Model"):
                gr.HTML(model_html(service), elem_id="model")
                if card := card_markdown(service):
                    with gr.Accordion("The weights' card: by group, training", open=False):
                        gr.Markdown(card, elem_id="card", elem_classes="fa-prose")
            with gr.Tab("Use it"):
                text = filled("use.md", limits=service.limits, endpoints=ENDPOINTS, tools=has_tools)
                words = gr.Markdown(text, elem_id="use", elem_classes="fa-prose")
            with gr.Tab("Limits"):
                gr.Markdown(filled("limits.md"), elem_id="limits", elem_classes="fa-prose")
        demo.load(None, words, words, js=OWN_ADDRESS)
        for endpoint in ENDPOINTS.values():
            gr.api(
                _endpoint(calls, endpoint),
                api_name=endpoint.name,
                api_description=endpoint.summary,
                concurrency_limit=None,
            )
    demo.queue(max_size=None)
    return demo


def _try_tab(calls: Calls) -> None:
    service = calls.service
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
                samples=examples.samples(),
                type="index",
                layout="gallery",
                elem_id="examples",
            )
            gr.Markdown(examples.LISTED["credit"], elem_classes="fa-small")
            options = _options(service)
    result = gr.HTML(WAITING, elem_id="result", min_height=60)
    whole = gr.Button("Treat the whole picture as one face", visible=False, elem_id="whole")
    gr.HTML(describe(service.pipeline.info, service.note), elem_id="in-use")
    result.change(None, js="() => window.faceattr.shown()")
    _wire(calls, (picture, *options), (result, whole))
    ready = examples.results(service)

    async def example(index: int) -> tuple[str, Any]:
        return await _shown(calls.gate.run(lambda: (ready[index].result(), False)))

    samples.click(example, [samples], [result, whole], show_progress_on=result, **PRIVATE)


def _options(service: FaceService) -> tuple[gr.Radio, gr.Number, gr.Radio, gr.Button]:
    with gr.Accordion("Options for your photo", open=False, elem_id="options"):
        names = [(DETECTORS.get(n, n), n) for n in service.detectors]
        detector = gr.Radio(names, value=service.detectors[0], label="Detector", elem_id="detector")
        min_face = gr.Number(
            MIN_FACE,
            label="Smallest face, in pixels of the picture",
            minimum=MIN_FACE,
            maximum=SCHEMAS["min_face"]["maximum"],
            precision=0,
            elem_id="min-face",
        )
        detect = gr.Radio(
            SCHEMAS["detect"]["enum"],
            value="fast",
            label="Search",
            info="Thorough finds small faces in large pictures, and takes longer.",
            elem_id="detect",
        )
        button = gr.Button("Find faces again", size="sm", elem_id="find")
    return detector, min_face, detect, button


def _wire(
    calls: Calls,
    inputs: tuple[gr.Image, gr.Radio, gr.Number, gr.Radio, gr.Button],
    outputs: tuple[gr.HTML, gr.Button],
) -> None:
    """Connect the fields with the service."""
    *fields, button = inputs
    picture, service = fields[0], calls.service

    def answered(payload: Any, find: Callable[[Source], Found]) -> Awaitable[tuple[str, Any]]:
        def work(sources: list[Source]) -> tuple[str, bool]:
            found = find(sources[0])
            return render_found(found, service.head(found.detector)), not found.faces

        return _shown(calls.run(payload, work) if payload else nothing())

    async def show(
        picture: Any,
        detector: str,
        min_face: float | None,
        detect: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any]:
        progress(0.2, desc="Finding and classifying faces")
        options: Any = {"detector": detector, "min_face": min_face or MIN_FACE, "detect": detect}
        return await answered(picture, lambda source: service.find(source, **options))

    async def show_whole(picture: Any) -> tuple[str, Any]:
        return await answered(picture, service.whole)

    async def nothing() -> tuple[str, bool]:
        return WAITING, False

    shared: Any = {"outputs": list(outputs), "show_progress_on": outputs[0], **PRIVATE}
    gr.on(
        [button.click, picture.input],
        show,
        fields,
        js=FRESH,
        trigger_mode="always_last",
        **shared,
    )
    outputs[1].click(show_whole, [picture], js=FRESH, **shared)
    picture.clear(lambda: (WAITING, gr.update(visible=False)), None, **shared)


async def _shown(answer: Awaitable[tuple[str, bool]]) -> tuple[str, Any]:
    """HTML of what was found or why nothing was, and whether to offer the whole picture."""
    try:
        text, is_empty = await answer
    except RequestError as error:
        text, is_empty = render_message(str(error)), False
    return text, gr.update(visible=is_empty)


def _endpoint(calls: Calls, endpoint: Endpoint) -> Callable[..., Any]:
    """A named endpoint of Gradio's protocol, which reads the signature."""
    kinds: dict[str, Any] = {"string": str, "number": float}
    kinds |= {"picture": gr.FileData, "pictures": list[gr.FileData]}
    names = [endpoint.field, *endpoint.options] if endpoint.field else []

    async def call(*values: Any) -> dict[str, Any]:
        given = dict(zip(names, values, strict=False))
        payload = given.pop(endpoint.field, None)
        try:
            return await calls.endpoint(endpoint.name, payload, given)
        except RequestError as error:
            raise gr.Error(str(error), title=error.kind, print_exception=False) from None

    types = {name: kinds.get(name) or kinds[SCHEMAS[name]["type"]] for name in names}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if default is None else default,
            annotation=types[name],
        )
        for name, default in zip(names, [None, *endpoint.options.values()], strict=False)
    ]
    call.__name__ = endpoint.name
    call.__annotations__ = types
    vars(call)["__signature__"] = inspect.Signature(parameters, return_annotation=dict)
    return call
