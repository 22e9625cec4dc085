"""The tab on the weights in use: tables and figures read from their report."""

from __future__ import annotations

import html
from typing import Any

from faceattr import labels
from page.service import FaceService
from page.view.render import BACKENDS, TITLES
from page.view.report import dig

FEW = 30
"""Cells with fewer pictures are marked: their shares are mostly chance."""


def model_html(service: FaceService) -> str:
    """All of the tab; what the report lacks is left out, and said where there is no report."""
    parts = [_about(service)]
    report = service.report
    if report is None:
        parts.append(
            "<p>These weights came without a <code>report.json</code>, so their accuracy is "
            "unknown here. Ask whoever published them, or measure it with "
            "<code>python -m train evaluate</code>.</p>"
        )
    else:
        sections = (_overall, _selective, _subgroups, _classes, _figures, _confusions)
        parts += [section(report) for section in sections]
    return f'<div class="fa-prose">{"".join(parts)}</div>'


def _escape(value: object) -> str:
    return html.escape(str(value))


def _about(service: FaceService) -> str:
    info = service.model_info()
    size = "" if info["parameters"] is None else f", {info['parameters']:,} parameters"
    facts = [
        ("Weights", info["model"]),
        ("Revision", info["revision"] or "as in the repository"),
        ("Network", info["architecture"] + size),
        ("Runs in", BACKENDS[info["backend"]]),
        ("Input", f"{info['image_size']} × {info['image_size']} pixels"),
        ("Licence of the weights", info["licence"]["weights"] or "not stated with them"),
    ]
    rows = "".join(
        f'<tr><th scope="row">{_escape(k)}</th><td>{_escape(v)}</td></tr>' for k, v in facts
    )
    return (
        f'<h2>The model in use</h2><table class="fa-table fa-facts"><tbody>{rows}</tbody></table>'
    )


def _share(cell: dict[str, Any]) -> str:
    return f"{cell['accuracy']:.1%}".replace("%", " %")


def _interval(cell: dict[str, Any]) -> str:
    return f"{cell['low']:.1%} to {cell['high']:.1%}".replace("%", " %")


def _is_cell(cell: Any) -> bool:
    names = ("accuracy", "low", "high", "n")
    return isinstance(cell, dict) and all(isinstance(cell.get(n), (int, float)) for n in names)


