"""report.json and label counts to `docs/results.md`, with the report's figures of chapters 3 and 4.

Figures go to the folder `figures` beside the page. The same two files give the
same page and figures.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

from faceattr.labels import RACE, TASKS
from train.evaluate.cells import FEW_FACES
from train.evaluate.report import check_schema
from train.report import sections
from train.report.card import FULL_ROWS
from train.report.plots import Figure, write_figures
from train.report.plots_data import data_figures
from train.report.plots_results import result_figures
from train.report.sections import TITLES, Json, percent
from train.tables import read_json, write_text

log = logging.getLogger("train")

FOLDER = "figures"


def page_figures(report: Json, labels: Json) -> dict[str, Figure]:
    """Every figure of the page by its number in the report, or its name."""
    return {**data_figures(labels), **result_figures(report)}


def _comparisons(report: Json) -> list[dict[str, Any]]:
    compared = report["report_comparison"]["tables"]
    return [
        {**sections.subgroup(number, table, compared[number]), "compared": compared[number]}
        for number, table in report["subgroups"].items()
    ]


def page(report: Json, labels: Json) -> str:
    """The Markdown page.

    Raises:
        TableError: for a report of another layout.
    """
    check_schema(report)
    images = {
        name: f"![{figure.alt}]({FOLDER}/{figure.name}.png)\n\n*{figure.title}*"
        for name, figure in page_figures(report, labels).items()
    }
    return sections.render(
        "results.md",
        report=report,
        images=images,
        rows=f"{report['dataset']['rows']:,}",
        all_rows=f"{FULL_ROWS[report['dataset']['split']]:,}",
        report_rows=f"{report['report_comparison']['rows']:,}",
        share=percent(report["dataset"]["rows"] / FULL_ROWS[report["dataset"]["split"]]),
        service_rows=f"{report['service_test']['gender']['n']:,}",
        few_faces=FEW_FACES,
        confidence=percent(report["confidence"], 0),
        draws=f"{report['bootstrap']['draws']:,}",
        overall_table=sections.overall_table(report),
        service_table=sections.service_table(report),
        titles=TITLES,
        display=sections.display,
        percent=percent,
        accuracy=sections.accuracy,
        pairs_of_races=math.comb(len(RACE.classes), 2),
        class_table=sections.class_table(report),
        subgroups=_comparisons(report),
        duplicates=sections.duplicate_sentence(report),
        calibration_table=sections.calibration_table(report),
        selective_table=sections.selective_table(report),
        selective_spread=sections.selective_spread(report),
        robustness_table=sections.robustness_table(report) if "robustness" in report else "",
        gap_tables=[sections.accuracy_gap_table(report, task.name) for task in TASKS],
        criteria_table=sections.criteria_table(report),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train figures`."""
    parser.add_argument("--report", type=Path, required=True, help="of `python -m train evaluate`")
    parser.add_argument("--labels", type=Path, required=True, help="of `train imbalance --json`")
    parser.add_argument("--output", type=Path, required=True, metavar="RESULTS.md")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train figures`."""
    report, labels = read_json(args.report), read_json(args.labels)
    write_text(args.output, page(report, labels))
    found = page_figures(report, labels)
    write_figures(list(found.values()), args.output.parent / FOLDER)
    log.info("-> %s", args.output)
