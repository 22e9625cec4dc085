"""Reports to one comparison table, written between the markers of a Markdown file.

Markers: `<!-- results -->` and `<!-- /results -->`, each on a line of its own.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceattr.labels import AGE, GENDER, RACE
from train.report import reference as published
from train.report.sections import percent
from train.tables import TableError, markdown_table, read_json, write_text

log = logging.getLogger("train")

START, END = "<!-- results -->", "<!-- /results -->"
ORDER = (GENDER, RACE, AGE)


def _row(report: dict[str, Any]) -> list[str]:
    training, dataset = report["training"], report["dataset"]
    cells = []
    for task in ORDER:
        found = report["overall"][task.name]
        interval = f"{percent(found['low'])} to {percent(found['high'])}"
        cells.append(f"**{percent(found['accuracy'], 2)}** ({interval})")
    network = report["network"]
    name = f"{network['architecture']}, recipe `{training['recipe']}`, {training['image_size']} px"
    views = 1
    if report["augmentation"] == "flip":
        name += ", mean of picture and mirror image"
        views = 2
    work = f"{views * network['multiply_adds'] / 1e6:.0f} M"
    return [
        name,
        f"{network['parameters']:,}",
        work,
        f"{training['dataset']['rows']:,}",
        f"{dataset['rows']:,}",
        *cells,
    ]


def comparison(reports: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: a line for each report, and the report that this project follows."""
    printed = [percent(published.ACCURACY[task.name], 2) for task in ORDER]
    work = [
        report["network"]["multiply_adds_224"]
        for report in reports
        if report["network"]["architecture"] == published.ARCHITECTURE
    ]
    rows = [_row(report) for report in reports]
    rows.append(
        [
            published.NAME,
            f"{published.PARAMETERS:,}",
            f"{work[0] / 1e6:.0f} M" if work else "",
            f"about {published.TRAINING_ROWS:,}",
            f"{published.VALIDATION_ROWS:,}",
            *printed,
        ]
    )
    header = [
        "",
        "Parameters",
        "Multiply-adds",
        "Training rows",
        "Validation rows",
        "Gender %",
        "Race %",
        "Age group %",
    ]
    return markdown_table(header, rows)


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
        detector, model = result["detector"], result["model"]
        return (
            f"Through the whole pipeline: {result['pasted']:,} validation faces were pasted into "
            f"larger pictures at 60 to 400 pixels and turned by up to 15°. {model} with the "
            f"detector `{detector}` found {result['found']:,} of them, and on those its accuracy "
            f"fell against that on the chips themselves: {drops}."
        )
    except KeyError as error:
        raise TableError(f"no result of scripts.measure_pipeline: {error} is missing") from error


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
        "--pipeline", type=Path, metavar="JSON", help="result of scripts.measure_pipeline"
    )
    parser.add_argument("--into", type=Path, required=True, help="Markdown file with the markers")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train results`."""
    reports = [read_json(path) for path in args.reports]
    table = comparison(reports)
    if args.pipeline:
        pipeline = read_json(args.pipeline)
        if pipeline.get("weights_sha256") not in [report["weights_sha256"] for report in reports]:
            raise TableError(
                f"{args.pipeline} was measured with other weights than these reports'; "
                "run `python -m scripts.measure_pipeline` again"
            )
        table += "\n\n" + pipeline_sentence(pipeline)
    write_text(args.into, insert(args.into.read_text(encoding="utf-8"), table))
    log.info("-> %s", args.into)
