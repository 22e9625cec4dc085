"""The tab on the weights in use: what they are, how often they are right, and their card."""

from __future__ import annotations

import re
from typing import Any

from faceattr import labels
from page.service import FaceService
from page.view.render import TITLES
from page.view.report import dig, measured, read_beside
from page.view.texts import filled


def model_html(service: FaceService) -> str:
    """Facts and accuracy; what the report lacks is left out, and said where there is no report."""
    report = service.report or {}
    return filled(
        "model.html",
        info=service.model_info(),
        has_report=service.report is not None,
        dataset={"id": "an unnamed data set", "split": ""} | (report.get("dataset") or {}),
        accuracy=_accuracy(report),
        classes=_classes(report),
    )


def card_markdown(service: FaceService) -> str:
    """The weights' card without its front matter; empty where there is none.

    Images and HTML are left out: a card of others could load them from anywhere.
    """
    text = read_beside(service.pipeline.files, "README.md") or ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"!\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])?", r"*\1*", text)
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", text)


def _accuracy(report: dict[str, Any]) -> list[list[str]]:
    """A row for each task that the report knows."""
    rows = []
    for task in labels.TASKS:
        row = _shown(dig(report, "overall", task.name))
        stored = dig(report, "selective", task.name, "stored")
        threshold = dig(stored, "threshold")
        given, right = (_shown(dig(stored, name))[:1] for name in ("coverage", "accuracy"))
        if row and given and right and isinstance(threshold, float):
            row += [_percent(threshold, 0), *given, *right]
        if row:
            rows.append([TITLES[task.name], *row, *["not measured"] * (6 - len(row))])
    return rows


def _classes(report: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """How often each answer of the annotators is found, a title and rows for each task."""
    tables = []
    for task in labels.TASKS:
        cells = dig(report, "per_class", task.name)
        rows = [
            [task.display_name(cell["class"]), *_shown(cell)]
            for cell in (cells if isinstance(cells, list) else ())
            if _shown(cell) and cell.get("class") in task.classes
        ]
        if rows:
            tables.append((TITLES[task.name], rows))
    return tables


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}".replace("%", "\u00a0%")


def _shown(cell: Any) -> list[str]:
    """Share, interval and count of a cell of the report; empty for what is none."""
    known = measured(cell)
    if known is None:
        return []
    interval = f"{100 * known['low']:.1f} to {_percent(known['high'])}"
    return [_percent(known["accuracy"]), interval, f"{known['n']:,}"]
