"""What card and results page share: Markdown tables and sentences made of report.json. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from faceattr import labels
from faceattr.labels import TASKS
from train.evaluate.cells import FEW_FACES
from train.tables import markdown_table

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {"gender": "Gender", "age": "Age group", "race": "Race"}

Json = Mapping[str, Any]


def render(template: str, /, **values: Any) -> str:
    """One of `templates/`, filled; a value that it lacks is an error."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values).rstrip() + "\n"


def percent(value: float, digits: int = 1) -> str:
    """A share of 1 in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds for people, e.g. "1 h 02 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s"


def spanned(cell: Json) -> str:
    """A cell's interval in percent."""
    return f"{percent(cell['low'])} to {percent(cell['high'])}"


def display(task: str, name: str) -> str:
    """The name of a class for people."""
    return labels.task(task).display_name(name)


def accuracy(cell: Json, digits: int = 1) -> str:
    """A share with its interval, in percent; "no faces" of none."""
    if cell["n"] == 0:
        return "no faces"
    return f"{percent(cell['accuracy'], digits)} ({spanned(cell)})"


def _bounds(found: Json, digits: int = 1) -> str:
    """An interval of shares in percent; empty where there is none."""
    if found["low"] is None:
        return ""
    return f"{percent(found['low'], digits)} to {percent(found['high'], digits)}"


def overall_table(report: Json) -> str:
    """Accuracy (Wilson's interval), balanced accuracy and macro F1 (bootstrap) by task."""
    rows = []
    for task in TASKS:
        found = report["overall"][task.name]
        means = [
            f"{percent(found[name], 2)} ({_bounds(found['bootstrap'][name])})"
            for name in ("balanced_accuracy", "macro_f1")
        ]
        own = f"**{percent(found['accuracy'], 2)}** ({spanned(found)})"
        printed = report["report_comparison"]["accuracy"][task.name]["report"]
        rows.append([TITLES[task.name], own, *means, percent(printed, 2)])
    header = ["", "Accuracy %", "Balanced accuracy %", "Macro F1 %", "Accuracy, Kemprai 2024 %"]
    return markdown_table(header, rows)


def service_table(report: Json) -> str:
    """Accuracy on the rows that FairFace marks `service_test`."""
    rows = [
        [TITLES[name], accuracy(found, 2), percent(found["balanced_accuracy"], 2)]
        for name, found in report["service_test"].items()
        if found["n"]
    ]
    return markdown_table(["", "Accuracy %", "Balanced accuracy %"], rows)


def calibration_table(report: Json) -> str:
    """Expected calibration error, what chance makes of it, and Brier score by task."""
    rows = [
        [
            TITLES[task.name],
            f"{found['expected_calibration_error']:.4f}",
            f"{found['if_calibrated']['mean']:.4f} ({found['if_calibrated']['p95']:.4f})",
            f"{found['brier']:.4f}",
            percent(found["confidence"], 2),
            percent(report["overall"][task.name]["accuracy"], 2),
        ]
        for task in TASKS
        for found in [report["calibration"][task.name]]
    ]
    header = [
        "",
        "Expected calibration error",
        "By chance alone, if perfect: mean (95th percentile)",
        "Brier score (0 to 2)",
        "Mean top probability %",
        "Accuracy %",
    ]
    return markdown_table(header, rows)


def selective_table(report: Json) -> str:
    """What answering only at or above the stored thresholds gives."""
    rows = []
    for task in TASKS:
        stored = report["selective"][task.name]["stored"]
        calibration = report["calibration"][task.name]
        error = calibration["expected_calibration_error"]
        rows.append(
            [
                TITLES[task.name],
                f"{error:.4f} ({calibration['if_calibrated']['mean']:.4f})",
                f"{stored['threshold']:g}",
                percent(stored["coverage"]["accuracy"]),
                accuracy(stored["accuracy"]),
            ]
        )
    error = "Calibration error (if perfect)"
    return markdown_table(["", error, "Threshold", "Answered %", "Accuracy of these %"], rows)


