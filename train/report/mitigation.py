"""Reports of weights trained with and without mitigation to a page: what it gains, what it costs.

The choice is made on the holdout rows; the validation rows only show what came of it. Predict each
weights with `--part holdout` and with `--part validation`, evaluate both, and give the reports in
the same order, the control first.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceattr.labels import GENDER, RACE, TASKS
from train.evaluate.cells import FEW_FACES
from train.evaluate.fairness import title
from train.evaluate.report import SCHEMA
from train.report.sections import TITLES, Json, display, percent
from train.tables import TableError, markdown_table, read_json, write_text

log = logging.getLogger("train")

GROUPS = title((GENDER, RACE))
"""Whose worst group is looked after: the recipes' own groups."""


def _check(holdout: Sequence[Json], validation: Sequence[Json]) -> None:
    if len(holdout) < 2 or len(holdout) != len(validation):
        raise TableError(
            "expected the same two or more weights on both parts, the control first; came "
            f"{len(holdout)} reports on the holdout and {len(validation)} on the validation rows"
        )
    for reports, split in ((holdout, "holdout"), (validation, "validation")):
        for report in reports:
            found = (report.get("schema"), report.get("dataset", {}).get("split"))
            if found != (SCHEMA, split):
                raise TableError(
                    f"expected reports of schema {SCHEMA} on the split {split!r}, came {found}"
                )
    for one, other in zip(holdout, validation, strict=True):
        if one["weights_sha256"] != other["weights_sha256"]:
            raise TableError("reports on holdout and validation rows are not in the same order")


def _figures(report: Json, task: str) -> dict[str, Any]:
    """Overall accuracy, the worst group and the worst class of one head, and the gaps."""
    gap = report["fairness"][task][GROUPS]["accuracy"]
    classes = [found for found in report["per_class"][task] if found["n"] >= FEW_FACES]
    if gap["worst"] is None or not classes:
        raise TableError(f"no group of {GROUPS} or no class of {task} has {FEW_FACES} faces")
    return {
        "overall": report["overall"][task],
        "balanced": report["overall"][task]["balanced_accuracy"],
        "group": gap["worst"],
        "difference": gap["difference"]["value"],
        "class": min(classes, key=lambda found: float(found["accuracy"])),
    }


def balance(report: Json, control: Json) -> dict[str, float]:
    """Mean changes over the heads against the control, as shares: `overall`, `group`, `class`."""
    pairs = [(_figures(report, t.name), _figures(control, t.name)) for t in TASKS]
    return {
        key: sum(a[key]["accuracy"] - b[key]["accuracy"] for a, b in pairs) / len(pairs)
        for key in ("overall", "group", "class")
    }


def _changed(value: float, before: float) -> str:
    return f"{percent(value)} ({100 * (value - before):+.1f})"


def _table(reports: Sequence[Json]) -> str:
    """Every head of every weights, with the change against the control in points."""
    rows = []
    for task in TASKS:
        control = _figures(reports[0], task.name)
        for report in reports:
            found = _figures(report, task.name)
            group, worst = found["group"], found["class"]
            who = ", ".join(
                display(*pair) for pair in zip(GROUPS.split(" × "), group["group"], strict=True)
            )
            rows.append(
                [
                    f"{TITLES[task.name]}, `{report['training']['recipe']}`",
                    _changed(found["overall"]["accuracy"], control["overall"]["accuracy"]),
                    _changed(found["balanced"], control["balanced"]),
                    f"{who}: {_changed(group['accuracy'], control['group']['accuracy'])} "
                    f"of {group['n']:,}",
                    _changed(found["difference"], control["difference"]),
                    f"{display(task.name, worst['class'])}: "
                    f"{_changed(worst['accuracy'], control['class']['accuracy'])} "
                    f"of {worst['n']:,}",
                ]
            )
    header = [
        "",
        "Accuracy %",
        "Balanced accuracy %",
        "Worst gender × race group %",
        "Best minus worst group, points",
        "Worst class %",
    ]
    return markdown_table(header, rows)


def _summary(reports: Sequence[Json]) -> str:
    rows = [
        [f"`{report['training']['recipe']}`"]
        + [f"{100 * value:+.2f}" for value in balance(report, reports[0]).values()]
        for report in reports[1:]
    ]
    header = [
        "Points against the control, mean of the heads",
        "Overall",
        "Worst group",
        "Worst class",
    ]
    return markdown_table(header, rows)


