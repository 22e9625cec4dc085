"""The tab "Collection": some images in, their shares with intervals out, nothing kept."""

# No postponed annotations here: Gradio reads the types of the functions' parameters.

import html
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
from gradio.data_classes import GradioRootModel

from faceattr.audit.render import figure, interval, percent, to_html
from page.calls import Calls
from page.collection import (
    WORTH_FACES,
    Gathered,
    Item,
    check_count,
    look,
    report,
    unpack,
)
from page.errors import RequestError
from page.limits import Limits
from page.service import Source
from page.view.encode import text_url
from page.view.render import render_message
from page.view.texts import TEMPLATES

INTRO = f"""<div class="fa-prose"><p>Drop up to {{most}} images, or a zip of them, to see the
shares of perceived gender, age group and race among their faces: as the classifier counted them,
and corrected for its errors, with 95&nbsp;% intervals. An interval is worth something from about
{WORTH_FACES} faces on; with fewer it mostly says how little is known. Nothing is kept. For larger
collections there is <code>faceattr audit</code>.</p></div>"""

EMPTY = '<div class="fa-message fa-empty"><p>The shares appear here.</p></div>'


KEY = """<p class="fa-small">In the figures a hollow square is a share as counted, a full circle the
corrected one, a line its 95&nbsp;% interval.</p>"""


class _References(GradioRootModel):  # type: ignore[misc]
    """What the front door wrote; it lacks what Gradio's own inbox have."""

    root: Any


def _as_it_came(payload: Any) -> list[Any]:
    """The references, in place of `gr.File.preprocess`."""
    listed = payload.root if payload is not None else []
    return listed if isinstance(listed, list) else [listed]


def collection_tab(calls: Calls) -> None:
    """Fields of the tab, connected with the service."""
    gr.HTML(INTRO.format(most=calls.service.limits.max_collection))
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
            result = gr.HTML(EMPTY, elem_id="collection-result", min_height=120)

    async def show(
        payloads: list[Any],
        crops: bool,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any]:
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
    if not payloads:
        raise RequestError("bad_request", "no image came: drop some first")
    service, gate = calls.service, calls.gate
    items: list[Item] = []
    for number, source in enumerate(calls.inbox.sources(payloads), start=1):
        items += await gate.run(partial(_items, source, f"image {number}", service.limits))
    check_count(len(items), service.limits)
    gathered = Gathered()
    for number, item in enumerate(items):
        progress((number, len(items)), desc="Finding and classifying faces", unit="images")
        gathered.add(item.name, await gate.run(partial(look, service, item, crops=crops)))
    progress(1.0, desc="Measuring")
    values = await gate.run(lambda: report(service, gathered, crops=crops))
    return render_collection(values, gathered)


def _items(source: Source, name: str, limits: Limits) -> list[Item]:
    if isinstance(source, RequestError):
        return [Item(name, source)]
    try:
        content = source if isinstance(source, bytes) else source()
    except RequestError as error:
        return [Item(name, error)]
    return unpack(name, content, limits)


def render_collection(values: Mapping[str, Any], gathered: Gathered) -> str:
    """HTML of a report: counts, warnings, figures with their tables, failures, downloads."""
    counts = values["counts"]
    parts = [
        f'<p class="fa-count" role="status"><strong>{counts["images"]} images, '
        f"{counts['faces']} faces</strong>; {counts['without_face']} images without a face, "
        f"{counts['failed']} not read.</p>"
    ]
    notes = [f"{note['title']} {note['text']}" for note in values["warnings"]]
    if counts["faces"] < WORTH_FACES:
        notes.insert(
            0,
            f"With {counts['faces']} faces the intervals are wide, and 0 to 100 % says that "
            f"nothing is known: they are worth something from about {WORTH_FACES} faces on.",
        )
    parts += [f'<div class="fa-message"><p>{html.escape(note)}</p></div>' for note in notes]
    parts.append(_downloads(values, gathered))
    if values["tasks"]:
        parts.append(KEY)
    parts += [_task(task, counts) for task in values["tasks"]]
    parts.append(_failures(gathered))
    return f'<div class="fa-audit">{"".join(parts)}</div>'


def _task(task: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row["display"])}</th><td>{row["count"]}</td>'
        f"<td>{html.escape(interval(row['counted'], 0))}</td>"
        f"<td>{html.escape(interval(row['corrected'], 0))}</td></tr>"
        for row in task["rows"]
    )
    unsure = counts["unsure"].get(task["name"], 0)
    share = percent(unsure / counts["faces"], 0)
    return (
        f"<section><h2>{html.escape(task['title'])}</h2><figure>{figure(task)}</figure>"
        f'<div class="fa-scroll" tabindex="0" role="region" aria-label="Table: {task["title"]}">'
        '<table class="fa-table"><thead><tr><th scope="col">class</th><th scope="col">faces</th>'
        '<th scope="col">counted</th><th scope="col">corrected (95 % interval)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="fa-small">{unsure} answers are unsure ({share}); they are counted too.</p>'
        "</section>"
    )


def _failures(gathered: Gathered) -> str:
    listed = [
        f"<li>{html.escape(gathered.names[number])}: {html.escape(message)}</li>"
        for number, (_, message) in gathered.errors.items()
    ]
    empty = [
        f"<li>{html.escape(name)}: no face found</li>"
        for name, faces in zip(gathered.names, gathered.faces_of, strict=True)
        if faces == 0
    ]
    remarks = [
        f"<li>{html.escape(gathered.names[number])}: {html.escape(remark)}</li>"
        for number, remark in gathered.remarks.items()
    ]
    return "".join(
        f'<details class="fa-prose"><summary>{title} ({len(lines)})</summary>'
        f"<ul>{''.join(lines)}</ul></details>"
        for title, lines in (
            ("Images that are in no share", listed + empty),
            ("Crops that are not as the network knows them", remarks),
        )
        if lines
    )


def _downloads(values: Mapping[str, Any], gathered: Gathered) -> str:
    links = (
        ("report.html", text_url(to_html(values), "text/html"), "report"),
        (
            "report.json",
            text_url(json.dumps(values, ensure_ascii=False), "application/json"),
            "JSON",
        ),
        ("faces.csv", text_url(gathered.faces_csv(), "text/csv"), "faces"),
        ("images.csv", text_url(gathered.images_csv(), "text/csv"), "images"),
    )
    macros: Any = TEMPLATES.get_template("downloads.html").module
    return str(macros.downloads(links))
