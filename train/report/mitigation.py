"""Reports of candidates for fairer weights to a page: what each gains and costs, and the choice.

The choice is made on the holdout rows; the validation rows only show what came of it. Predict each
weights with `--part holdout` and with `--part validation`, evaluate both, and give the reports in
the same order, the control first.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceattr.labels import AGE, TASKS
from train.evaluate.cells import FEW_FACES, Cell
from train.evaluate.report import check_schema
from train.recipes import MOST_LOST
from train.report.sections import TITLES, Json, display, percent, render
from train.tables import TableError, markdown_table, read_json, write_json, write_text

log = logging.getLogger("train")

CHILDREN = AGE.classes[:2]
"""The age groups below ten years."""
WORST = (("race", "race"), ("gender", "race"), ("age", "age"))
"""Head and attribute whose worst group counts."""


def _check(holdout: Sequence[Json], validation: Sequence[Json]) -> None:
    if len(holdout) < 2 or len(holdout) != len(validation):
        raise TableError(
            "expected the same two or more weights on both parts, the control first; came "
            f"{len(holdout)} reports on the holdout and {len(validation)} on the validation rows"
        )
    for reports, split in ((holdout, "holdout"), (validation, "validation")):
        for report in reports:
            check_schema(report)
            if (found := report["dataset"]["split"]) != split:
                raise TableError(f"expected reports on the split {split!r}, came {found!r}")
    for one, other in zip(holdout, validation, strict=True):
        if one["weights_sha256"] != other["weights_sha256"]:
            raise TableError("reports on holdout and validation rows are not in the same order")


def groups(report: Json) -> dict[str, dict[str, Any]]:
    """The four groups that the rule looks at: a cell each, with `who` it is about, by heading.

    Raises:
        TableError: when none of an attribute's groups has enough faces.
    """
    found = {}
    for task, attribute in WORST:
        worst = report["fairness"][task][attribute]["accuracy"]["worst"]
        if worst is None:
            raise TableError(f"no two groups of {attribute} have {FEW_FACES} faces or more")
        who = display(attribute, worst["group"][0])
        found[f"{TITLES[task]}, worst {TITLES[attribute].lower()}"] = {**worst, "who": who}
    by_age = report["fairness"]["gender"]["age"]["accuracy"]["by_group"]
    young = [cell for cell in by_age if cell["group"][0] in CHILDREN]
    cell = Cell(sum(c["n"] for c in young), sum(c["correct"] for c in young)).to_dict()
    if cell["n"] < FEW_FACES:
        raise TableError(f"fewer than {FEW_FACES} children are labelled; the rule needs them")
    found["Gender, under ten"] = {**cell, "who": "children"}
    return found


def mean_error(report: Json) -> float:
    """Mean share of wrong answers in the four groups."""
    errors = [1 - float(cell["accuracy"]) for cell in groups(report).values()]
    return sum(errors) / len(errors)


def lost(report: Json, control: Json) -> float:
    """The largest loss of accuracy of a head against the control, as a share of all faces."""
    losses = (
        float(control["overall"][t.name]["accuracy"] - report["overall"][t.name]["accuracy"])
        for t in TASKS
    )
    # Reports have six digits; 6 of 2,000 rows are not more than 0.3 points.
    return round(max(losses), 6)


def chosen(holdout: Sequence[Json]) -> int:
    """Position of the weights that the rule takes, from reports on the holdout.

    Of those that lose at most `MOST_LOST` in each head, the ones with the lowest `mean_error`; the
    control is among them.
    """
    allowed = [i for i, report in enumerate(holdout) if lost(report, holdout[0]) <= MOST_LOST]
    return min(allowed, key=lambda index: mean_error(holdout[index]))


def _changed(value: float, before: float) -> str:
    return f"{percent(value)} ({100 * (value - before):+.1f})"


def table(reports: Sequence[Json]) -> str:
    """A line for each weights: accuracies and errors in percent, with the change in points."""
    control, before = reports[0], groups(reports[0])
    rows = []
    for report in reports:
        overall = (
            _changed(r["accuracy"], c["accuracy"])
            for t in TASKS
            for r, c in [(report["overall"][t.name], control["overall"][t.name])]
        )
        errors = (
            f"{cell['who']}: {_changed(1 - cell['accuracy'], 1 - before[name]['accuracy'])} "
            f"of {cell['n']:,}"
            for name, cell in groups(report).items()
        )
        mean = _changed(mean_error(report), mean_error(control))
        rows.append([f"`{report['training']['recipe']}`", *overall, *errors, mean])
    accuracies = [f"{TITLES[t.name]}, accuracy" for t in TASKS]
    return markdown_table(["", *accuracies, *(f"{n}: error" for n in before), "Mean error"], rows)


def _recipes(reports: Sequence[Json]) -> list[str]:
    """Each recipe with what it changes of the control's settings."""
    control = reports[0]["training"]["settings"]
    lines = []
    for report in reports:
        settings = report["training"]["settings"]
        changed = {k: v for k, v in settings.items() if k != "name" and v != control.get(k)}
        words = f"`{json.dumps(changed, ensure_ascii=False)}`" if changed else "no change"
        lines.append(f"`{report['training']['recipe']}`: {words}")
    return lines


def document(holdout: Sequence[Json], validation: Sequence[Json], note: str = "") -> str:
    """The page, with a note at its beginning.

    Raises:
        TableError: when the reports do not belong together.
    """
    _check(holdout, validation)
    return render(
        "fairness.md",
        note=note,
        recipes=_recipes(holdout),
        control=holdout[0]["training"]["recipe"],
        few=FEW_FACES,
        most_lost=f"{100 * MOST_LOST:g}",
        chosen=holdout[chosen(holdout)]["training"]["recipe"],
        holdout_rows=f"{holdout[0]['dataset']['rows']:,}",
        holdout_table=table(holdout),
        validation_rows=f"{validation[0]['dataset']['rows']:,}",
        validation_table=table(validation),
    )


def essentials(report: Json) -> dict[str, Any]:
    """What the page needs of a report, a fiftieth of it."""
    by_age = report["fairness"]["gender"]["age"]["accuracy"]["by_group"]
    fairness: dict[str, Any] = {}
    for task, attribute in WORST:
        worst = report["fairness"][task][attribute]["accuracy"]["worst"]
        fairness.setdefault(task, {})[attribute] = {"accuracy": {"worst": worst}}
    fairness["gender"]["age"] = {"accuracy": {"by_group": by_age}}
    return {
        "schema": report["schema"],
        "weights_sha256": report["weights_sha256"],
        "dataset": report["dataset"],
        "training": {name: report["training"][name] for name in ("recipe", "settings")},
        "overall": {t.name: {"accuracy": report["overall"][t.name]["accuracy"]} for t in TASKS},
        "fairness": fairness,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train mitigation`."""
    for part in ("holdout", "validation"):
        parser.add_argument(
            f"--{part}",
            nargs="+",
            type=Path,
            metavar="REPORT.json",
            help=f"reports on the {part} rows, the control first",
        )
    parser.add_argument(
        "--json",
        type=Path,
        required=True,
        metavar="FILE.json",
        help="what the page needs of the reports: written from them, or read where none are given",
    )
    parser.add_argument(
        "--note", type=Path, metavar="FILE.md", help="a paragraph for the beginning of the page"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PAGE.md")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train mitigation`."""
    given = {part: getattr(args, part) for part in ("holdout", "validation")}
    if any(given.values()):
        found = {part: [essentials(read_json(p)) for p in given[part] or ()] for part in given}
        _check(found["holdout"], found["validation"])
        write_json(args.json, found)
    found = read_json(args.json)
    note = args.note.read_text(encoding="utf-8").strip() if args.note else ""
    write_text(args.output, document(found["holdout"], found["validation"], note))
    log.info("-> %s", args.output)