UNMITIGATED = """

The weights that come with this repository are the unmitigated ones nevertheless. Who measures a
collection counts all its faces, so the overall accuracy of each head matters first, and the rule
lets one head lose what another's worst group gains; and the worst groups of the holdout hold too
few faces to found a default on. Who needs the smallest gaps between groups finds in the
next tables what to expect."""


def chosen(holdout: Sequence[Json]) -> int:
    """Position of the weights that the rule of the page prefers, from holdout reports.

    Those with the largest gain of the worst group plus change of the overall accuracy, means over
    the heads; the control where none has a positive sum.
    """
    sums = [0.0]
    for report in holdout[1:]:
        found = balance(report, holdout[0])
        sums.append(found["group"] + found["overall"])
    return max(range(len(sums)), key=lambda index: sums[index])


def _start(report: Mapping[str, Any]) -> str:
    """Which weights a run went on from, in words; they need not be those in the tree now."""
    start = report["training"].get("start")
    if isinstance(start, Mapping):
        return f" (recipe `{start['recipe']}`, SHA-256 `{start['sha256'][:12]}…`)"
    return f" (SHA-256 `{start[:12]}…`)" if start else ""


_DOCUMENT = """\
<!-- Written by `python -m train mitigation`; do not edit. -->
# What mitigation gains and costs

All weights here went on from the same weights{start},
for the same number of epochs at the same settings. The control, `{control}`, treats all rows alike.
`reweight` lets rows weigh more whose class and gender × race group were answered badly on the
holdout; `group_dro` is group distributionally robust optimisation (Sagawa et al., ICLR 2020) over
gender × race (`train/fit/mitigation.py`). These are earlier recipes, compared at weights before the
published ones; what is compared next, and by which rule, stands in [training.md](training.md).
{recipes}

## On the holdout, where the choice is made

{holdout_rows} rows that no weights were trained on (though they choose the epoch, and `reweight`
takes its weights from them). Changes against the control in brackets, in points, then the faces of
the worst group and class. Only those of at least {few} faces count as worst.

{holdout_summary}

{holdout_table}

The rule: mitigation is preferred if what the worst group gains, plus the change of overall
accuracy, both as means over the heads, is above zero; of several, the one with the largest sum. By
it the preferred weights are those of **`{chosen}`**.{default}

## On the validation rows

{validation_rows} rows, looked at once the choice was made.

{validation_summary}

{validation_table}

A worst group is picked for being low, and holds few faces: much of what it seems to gain or lose is
chance. Its interval is in each `report.json`.
"""


def document(holdout: Sequence[Json], validation: Sequence[Json]) -> str:
    """The page.

    Raises:
        TableError: when the reports do not belong together.
    """
    _check(holdout, validation)
    preferred = holdout[chosen(holdout)]
    recipes = []
    for report in holdout:
        training = report["training"]
        found = training["settings"].get("mitigation")
        words = "no mitigation" if not found else f"{found['kind']}, strength {found['strength']:g}"
        recipes.append(f"- `{training['recipe']}`: {words}, {training['epochs']} epochs")
    return _DOCUMENT.format(
        start=_start(holdout[0]),
        control=holdout[0]["training"]["recipe"],
        recipes="\n" + "\n".join(recipes),
        few=FEW_FACES,
        holdout_rows=f"{holdout[0]['dataset']['rows']:,}",
        validation_rows=f"{validation[0]['dataset']['rows']:,}",
        holdout_summary=_summary(holdout),
        holdout_table=_table(holdout),
        validation_summary=_summary(validation),
        validation_table=_table(validation),
        chosen=preferred["training"]["recipe"],
        default=UNMITIGATED if preferred["training"]["settings"].get("mitigation") else "",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train mitigation`."""
    for part in ("holdout", "validation"):
        parser.add_argument(
            f"--{part}",
            nargs="+",
            type=Path,
            required=True,
            metavar="REPORT.json",
            help=f"reports on the {part} rows, the control first",
        )
    parser.add_argument("--output", type=Path, required=True, metavar="PAGE.md")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train mitigation`."""
    parts = [[read_json(path) for path in paths] for paths in (args.holdout, args.validation)]
    write_text(args.output, document(*parts))
    log.info("-> %s", args.output)
