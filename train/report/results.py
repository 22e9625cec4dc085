"""Reports and others' published figures to README's table, between the markers of a Markdown file.

Markers: `<!-- results -->` and `<!-- /results -->`, each on a line of its own.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from faceattr.labels import AGE, GENDER, RACE
from train.report import reference
from train.report.sections import display, percent, render, teens_sentence
from train.tables import TableError, markdown_table, read_json, write_text

log = logging.getLogger("train")

ORDER = (GENDER, RACE, AGE)
HEADER = ["", "Parameters", "ms a face", "Gender %", "Race %", "Age group %"]


def _milliseconds(performance: Mapping[str, Any], network: str, side: int) -> str:
    """Of one face in ONNX Runtime: the median of all rounds of `scripts.benchmark`, or "–"."""
    key = f"{network}, {side} px|onnx|1"
    rounds = [ms for run in performance["runs"] for ms in run["networks"].get(key, [])]
    return f"{median(rounds):.1f}" if rounds else "–"


def _row(report: Mapping[str, Any], performance: Mapping[str, Any]) -> list[str]:
    network, side = report["network"], report["preprocessing"]["image_size"]
    name = network["architecture"]
    accuracies = (
        f"**{percent(found['accuracy'])}** ({percent(found['low'])}–{percent(found['high'])})"
        for found in (report["overall"][task.name] for task in ORDER)
    )
    cells = [f"{name}, {side} px", f"{network['parameters']:,}"]
    return [*cells, _milliseconds(performance, name, side), *accuracies]


def _published_row(other: reference.Published, performance: Mapping[str, Any]) -> list[str]:
    accuracies = ("–" if v is None else percent(v) for v in (other.accuracy[t.name] for t in ORDER))
    measured = _milliseconds(performance, *other.timed_as) if other.timed_as else "–"
    return [f"{other.name} [{other.source}]", other.parameters, measured, *accuracies]


def comparison(
    reports: Sequence[Mapping[str, Any]],
    performance: Mapping[str, Any],
    pipeline: Mapping[str, Any] | None = None,
) -> str:
    """A Markdown table with a line for each report, then others' published figures; and remarks.

    From the results of `scripts.benchmark` and, where the remarks are to say it, of
    `scripts.measure_pipeline`.
    """
    rows = [_row(report, performance) for report in reports]
    rows += [_published_row(other, performance) for other in reference.OTHERS]
    races = sorted(reports[0]["per_class"]["race"], key=lambda found: float(found["accuracy"]))
    return render(
        "readme.md",
        table=markdown_table(HEADER, rows),
        rows=f"{reports[0]['dataset']['rows']:,}",
        all_rows=f"{reference.VALIDATION_ROWS:,}",
        pipeline=pipeline,
        order=[task.name for task in ORDER],
        best=races[-1],
        worst=races[0],
        name=reports[0]["network"]["architecture"],
        teens=teens_sentence(reports[0]).replace("**", ""),
        percent=percent,
        display=display,
    )


def insert(text: str, table: str, name: str = "results") -> str:
    """Replace what stands between the markers of that name.

    Raises:
        TableError: when they are missing.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    start, end = text.find(first), text.find(last)
    if not 0 <= start < end:
        raise TableError(f"expected the lines {first} and {last}, in this order")
    return f"{text[: start + len(first)]}\n{table.strip()}\n{text[end:]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train results`."""
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    parser.add_argument("--performance", type=Path, required=True, help="of scripts.benchmark")
    parser.add_argument("--pipeline", type=Path, help="of scripts.measure_pipeline")
    parser.add_argument("--into", type=Path, required=True, help="Markdown file with the markers")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train results`."""
    reports = [read_json(path) for path in args.reports]
    pipeline = read_json(args.pipeline) if args.pipeline else None
    known = [report["weights_sha256"] for report in reports]
    if pipeline and pipeline.get("weights_sha256") not in known:
        raise TableError(
            f"{args.pipeline} was measured with other weights than these reports'; "
            "run `python -m scripts.measure_pipeline` again"
        )
    table = comparison(reports, read_json(args.performance), pipeline)
    write_text(args.into, insert(args.into.read_text(encoding="utf-8"), table))
    log.info("-> %s", args.into)
