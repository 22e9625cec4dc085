"""The tab on the weights in use: what they are, how often they are right, and their card."""

from __future__ import annotations

import re
from typing import Any

from faceattr import labels
from page.service import FaceService
from page.view.render import BACKENDS, TITLES
from page.view.report import dig, read_beside
from page.view.texts import filled


def model_html(service: FaceService) -> str:
    """Facts and accuracy; what the report lacks is left out, and said where there is no report."""
    report = service.report or {}
    dataset = report.get("dataset") or {}
    return filled(
        "model.html",
        facts=_facts(service.model_info()),
        has_report=service.report is not None,
        accuracy=_accuracy(report),
        where=f"{dataset.get('id', 'an unnamed data set')}, {dataset.get('split', '')} rows",
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


def _classes(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """How often each answer of the annotators is found, a title and rows for each task."""
    tables = []
    for task in labels.TASKS:
        cells = dig(report, "per_class", task.name)
        rows = [
            (task.display_name(str(cell["class"])), *_measured(cell))
            for cell in (cells if isinstance(cells, list) else ())
            if _is_cell(cell) and cell.get("class") in task.classes
        ]
        if rows:
            tables.append((TITLES[task.name], rows))
    return tables


def _measured(cell: dict[str, Any]) -> list[str]:
    interval = f"{100 * cell['low']:.1f} to {cell['high']:.1%}"
    values = f"{cell['accuracy']:.1%}", interval, f"{cell['n']:,}"
    return [value.replace("%", "\u00a0%") for value in values]


def _is_cell(cell: Any) -> bool:
    names = ("accuracy", "low", "high", "n")
    return isinstance(cell, dict) and all(isinstance(cell.get(n), (int, float)) for n in names)
