"""The tab "Collection": some images in, their shares with intervals out, nothing kept."""

# No postponed annotations here: Gradio reads the types of the functions' parameters.

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel

from faceattr.audit.render import figure, interval, to_html
from faceattr.audit.render import percent as share
from faceattr.audit.words import NO_FACE, WORTH_FACES, counted
from page.calls import Calls
from page.collection import Gathered, Item, check_count, look, report, unpack
from page.errors import RequestError
from page.view.encode import csv_text, text_url
from page.view.render import render_message
from page.view.texts import TEMPLATES, filled

TEMPLATES.globals |= {"figure": figure, "interval": interval, "share": share}


class _References(GradioRootModel):  # type: ignore[misc]
    """What the front door wrote; it lacks what Gradio's own inbox have."""

    root: Any


def _as_it_came(payload: Any) -> list[Any]:
    """The references, in place of `gr.File.preprocess`."""
    listed = payload.root if payload is not None else []
    return listed if isinstance(listed, list) else [listed]


def collection_tab(calls: Calls) -> None:
    """Fields of the tab, connected with the service."""
    limits = calls.service.limits
    gr.HTML(filled("collection_intro.html", limits=limits, worth=WORTH_FACES))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            files = gr.File(
                label="Images, or a zip of them",
                file_count="multiple",
                file_types=["image", ".zip"],
                height=220,
                elem_id="collection-files",
            )
            files.preprocess = _as_it_came
            files.data_model = _References
            crops = gr.Checkbox(False, label="Every image already is one cropped face")
            button = gr.Button("Describe the collection", variant="primary", elem_id="describe")
        with gr.Column(scale=3, min_width=300):
            result = gr.HTML(
                render_message("no collection"), elem_id="collection-result", min_height=120
            )

    async def show(
        payloads: list[Any],
        crops: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, Any]:
        if not payloads:
            gr.Warning("No image came: drop some first.")
            return gr.skip(), None
        try:
            return await _described(calls, payloads, crops, progress), None
        except RequestError as error:
            return render_message(str(error)), None
        finally:
            calls.inbox.drop(payloads)

    result.change(None, js="() => window.faceattr.reveal('#collection-result')")
    button.click(
        show,
        [files, crops],
        [result, files],
        api_visibility="private",
        concurrency_limit=None,
        show_progress_on=result,
    )


async def _described(calls: Calls, payloads: list[Any], crops: bool, progress: gr.Progress) -> str:
    """HTML of what a collection holds; each image waits its turn with everybody's."""
    service, gate = calls.service, calls.gate
    items: list[Item] = []
    # The uploads stay, and count, in the inbox until the end; nothing of them is held here.
    for number, source in enumerate(calls.inbox.sources(payloads, keep=True), start=1):
        items += await gate.run(partial(unpack, f"image {number}", source, service.limits))
        check_count(len(items), service.limits)
    gathered = Gathered()
    for number, item in enumerate(items):
        progress((number, len(items)), desc="Finding and classifying faces", unit="images")
        gathered.add(item.name, await gate.run(partial(look, service, item, crops=crops)))
    progress(1.0, desc="Measuring")
    values = await gate.run(lambda: report(service, gathered, crops=crops))
    return render_collection(values, gathered)


def render_collection(values: Mapping[str, Any], gathered: Gathered) -> str:
    """HTML of a report: counts, warnings, figures with their tables, failures, downloads."""
    document = json.dumps(values, ensure_ascii=False)
    links = (
        ("report.html", text_url(to_html(values), "text/html"), "report"),
        ("report.json", text_url(document, "application/json"), "JSON"),
        ("faces.csv", text_url(csv_text(gathered.faces), "text/csv"), "faces"),
        ("images.csv", text_url(csv_text(gathered.images), "text/csv"), "images"),
    )
    return filled(
        "collection.html",
        counts=values["counts"],
        warnings=values["warnings"],
        tasks=values["tasks"],
        gathered=gathered,
        links=links,
        counted=counted,
        no_face=NO_FACE,
    )