def selective_spread(report: Json) -> list[dict[str, str]]:
    """For each head, the groups least and most often answered at the stored threshold."""
    found = []
    for task in TASKS:
        by_group = report["selective"][task.name]["stored"]["by_group"]
        cells = [
            (entry["coverage"], display(attribute, entry["class"]))
            for attribute, entries in by_group.items()
            if attribute != task.name
            for entry in entries
            if entry["coverage"]["n"] >= FEW_FACES
        ]
        words = [
            f"{name} ({percent(cell['accuracy'])} %, {spanned(cell)}, of {cell['n']:,})"
            for cell, name in sorted(cells, key=lambda found: float(found[0]["accuracy"]))
        ]
        if len(words) > 1:
            found.append({"title": TITLES[task.name], "lowest": words[0], "highest": words[-1]})
    return found


def class_table(report: Json) -> str:
    """Share labelled rightly by class, all heads."""
    rows = [
        [f"{TITLES[task.name]}: {display(task.name, found['class'])}", cell_text(found)]
        for task in TASKS
        for found in report["per_class"][task.name]
    ]
    return markdown_table(["", "Labelled rightly % (interval), faces"], rows)


def cell_text(cell: Json) -> str:
    """Accuracy, interval and number of faces of a group; a dagger marks few."""
    if cell["n"] == 0:
        return "no faces"
    low, high = (percent(cell[end], 0) for end in ("low", "high"))
    few = "†" if cell["n"] < FEW_FACES else ""
    return f"{percent(cell['accuracy'])} ({low}–{high}), {cell['n']:,}{few}"


def subgroup(number: str, table: Json, printed: Json | None = None) -> dict[str, str]:
    """One of the report's tables by two attributes, with its title.

    Args:
        number: of the table in the report.
        table: ours.
        printed: the report's cells; where given, each cell is ours / the report's / difference.
    """
    down, across = table["rows"], table["columns"]
    cells = [[cell_text(cell) for cell in line] for line in table["cells"]]
    if printed is not None:
        compared = (map(_compared, line) for line in printed["cells"])
        cells = [
            [f"{ours} / {theirs}" for ours, theirs in zip(*lines, strict=True)]
            for lines in zip(cells, compared, strict=True)
        ]
    names = [display(down["task"], name) for name in down["classes"]]
    rows = [[name, *line] for name, line in zip(names, cells, strict=True)]
    by = " and ".join(TITLES[side["task"]].lower() for side in (down, across))
    header = ["", *(display(across["task"], name) for name in across["classes"])]
    return {
        "title": f"{TITLES[table['task']]} accuracy by {by}",
        "number": number,
        "table": markdown_table(header, rows),
    }


def _compared(cell: Json) -> str:
    """The report's figure and the difference in points, bold where it lies outside our interval."""
    printed = percent(cell["report"], 0)
    if not cell["n"]:
        return printed
    difference = f"{100 * cell['difference']:+.1f}"
    return f"{printed} / **{difference}**" if cell["outside"] else f"{printed} / {difference}"


def confusions(report: Json, task: str) -> str:
    """The three most frequent confusions of classes with enough faces, in words."""
    matrix = report["confusion"]["overall"][task]
    names = [display(task, name) for name in matrix["classes"]]
    mistaken = [
        (count / sum(line), f"{names[true]} taken for {names[predicted]}", sum(line))
        for true, line in enumerate(matrix["counts"])
        if sum(line) >= FEW_FACES
        for predicted, count in enumerate(line)
        if predicted != true and count
    ]
    worst = sorted(mistaken, key=lambda found: -found[0])[:3]
    return "; ".join(f"{what} ({percent(s)} % of {n:,})" for s, what, n in worst) or "none"


def grouping_title(grouping: str) -> str:
    """A grouping's key, e.g. "gender × race", for people."""
    return " × ".join(TITLES[name].lower() for name in grouping.split(" × "))


def _points(found: Json) -> str:
    if found["value"] is None:
        return "too few faces"
    return f"{percent(found['value'])} ({_bounds(found)})"


def _ratio(found: Json) -> str:
    if found["value"] is None:
        return "too few faces"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _group(grouping: str, names: Sequence[str]) -> str:
    """A group of e.g. "gender × race" for people."""
    return ", ".join(map(display, grouping.split(" × "), names))


def accuracy_gap_table(report: Json, task: str) -> str:
    """Accuracy difference, ratio and worst group of one head by every grouping."""
    rows = []
    for grouping, criteria in report["fairness"][task].items():
        found = criteria["accuracy"]
        groups = f"{found['groups'] - found['few']} of {found['groups']}"
        cells = ["too few faces"] * 4
        if (worst := found["worst"]) is not None and (chance := found["if_equal"]) is not None:
            cells = [
                _points(found["difference"]),
                f"{percent(chance['mean'])} ({percent(chance['p95'])})",
                _ratio(found["ratio"]),
                f"{_group(grouping, worst['group'])}: {accuracy(worst)} of {worst['n']:,}",
            ]
        rows.append([grouping_title(grouping), groups, *cells])
    header = [
        f"{TITLES[task]} accuracy by",
        "Groups compared",
        "Difference, points",
        "By chance alone, if equal: mean (95th percentile)",
        "Ratio",
        "Worst group",
    ]
    return markdown_table(header, rows)


def gap_table(report: Json) -> str:
    """Largest accuracy gap and worst group of every head by race and by age group."""
    rows = [
        [
            f"{TITLES[task.name]} by {grouping_title(grouping)}",
            _points(found["difference"]),
            percent(found["if_equal"]["p95"]),
            f"{_group(grouping, worst['group'])}, {percent(worst['accuracy'])} of {worst['n']:,}",
        ]
        for task in TASKS
        for grouping in ("race", "age")
        for found in [report["fairness"][task.name][grouping]["accuracy"]]
        if (worst := found["worst"]) is not None
    ]
    return markdown_table(["", "Points", "By chance, up to", "Worst group, %"], rows)


CRITERIA = {
    ("demographic_parity", "difference"): "Demographic parity difference",
    ("labels", "difference"): "the same of the labels",
    ("demographic_parity", "ratio"): "Demographic parity ratio",
    ("labels", "ratio"): "the same of the labels",
    ("equal_opportunity", "difference"): "Equal opportunity difference",
    ("equalized_odds", "difference"): "Equalized odds difference",
}
"""Where they stand in report.json, and their headings."""


def criteria_table(report: Json) -> str:
    """Demographic parity, equal opportunity and equalized odds of all heads by other attributes."""
    rows = [
        [f"{TITLES[task.name]} by {grouping_title(grouping)}"]
        + [
            (_ratio if kind == "ratio" else _points)(criteria[name][kind])
            for name, kind in CRITERIA
        ]
        for task in TASKS
        for grouping, criteria in report["fairness"][task.name].items()
        if "equalized_odds" in criteria
    ]
    return markdown_table(["", *CRITERIA.values()], rows)


def teens_sentence(report: Json) -> str:
    """How often faces labelled 10-19 are answered as 20 or older; empty where there are none."""
    matrix = report["confusion"]["overall"]["age"]
    line = matrix["counts"][matrix["classes"].index("10-19")]
    if not sum(line):
        return ""
    adult = sum(line[matrix["classes"].index("20-29") :])
    return (
        f"**Young people**: of {sum(line):,} faces labelled 10-19, "
        f"{percent(adult / sum(line), 0)} % are answered as 20 or older. Never use this to tell "
        "minors from adults."
    )


def robustness_table(report: Json) -> str:
    """Accuracy of every head at every step of every corruption."""
    found = report["robustness"]

    def line(name: str, step: Json) -> list[str]:
        cells = [step[task.name] for task in TASKS]
        return [name, *(f"{percent(cell['accuracy'])} ({spanned(cell)})" for cell in cells)]

    rows = [line("Unchanged", found["clean"])]
    for corruption in found["corruptions"].values():
        rows += [
            line(f"{corruption['title']}, {step['level']:g} {corruption['unit']}", step)
            for step in corruption["levels"]
        ]
    return markdown_table(["Pictures", *(f"{TITLES[task.name]} %" for task in TASKS)], rows)


def duplicate_sentence(report: Json) -> str:
    """How many images occur twice among the rows measured, and across the parts where known."""
    found = report["duplicates"]
    what = "image occurs" if found["pictures"] == 1 else "images occur"
    text = f"{found['pictures']} {what} twice among the rows measured"
    if "data_duplicates" in report:
        across = {(p["first"], p["second"]): p for p in report["data_duplicates"]["across"]}
        text += f", {across['train', 'validation']['pictures']} among the training rows as well"
    return text + "; none was removed."