def _table(caption: str, head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A table from a header and rows of cells that are HTML already (`<td>…</td>`)."""
    top = "".join(f'<th scope="col">{_escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_escape(name)}</th>{"".join(cells)}</tr>' for name, cells in rows
    )
    return (
        f'<div class="fa-scroll" tabindex="0" role="region" aria-label="{_escape(caption)}">'
        f'<table class="fa-table"><caption>{_escape(caption)}</caption><thead><tr>{top}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _overall(report: dict[str, Any]) -> str:
    rows = []
    for task in labels.TASKS:
        cell = dig(report, "overall", task.name)
        if _is_cell(cell):
            values = (_share(cell), _interval(cell), f"{cell['n']:,}")
            rows.append((TITLES[task.name], [f"<td>{v}</td>" for v in values]))
    if not rows:
        return ""
    dataset = report.get("dataset") or {}
    where = f"{dataset.get('id', 'an unnamed data set')}, {dataset.get('split', '')} rows"
    return (
        "<h2>How often it is right</h2><p>Share of pictures on which the likeliest answer is the "
        f"annotators' ({_escape(where)}), with 95 % Wilson intervals. Annotators disagree "
        "among themselves too.</p>"
        + _table("Accuracy", ["Answer", "Right", "95 % interval", "Pictures"], rows)
    )


def _selective(report: dict[str, Any]) -> str:
    """How often an answer is not "unsure", and how often it is right then."""
    rows = []
    for task in labels.TASKS:
        stored = dig(report, "selective", task.name, "stored")
        threshold, given, right = (dig(stored, k) for k in ("threshold", "coverage", "accuracy"))
        if isinstance(threshold, float) and _is_cell(given) and _is_cell(right):
            below = f"{threshold:.0%}".replace("%", " %")
            values = (below, _share(given), _share(right), _interval(right))
            rows.append((TITLES[task.name], [f"<td>{value}</td>" for value in values]))
    if not rows:
        return ""
    head = ["Answer", "Unsure below", "Not unsure", "Right then", "95 % interval"]
    return '<h2>What "unsure" is worth</h2>' + _table("Answers that are not unsure", head, rows)


def _subgroups(report: dict[str, Any]) -> str:
    tables = report.get("subgroups")
    parts = []
    for table in tables.values() if isinstance(tables, dict) else ():
        rows, columns, cells = dig(table, "rows"), dig(table, "columns"), dig(table, "cells")
        task, names = dig(table, "task"), dig(columns, "classes")
        if task not in TITLES or not isinstance(cells, list) or not isinstance(names, list):
            continue
        row_names = dig(rows, "classes") or []
        body = [
            (_display(dig(rows, "task"), name), [_subgroup_cell(cell) for cell in line])
            for name, line in zip(row_names, cells, strict=False)
        ]
        across = [_display(dig(columns, "task"), name) for name in names]
        caption = f"{TITLES[task]}: share right, by {dig(rows, 'task')} and {dig(columns, 'task')}"
        parts.append(_table(caption, ["", *across], body))
    if not parts:
        return ""
    return (
        "<h2>For whom it errs more</h2><p>Each cell is a group of the same pictures; darker is "
        f"better. In italics: fewer than {FEW} pictures, mostly chance.</p>" + "".join(parts)
    )


def _display(task: Any, name: str) -> str:
    known = {t.name: t for t in labels.TASKS}
    return known[task].display_name(name) if task in known else str(name)


def _subgroup_cell(cell: Any) -> str:
    if not _is_cell(cell) or not cell["n"]:
        return "<td>no pictures</td>"
    few = " fa-few" if cell["n"] < FEW else ""
    shade = max(0.0, cell["accuracy"] - 0.3) / 0.7 * 0.35
    return (
        f'<td class="fa-cell{few}" style="--s:{shade:.2f}" title="{_interval(cell)}, '
        f'{cell["n"]} pictures">{cell["accuracy"]:.0%}</td>'.replace("%<", " %<")
    )


def _classes(report: dict[str, Any]) -> str:
    parts = []
    for task in labels.TASKS:
        cells = dig(report, "per_class", task.name)
        rows = [
            (
                task.display_name(cell["class"]),
                [f"<td>{_share(cell)}</td><td>{_interval(cell)}</td><td>{cell['n']:,}</td>"],
            )
            for cell in (cells if isinstance(cells, list) else ())
            if _is_cell(cell) and isinstance(cell.get("class"), str)
        ]
        if rows:
            head = ["Annotators' answer", "Found", "95 % interval", "Pictures"]
            parts.append(_table(TITLES[task.name], head, rows))
    return f"<h2>By class</h2>{''.join(parts)}" if parts else ""


def _figures(report: dict[str, Any]) -> str:
    figures = []
    for task in labels.TASKS:
        bins = dig(report, "calibration", task.name, "reliability")
        error = dig(report, "calibration", task.name, "expected_calibration_error")
        points = [
            (b["confidence"], b["accuracy"], b["n"])
            for b in (bins if isinstance(bins, list) else ())
            if isinstance(b, dict) and b.get("n") and b.get("confidence") is not None
        ]
        if points:
            figures.append(_reliability(TITLES[task.name], points, error))
    if not figures:
        return ""
    return (
        "<h2>Can the probabilities be believed?</h2><p>On the diagonal, answers given with 70 % "
        "were right in 70 % of cases. Larger dots hold more pictures.</p>"
        f'<div class="fa-figures">{"".join(figures)}</div>'
    )


def _reliability(title: str, points: list[tuple[float, float, int]], error: Any) -> str:
    side, left = 200, 30
    most = max(n for _, _, n in points)
    dots = "".join(
        f'<circle cx="{left + x * side:.1f}" cy="{10 + (1 - y) * side:.1f}" '
        f'r="{2.5 + 6 * (n / most) ** 0.5:.1f}" fill="var(--color-accent)" fill-opacity=".75">'
        f"<title>said {x:.0%}, right {y:.0%}, {n} pictures</title></circle>"
        for x, y, n in points
    )
    ticks = "".join(
        f'<text x="{left + v * side:.0f}" y="{side + 24}" text-anchor="middle">{v:.0%}</text>'
        f'<text x="{left - 4}" y="{13 + (1 - v) * side:.0f}" text-anchor="end">{v:.0%}</text>'
        for v in (0, 0.5, 1)
    )
    gap = f"; mean gap {error:.1%}".replace("%", " %") if isinstance(error, float) else ""
    words = f"{title}: how often answers are right against the probability they were given{gap}"
    return (
        f'<figure><svg viewBox="0 0 250 240" role="img" aria-label="{_escape(words)}">'
        f'<rect x="{left}" y="10" width="{side}" height="{side}" fill="none" '
        f'stroke="currentColor" stroke-opacity=".4"/><line x1="{left}" y1="{10 + side}" '
        f'x2="{left + side}" y2="10" stroke="currentColor" stroke-opacity=".5" '
        f'stroke-dasharray="4 4"/>{dots}{ticks}</svg>'
        f"<figcaption>{_escape(title)}{_escape(gap)}</figcaption></figure>"
    )


def _confusions(report: dict[str, Any]) -> str:
    parts = []
    for task in labels.TASKS:
        table = dig(report, "confusion", "overall", task.name)
        names, counts = dig(table, "classes"), dig(table, "counts")
        if not isinstance(names, list) or not isinstance(counts, list):
            continue
        shown = [task.display_name(name) for name in names]
        rows = []
        for name, line in zip(shown, counts, strict=False):
            total = sum(line) or 1
            cells = [
                f'<td class="fa-cell" style="--s:{n / total * 0.4:.2f}">{n / total:.0%}</td>'
                for n in line
            ]
            rows.append((name, cells))
        parts.append(_table(f"{TITLES[task.name]}: rows sum to 100 %", ["", *shown], rows))
    if not parts:
        return ""
    return (
        "<details><summary>What is taken for what</summary><p>Row: the annotators' answer; "
        f"column: the network's.</p>{''.join(parts)}</details>"
    )
