"""A report's values → one HTML file that needs no network, and Markdown."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from unicodedata import category

import jinja2
from markupsafe import Markup

from faceattr.audit.words import NO_FACE, counted

Interval: TypeAlias = "Sequence[float | None] | None"
"""Value, lower and upper end; the ends are None where there is no interval."""

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Kinds of characters that move a terminal's cursor, break lines or turn their direction."""

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 440, 118, 20, 30, 6
"""Of the figures, in units of the SVG: whole width, margins, height of a class, upper margin."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share for people; "–" where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.{digits}f}\u00a0%".replace("-", "−")


def number(value: int) -> str:
    """A whole number with separated thousands."""
    return f"{value:,}"


def interval(values: Interval, digits: int = 1) -> str:
    """A share and its interval, such as "12.1 % (10.0 to 14.3)"."""
    if values is None or values[0] is None:
        return "–"
    if not _has_ends(values):
        return percent(values[0], digits)
    low, high = (f"{100 * float(v or 0):.{digits}f}".replace("-", "−") for v in values[1:])
    return f"{percent(values[0], digits)} ({low} to {high})"


def measure(values: Interval) -> str:
    """A measure that is no share, and its interval."""
    if values is None or values[0] is None:
        return "–"
    if not _has_ends(values):
        return f"{values[0]:.3f}"
    return f"{values[0]:.3f} ({float(values[1] or 0):.3f} to {float(values[2] or 0):.3f})"


def one_line(text: object) -> str:
    """Text that came with the images on one line; what is not seen as an escape."""
    return "".join(
        c.encode("unicode_escape").decode() if category(c) in _UNSEEN else c for c in str(text)
    )


def _plain(text: object) -> str:
    """The same for Markdown, of which none of its characters makes a cell, a link or a tag."""
    return re.sub(r"([\\|`*<\[])", r"\\\1", one_line(text))


def _has_ends(values: Sequence[float | None]) -> bool:
    return values[1] is not None and not math.isnan(values[1])


def _span(values: Interval) -> Markup:
    """`interval` with its parts marked up."""
    if values is None or values[0] is None:
        return Markup("–")
    text = Markup("<b>{}</b>").format(percent(values[0]))
    if not _has_ends(values):
        return text
    low, high = (percent(value) for value in values[1:])
    return text + Markup(' <span class="ci">{} to {}</span>').format(low, high)


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "counted":
        corner = f'x="{x - 4:.1f}" y="{y - 4:.1f}"'
        return f'<rect class="k hollow" {corner} width="8" height="8" stroke-width="2"/>'
    if kind == "corrected":
        return f'<circle class="k" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    return f'<path class="k" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6Z"/>'


def _scale(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> float:
    """Right end of the axis: the next tenth, or fifth, above everything that is drawn."""
    ends = [float(v) for row in rows for kind in kinds for v in (row.get(kind) or ()) if v]
    top = math.ceil(max(ends, default=0.1) * 10 - 1e-9) / 10
    if top > 0.6:
        top = math.ceil(top * 5 - 1e-9) / 5
    return min(1.0, max(0.1, top))


def figure(task: Mapping[str, Any]) -> Markup:
    """Shares with their intervals as an SVG: one line a class, one mark a way of estimating.

    Args:
        task: as the report holds it: "title" and "rows", each with "display" and intervals.
    """
    rows: Sequence[Mapping[str, Any]] = task["rows"]
    kinds = [k for k in ("counted", "corrected", "labelled") if any(row.get(k) for row in rows)]
    top = _scale(rows, kinds)
    height = _TOP + _ROW * len(rows) + 26
    inner = _WIDTH - _LEFT - _RIGHT

    def place(share: float) -> float:
        return _LEFT + inner * min(max(share, 0.0), top) / top

    parts = []
    step = 0.05 if top <= 0.3 else 0.1 if top <= 0.6 else 0.2
    for tick in range(round(top / step + 1e-9) + 1):
        share = min(tick * step, top)
        x = place(share)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 24}"/>'
            f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">'
            f"{100 * share:.0f} %</text>"
        )
    for position, row in enumerate(rows):
        middle = _TOP + _ROW * (position + 0.5)
        name = html.escape(row["display"])
        parts.append(f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{name}</text>')
        for line, kind in enumerate(kinds):
            y = middle + (line - (len(kinds) - 1) / 2) * 9
            parts.append(_estimate(kind, row.get(kind), y, place))
    label = html.escape(f"{task['title']}: shares with 95 % intervals; the table below has them")
    # Every text in it was escaped above.
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    )


def _estimate(kind: str, values: Interval, y: float, place: Any) -> str:
    if values is None or values[0] is None:
        return ""
    line = ""
    if _has_ends(values):
        low, high = (place(float(value or 0)) for value in values[1:])
        line = (
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="currentColor" stroke-width="2"/>'
        )
    return f'<g class="k-{kind}">{line}{_mark(kind, place(float(values[0])), y)}</g>'


def _environment(*, escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faceattr.audit"),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        percent=percent,
        number=number,
        counted=counted,
        interval=interval,
        measure=measure,
        span=_span,
        figure=figure,
        plain=_plain,
    )
    return environment


def to_html(report: Mapping[str, Any]) -> str:
    """The report as one HTML file; styles and figures are in it, scripts are not."""
    return _environment(escape=True).get_template("report.html").render(r=report)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report's main tables as Markdown."""
    return _environment(escape=False).get_template("report.md").render(r=report)


def to_text(report: Mapping[str, Any]) -> str:
    """A table for the end of a run on a terminal."""
    lines = [one_line(f"! {warning['title']} {warning['text']}") for warning in report["warnings"]]
    counts = report["counts"]
    lines.append(
        f"{counted(counts['images'], 'image')}, {counts['failed']:,} not read, "
        f"{counts['without_face']:,} without a face, {counted(counts['faces'], 'face')}"
    )
    for failure in report["failures"]:
        lines.append(
            f"  {failure['images']:,} × {failure['kind']}, for example {one_line(failure['id'])}: "
            f"{one_line(failure['message'])}"
        )
    if not counts["faces"]:
        lines.append(NO_FACE)
    for task in report["tasks"]:
        kinds = ["counted", "corrected", *(["labelled"] if task["has_labelled"] else [])]
        titles = {"labelled": "with labels"}
        lines += ["", _columns(task["title"], [titles.get(kind, kind) for kind in kinds])]
        for row in task["rows"]:
            lines.append(_columns(f"  {row['display']}", [interval(row[kind]) for kind in kinds]))
        if task["warning"]:
            lines.append(f"! {task['warning']}")
    return "\n".join(lines) + "\n"


def _columns(first: str, others: Sequence[str]) -> str:
    return f"{first:<26}" + "".join(f"{text:>26}" for text in others)
