"""The tab on the weights in use: what they are, how often they are right, and their card."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from faceattr import labels
from faceattr.hub import find_beside
from page.service import FaceService
from page.view.render import BACKENDS, TITLES
from page.view.report import dig

UNKNOWN = (
    "<p>These weights came without a <code>report.json</code>, so their accuracy is unknown here. "
    "Ask whoever published them, or measure it with <code>python -m train evaluate</code>.</p>"
)


def model_html(service: FaceService) -> str:
    """Facts and accuracy; what the report lacks is left out, and said where there is no report."""
    parts = [
        "<h2>The model in use</h2>",
        _table("Facts", [], _facts(service.model_info()), "fa-facts"),
    ]
    if service.report is None:
        parts.append(UNKNOWN)
    elif rows := _accuracy(service.report):
        dataset = service.report.get("dataset") or {}
        where = f"{dataset.get('id', 'an unnamed data set')}, {dataset.get('split', '')} rows"
        head = [
            "Answer",
            "Right",
            "95 % interval",
            "Images",
            "Unsure below",
            "Not unsure",
            "Right then",
        ]
        parts.append(
            "<h2>How often it is right</h2><p>Share of images on which the likeliest answer is the "
            f"annotators' ({html.escape(where)}), with 95 % Wilson intervals. Annotators disagree "
            'among themselves too. An answer is "unsure" below the probability in the table.</p>'
            + _table("Accuracy", head, rows)
        )
        parts.append(_classes(service.report))
    return f'<div class="fa-prose">{"".join(parts)}</div>'


def card_markdown(service: FaceService) -> str:
    """The weights' card without its front matter; empty where there is none.

    Images and HTML are left out: a card of others could load them from anywhere.
    """
    files = service.pipeline.files
    path = None if files is None else find_beside(files, "README.md")
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"!\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])?", r"*\1*", text)
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", text)


def _facts(info: dict[str, Any]) -> list[tuple[str, ...]]:
    size = "" if info["parameters"] is None else f", {info['parameters']:,} parameters"
    return [
        ("Weights", info["model"]),
        ("Revision", info["revision"] or "as in the repository"),
        ("Network", info["architecture"] + size),
        ("Runs in", BACKENDS[info["backend"]]),
        ("Input", f"{info['image_size']} × {info['image_size']} pixels"),
        ("Licence of the weights", info["licence"]["weights"] or "not stated with them"),
    ]


def _accuracy(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each task that the report knows."""
    rows = []
    for name in (task.name for task in labels.TASKS):
        cell, stored = dig(report, "overall", name), dig(report, "selective", name, "stored")
        if not _is_cell(cell):
            continue
        row = _measured(cell)
        threshold, given, right = (dig(stored, k) for k in ("threshold", "coverage", "accuracy"))
        if isinstance(threshold, float) and _is_cell(given) and _is_cell(right):
            row += [f"{threshold:.0%}".replace("%", "\u00a0%"), *_measured(given)[:1]]
            row += _measured(right)[:1]
        rows.append((TITLES[name], *row, *["not measured"] * (6 - len(row))))
    return rows


def _classes(report: dict[str, Any]) -> str:
    """How often each answer of the annotators is found, a table for each task."""
    tables = []
    for task in labels.TASKS:
        cells = dig(report, "per_class", task.name)
        rows = [
            (task.display_name(str(cell["class"])), *_measured(cell))
            for cell in (cells if isinstance(cells, list) else ())
            if _is_cell(cell) and cell.get("class") in task.classes
        ]
        if rows:
            tables.append(
                _table(
                    TITLES[task.name], [TITLES[task.name], "Found", "95 % interval", "Images"], rows
                )
            )
    if not tables:
        return ""
    return f"<h2>For whom it errs more</h2><div class='fa-figures'>{''.join(tables)}</div>"


def _measured(cell: dict[str, Any]) -> list[str]:
    interval = f"{100 * cell['low']:.1f} to {cell['high']:.1%}"
    values = f"{cell['accuracy']:.1%}", interval, f"{cell['n']:,}"
    return [value.replace("%", "\u00a0%") for value in values]


def _is_cell(cell: Any) -> bool:
    names = ("accuracy", "low", "high", "n")
    return isinstance(cell, dict) and all(isinstance(cell.get(n), (int, float)) for n in names)


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    top = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(value)}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="fa-scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="fa-table {kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )
