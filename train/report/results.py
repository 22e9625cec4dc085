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
from train.report.sections import display, percent, teens_sentence
from train.tables import TableError, markdown_table, read_json, write_text

log = logging.getLogger("train")

START, END = "<!-- results -->", "<!-- /results -->"
ORDER = (GENDER, RACE, AGE)
HEADER = ["", "Parameters", "ms a face", "Gender %", "Race %", "Age group %"]


def _milliseconds(performance: Mapping[str, Any], network: str, side: int) -> str:
    """Of one face in ONNX Runtime: the median of all rounds of `scripts.benchmark`, or "–"."""
    key = f"{network}, {side} px|onnx|1"
    rounds = [ms for run in performance["runs"] for ms in run["networks"].get(key, [])]
    return f"{median(rounds):.1f}" if rounds else "–"


def _row(report: Mapping[str, Any], performance: Mapping[str, Any]) -> list[str]:
    network, side = report["network"], report["preprocessing"]["image_size"]
    accuracies = [
        f"**{percent(found['accuracy'])}** ({percent(found['low'])}–{percent(found['high'])})"
        for found in (report["overall"][task.name] for task in ORDER)
    ]
    name = network["architecture"]
    return [
        f"{name}, {side} px",
        f"{network['parameters']:,}",
        _milliseconds(performance, name, side),
        *accuracies,
    ]


def _published_row(other: reference.Published, performance: Mapping[str, Any]) -> list[str]:
    accuracies = [
        "–" if v is None else f"{100 * v:.1f}" for v in (other.accuracy[t.name] for t in ORDER)
    ]
    measured = _milliseconds(performance, *other.timed_as) if other.timed_as else "–"
    return [f"{other.name} [{other.source}]", other.parameters, measured, *accuracies]


def comparison(reports: Sequence[Mapping[str, Any]], performance: Mapping[str, Any]) -> str:
    """A Markdown table: a line for each report, then others' published figures.

    Args:
        reports: contents of report.json.
        performance: content of docs/results/performance.json.
    """
    rows = [_row(report, performance) for report in reports]
    rows += [_published_row(other, performance) for other in reference.OTHERS]
    count = reports[0]["dataset"]["rows"]
    return (
        f"{markdown_table(HEADER, rows)}\n\n"
        f"Ours: {count:,} of {reference.VALIDATION_ROWS:,} validation rows, with 95 % intervals; "
        "the others' accuracies are published ones. Milliseconds: one aligned face, ONNX Runtime, "
        "2 CPU cores, a network of that shape, all in one run."
    )


def pipeline_sentence(result: Mapping[str, Any]) -> str:
    """What `scripts.measure_pipeline` found, in words.

    Raises:
        TableError: when the result lacks something.
    """
    try:
        drops = ", ".join(
            f"{task.name} by {percent(found['drop'], 2)} points "
            f"({percent(found['drop_low'], 2)} to {percent(found['drop_high'], 2)})"
            for task in ORDER
            for found in [result["all"][task.name]]
        )
        return (
            f"Of {result['pasted']:,} validation faces pasted into larger images at 60 to 400 "
            f"pixels, turned by up to 15°, {result['detector']} found {result['found']:,}; on "
            f"those the accuracy of {result['model']} was lower than on the bare chips: {drops}."
        )
    except KeyError as error:
        raise TableError(f"no result of scripts.measure_pipeline: {error} is missing") from error


def uneven_sentence(report: Mapping[str, Any]) -> str:
    """How differently one network's answers are right by race, and what happens to the young."""
    races = sorted(report["per_class"]["race"], key=lambda found: float(found["accuracy"]))
    worst, best = races[0], races[-1]
    return (
        f"Errors are uneven. {report['network']['architecture']} answers race right for "
        f"{percent(best['accuracy'], 0)} % of faces labelled {display('race', best['class'])} and "
        f"{percent(worst['accuracy'], 0)} % of those labelled {display('race', worst['class'])}. "
        f"{teens_sentence(report).replace('**', '')}"
    )


def insert(text: str, table: str) -> str:
    """Replace what stands between the markers.

    Raises:
        TableError: when the markers are missing or out of order.
    """
    start, end = text.find(START), text.find(END)
    if not 0 <= start < end:
        raise TableError(f"expected the lines {START} and {END}, in this order")
    return f"{text[: start + len(START)]}\n{table.strip()}\n{text[end:]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train results`."""
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.json")
    parser.add_argument(
        "--performance",
        type=Path,
        required=True,
        metavar="JSON",
        help="result of scripts.benchmark",
    )
    parser.add_argument(
        "--pipeline", type=Path, metavar="JSON", help="result of scripts.measure_pipeline"
    )
    parser.add_argument("--into", type=Path, required=True, help="Markdown file with the markers")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train results`."""
    reports = [read_json(path) for path in args.reports]
    table = comparison(reports, read_json(args.performance))
    if args.pipeline:
        pipeline = read_json(args.pipeline)
        if pipeline.get("weights_sha256") not in [report["weights_sha256"] for report in reports]:
            raise TableError(
                f"{args.pipeline} was measured with other weights than these reports'; "
                "run `python -m scripts.measure_pipeline` again"
            )
        table += "\n\n" + pipeline_sentence(pipeline)
    table += "\n\n" + uneven_sentence(reports[0])
    write_text(args.into, insert(args.into.read_text(encoding="utf-8"), table))
    log.info("-> %s", args.into)
