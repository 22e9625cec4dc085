"""Report and label counts to figures: one style, PNG and SVG, the same bytes for the same data.

Panels are opaque and light, so they read on light and dark pages alike. Colours are Okabe and Ito's
for colour-blind readers ("Color Universal Design", 2008), shades a single blue; whatever a colour
says is also said by position, marker or number.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from faceattr.labels import AGE, GENDER, RACE, TASKS, Task
from train.sections import TITLES, Json, display, percent
from train.subgroups import FEW_FACES

COLOURS = {"gender": "#0072B2", "age": "#D55E00", "race": "#009E73"}
GENDER_COLOURS = ("#56B4E9", "#E69F00")
MARKERS = {"gender": "o", "age": "s", "race": "^"}
INK, FAINT, PANEL = "#222222", "#D9D9D9", "#FFFFFF"
STYLE = {
    "figure.facecolor": PANEL,
    "axes.facecolor": PANEL,
    "savefig.facecolor": PANEL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "faceattr",
    "svg.fonttype": "path",
}
PNG_DPI = 110
PNG_COLOURS = 96


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that can be drawn.

    Attributes:
        name: of its files, without ending.
        title: for the page.
        alt: what it shows, for those who do not see it.
        data: everything that `draw` depends on, JSON-ready.
        draw: makes the figure.
    """

    name: str
    title: str
    alt: str
    data: Any
    draw: Callable[[], Canvas]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data; stands in both files, so that stale ones are found."""
        text = json.dumps(self.data, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path, endings: Sequence[str]) -> None:
        """Write the figure as `name.ENDING` for every ending, "png" or "svg"."""
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            canvas = self.draw()
            for ending in endings:
                path = folder / f"{self.name}.{ending}"
                facts = {"Description": f"data {self.fingerprint}", "Title": self.alt}
                # Without dates and versions, equal data gives equal bytes.
                if ending == "svg":
                    canvas.savefig(path, metadata={**facts, "Date": None})
                else:
                    _save_png(canvas, path, facts)


def _save_png(canvas: Canvas, path: Path, facts: Mapping[str, str]) -> None:
    """Write a PNG of few colours, a third of the size."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=PNG_DPI)
    written = PngInfo()
    for key, value in facts.items():
        written.add_itxt(key, value)
    image = Image.open(buffer).convert("RGB")
    image.quantize(PNG_COLOURS).save(path, pnginfo=written, optimize=True)


def _canvas(width: float, height: float) -> Canvas:
    return Canvas(figsize=(width, height), layout="constrained")


def _names(task: Task) -> list[str]:
    return [display(task.name, name) for name in task.classes]


def _shades(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    low: float = 0.0,
) -> None:
    """A grid of shaded, labelled cells, first row on top; None is left blank."""
    grid = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    axes.pcolormesh(grid, cmap="Blues", vmin=low, vmax=1.0, edgecolors=PANEL, linewidth=1)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    size = 9 if len(columns) < 8 else 8
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            dark = not np.isnan(grid[i, j]) and (grid[i, j] - low) / (1 - low) > 0.55
            colour = PANEL if dark else INK
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, size=size)


def _confusion(axes: Axes, matrix: Json, task: str, title: str) -> None:
    names = [display(task, name) for name in matrix["classes"]]
    totals = [sum(line) for line in matrix["counts"]]
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals, strict=True)]
    texts = [
        ["" if share is None else percent(share, 0) for share in line] for line in matrix["shares"]
    ]
    _shades(axes, matrix["shares"], rows, names, texts)
    axes.set_title(title)
    axes.set_xlabel("answer")
    axes.set_ylabel("label (faces)")


def _diagonal(matrix: Json, task: str) -> str:
    """The most and least often recognised class of a confusion matrix, in words."""
    found = [
        (line[index], display(task, name))
        for index, (name, line) in enumerate(zip(matrix["classes"], matrix["shares"], strict=True))
        if line[index] is not None
    ]
    if not found:
        return "no faces"
    (low, worst), (high, best) = min(found), max(found)
    return f"{percent(low, 0)} % for {worst} to {percent(high, 0)} % for {best}"


def confusion_overall(report: Json) -> Figure:
    """The report's figure 4.2."""
    matrices = report["confusion"]["overall"]

    def draw() -> Canvas:
        canvas = _canvas(15, 5)
        for axes, task in zip(
            canvas.subplots(1, 3, width_ratios=(3, 10, 8)), (GENDER, AGE, RACE), strict=True
        ):
            _confusion(axes, matrices[task.name], task.name, TITLES[task.name])
        return canvas

    spans = "; ".join(
        f"{TITLES[task.name]}: rightly answered from {_diagonal(matrices[task.name], task.name)}"
        for task in TASKS
    )
    return Figure(
        "confusion",
        "Confusion matrices for gender, age group and race, percent of each label's faces",
        f"Three confusion matrices, labels down and answers across. {spans}.",
        matrices,
        draw,
    )


def confusion_by_gender(report: Json, task: Task) -> Figure:
    """The report's figures 4.3 (age) and 4.4 (race)."""
    matrices = {name: m[task.name] for name, m in report["confusion"]["by_gender"].items()}

    def draw() -> Canvas:
        canvas = _canvas(13, 5.2)
        for axes, (gender, matrix) in zip(canvas.subplots(1, 2), matrices.items(), strict=True):
            _confusion(axes, matrix, task.name, f"{TITLES[task.name]}, labelled {gender.lower()}")
        return canvas

    spans = "; ".join(
        f"{gender}: rightly answered from {_diagonal(matrix, task.name)}"
        for gender, matrix in matrices.items()
    )
    return Figure(
        f"confusion-{task.name}-by-gender",
        f"Confusion matrices of {TITLES[task.name].lower()} by gender, percent of each label",
        f"Two confusion matrices, labels down and answers across. {spans}.",
        matrices,
        draw,
    )


def _cell_label(cell: Json) -> str:
    if not cell["n"]:
        return "–"
    few = "†" if cell["n"] < FEW_FACES else ""
    return f"{percent(cell['accuracy'], 0)}{few}\n({cell['n']:,})"


def subgroups(report: Json) -> Figure:
    """The report's Tables 4.1 to 4.3 as one figure."""
    tables = report["subgroups"]

    def draw() -> Canvas:
        canvas = _canvas(11, 9.5)
        panels = canvas.subplots(3, 1, height_ratios=(9, 2.6, 2.6))
        for axes, (number, table) in zip(panels, tables.items(), strict=True):
            down, across = table["rows"], table["columns"]
            values = [[cell["accuracy"] for cell in line] for line in table["cells"]]
            texts = [[_cell_label(cell) for cell in line] for line in table["cells"]]
            rows = [display(down["task"], name) for name in down["classes"]]
            columns = [display(across["task"], name) for name in across["classes"]]
            _shades(axes, values, rows, columns, texts)
            axes.tick_params(axis="x", rotation=0)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("center")
            axes.set_title(f"Table {number}: {TITLES[table['task']].lower()} accuracy, %")
        return canvas

    def span(table: Json) -> str:
        shares = [c["accuracy"] for line in table["cells"] for c in line if c["n"] >= FEW_FACES]
        if not shares:
            return f"{TITLES[table['task']]}: too few faces in every group"
        return (
            f"{TITLES[table['task']]} accuracy from {percent(min(shares), 0)} % to "
            f"{percent(max(shares), 0)} %"
        )

    spans = "; ".join(map(span, tables.values()))
    return Figure(
        "subgroups",
        "Accuracy by group, percent (faces); † marks few faces",
        f"Three shaded tables of accuracy by two attributes, over groups of enough faces. {spans}.",
        tables,
        draw,
    )


def reliability(report: Json) -> Figure:
    """Accuracy against claimed probability."""
    data = {task.name: report["calibration"][task.name] for task in TASKS}
    bins = {name: found["reliability"] for name, found in data.items()}

    def draw() -> Canvas:
        canvas = _canvas(11, 4)
        for axes, (name, entries) in zip(canvas.subplots(1, 3), bins.items(), strict=True):
            filled = [entry for entry in entries if entry["n"]]
            total = sum(entry["n"] for entry in filled)
            axes.bar(
                [(e["from"] + e["to"]) / 2 for e in filled],
                [e["n"] / total for e in filled],
                width=1 / len(entries) * 0.9,
                color=FAINT,
                label="share of faces",
            )
            axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", label="perfect")
            axes.plot(
                [e["confidence"] for e in filled],
                [e["accuracy"] for e in filled],
                color=COLOURS[name],
                marker=MARKERS[name],
                label="accuracy",
            )
            few = [entry for entry in filled if entry["n"] < FEW_FACES]
            axes.plot(
                [e["confidence"] for e in few],
                [e["accuracy"] for e in few],
                color=COLOURS[name],
                marker=MARKERS[name],
                markerfacecolor=PANEL,
                linestyle="",
                label=f"fewer than {FEW_FACES} faces",
            )
            error = data[name]["expected_calibration_error"]
            axes.set_title(f"{TITLES[name]}, error {error:.3f}")
            axes.set_xlabel("probability of the answer")
            axes.grid(alpha=0.6)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.legend(loc="upper left")
        return canvas

    errors = ", ".join(
        f"{TITLES[n]} {f['expected_calibration_error']:.3f}" for n, f in data.items()
    )
    return Figure(
        "reliability",
        "Reliability: how often answers of a probability are right",
        "Accuracy against the probability claimed, one panel for each head, with the diagonal of "
        f"perfect calibration. Expected calibration errors: {errors}.",
        {name: [bins[name], data[name]["expected_calibration_error"]] for name in bins},
        draw,
    )


def risk_coverage(report: Json) -> Figure:
    """Accuracy against the share of faces answered, surest first."""
    data = {task.name: report["selective"][task.name] for task in TASKS}

    def draw() -> Canvas:
        canvas = _canvas(7.5, 4.6)
        axes = canvas.subplots()
        for name, found in data.items():
            curve, stored = found["curve"], found["stored"]
            axes.plot(
                [p["coverage"] for p in curve],
                [p["accuracy"] for p in curve],
                color=COLOURS[name],
                marker=MARKERS[name],
                markevery=7,
                label=f"{TITLES[name]} (aim {percent(found['aimed_accuracy'], 0)} %)",
            )
            if stored["accuracy"]["n"]:
                at = (stored["coverage"]["accuracy"], stored["accuracy"]["accuracy"])
                axes.plot(*at, color=COLOURS[name], marker="*", markersize=16, linestyle="")
        axes.plot([], [], color=INK, marker="*", markersize=12, linestyle="", label="at threshold")
        axes.set_xlabel("share of faces answered, surest first")
        axes.set_ylabel("accuracy of the answers")
        axes.grid(alpha=0.6)
        axes.set_xlim(0, 1.02)
        axes.legend(loc="lower left")
        return canvas

    points = "; ".join(
        f"{TITLES[n]}: {percent(f['stored']['coverage']['accuracy'], 0)} % answered at the stored "
        f"threshold"
        for n, f in data.items()
    )
    return Figure(
        "risk-coverage",
        "Accuracy against the share of faces answered",
        f"Three falling curves of accuracy against coverage; stars mark the stored thresholds. "
        f"{points}.",
        data,
        draw,
    )


def robustness(report: Json) -> Figure:
    """Accuracy under every corruption by step."""
    found = report["robustness"]
    corruptions = found["corruptions"]

    def panel(axes: Axes, corruption: Json) -> None:
        levels = corruption["levels"]
        ticks = ["none", *(f"{step['level']:g}" for step in levels)]
        places = np.arange(len(ticks))
        for task in TASKS:
            cells = [found["clean"][task.name], *(step[task.name] for step in levels)]
            axes.plot(
                places,
                [cell["accuracy"] for cell in cells],
                color=COLOURS[task.name],
                marker=MARKERS[task.name],
                label=TITLES[task.name],
            )
            low, high = ([cell[end] for cell in cells] for end in ("low", "high"))
            axes.fill_between(places, low, high, color=COLOURS[task.name], alpha=0.15, linewidth=0)
        axes.set_xticks(places, ticks)
        axes.set_title(corruption["title"])
        axes.set_xlabel(corruption["unit"])
        axes.grid(alpha=0.6)

    def draw() -> Canvas:
        canvas = _canvas(13, 6)
        panels = canvas.subplots(2, (len(corruptions) + 1) // 2, sharey=True)
        for axes, corruption in zip(panels.ravel(), corruptions.values(), strict=True):
            panel(axes, corruption)
        panels[0, 0].set_ylim(0, 1)
        panels[0, 0].legend(loc="lower left")
        for axes in panels[:, 0]:
            axes.set_ylabel("accuracy")
        return canvas

    drops = "; ".join(
        f"{c['title']} at {c['levels'][-1]['level']:g} {c['unit']}: "
        + ", ".join(
            f"{TITLES[t.name].lower()} {percent(c['levels'][-1][t.name]['accuracy'], 0)} %"
            for t in TASKS
        )
        for c in corruptions.values()
    )
    return Figure(
        "robustness",
        "Accuracy on pictures made worse in steps, with intervals",
        f"Accuracy of the three heads under each corruption, falling with its strength. {drops}.",
        [found["clean"], corruptions],
        draw,
    )


def group_accuracy(report: Json) -> Figure:
    """Accuracy of every head by gender, race and age, with intervals."""
    data = {
        task.name: {
            attribute.name: report["fairness"][task.name][attribute.name]["accuracy"]["by_group"]
            for attribute in (GENDER, RACE, AGE)
        }
        for task in TASKS
    }

    def draw() -> Canvas:
        canvas = _canvas(12, 5.5)
        for axes, task in zip(canvas.subplots(1, 3, sharey=True), TASKS, strict=True):
            place, ticks = 0, []
            for attribute, cells in data[task.name].items():
                for cell in cells:
                    few = "†" if cell["n"] < FEW_FACES else ""
                    ticks.append((place, display(attribute, cell["group"][0]) + few))
                    axes.plot([cell["low"], cell["high"]], [place, place], color=COLOURS[task.name])
                    axes.plot(
                        cell["accuracy"], place, color=COLOURS[task.name], marker=MARKERS[task.name]
                    )
                    place += 1
                place += 1
            axes.axvline(report["overall"][task.name]["accuracy"], color="#888888", linestyle="--")
            axes.set_yticks(*zip(*ticks, strict=True))
            axes.set_title(TITLES[task.name])
            axes.set_xlabel("accuracy")
            axes.grid(axis="x", alpha=0.6)
        canvas.axes[0].invert_yaxis()
        return canvas

    def span(task: Task) -> str:
        cells = [
            cell for cells in data[task.name].values() for cell in cells if cell["n"] >= FEW_FACES
        ]
        if not cells:
            return f"{TITLES[task.name]}: too few faces"
        ends = (min(c["accuracy"] for c in cells), max(c["accuracy"] for c in cells))
        return f"{TITLES[task.name]} from {percent(ends[0], 0)} % to {percent(ends[1], 0)} %"

    overall = {task.name: report["overall"][task.name]["accuracy"] for task in TASKS}
    return Figure(
        "group-accuracy",
        "Accuracy by gender, race and age group, with intervals; the dashed line is the mean",
        "Points with intervals, one panel for each head, one line for each group. "
        + "; ".join(map(span, TASKS))
        + ".",
        [data, overall],
        draw,
    )


def _criteria_of_attributes(report: Json) -> list[tuple[str, dict[str, Json]]]:
    """The differences of each head by each other attribute, with a title."""
    return [
        (
            f"{TITLES[task.name]} by {TITLES[grouping].lower()}",
            {
                "accuracy": criteria["accuracy"]["difference"],
                "demographic parity": criteria["demographic_parity"]["difference"],
                "labels' own parity": criteria["labels"]["difference"],
                "equal opportunity": criteria["equal_opportunity"]["difference"],
                "equalized odds": criteria["equalized_odds"]["difference"],
            },
        )
        for task in TASKS
        for grouping, criteria in report["fairness"][task.name].items()
        if "equalized_odds" in criteria and " × " not in grouping
    ]


def fairness(report: Json) -> Figure:
    """The largest differences of every criterion, with intervals."""
    entries = _criteria_of_attributes(report)
    colours = ("#0072B2", "#E69F00", "#999999", "#009E73", "#CC79A7")

    def draw() -> Canvas:
        canvas = _canvas(11, 5)
        axes = canvas.subplots()
        for index, name in enumerate(entries[0][1]):
            found = [values[name] for _, values in entries]
            known = [k for k, value in enumerate(found) if value["value"] is not None]
            places = np.array(known) + (index - 2) * 0.16
            heights = [found[k]["value"] for k in known]
            axes.bar(places, heights, width=0.15, color=colours[index], label=name)
            for place, k in zip(places, known, strict=True):
                ends = [found[k]["low"], found[k]["high"]]
                axes.plot([place, place], ends, color=INK, linewidth=1)
        axes.set_xticks(range(len(entries)), [title for title, _ in entries])
        axes.set_ylabel("largest difference between groups")
        axes.grid(axis="y", alpha=0.6)
        axes.legend(ncols=3, loc="upper left")
        axes.set_ylim(0, 1)
        return canvas

    odds = {title: values["equalized odds"]["value"] for title, values in entries}
    words = "; ".join(
        f"{title}: equalized odds " + ("not measurable" if value is None else f"{value:.2f}")
        for title, value in odds.items()
    )
    return Figure(
        "fairness",
        "Largest differences between groups by criterion, with bootstrap intervals",
        f"Bars of five criteria for each head by the other two attributes. {words}.",
        entries,
        draw,
    )


def losses(report: Json) -> Figure:
    """The report's figure 4.1: training and holdout loss by task and epoch."""
    history = report["history"]

    def draw() -> Canvas:
        canvas = _canvas(12, 3.8)
        epochs = [entry["epoch"] for entry in history]
        changes = [
            later["epoch"]
            for before, later in zip(history, history[1:], strict=False)
            if before["image_size"] != later["image_size"]
        ]
        for axes, task in zip(canvas.subplots(1, 3), TASKS, strict=True):
            for key, style, marker in (("train_loss", "-", "o"), ("holdout_loss", "--", "s")):
                axes.plot(
                    epochs,
                    [entry[key][task.name] for entry in history],
                    color=COLOURS[task.name],
                    linestyle=style,
                    marker=marker,
                    markersize=3.5,
                    label="training" if key == "train_loss" else "holdout",
                )
            for epoch in changes:
                axes.axvline(epoch - 0.5, color="#888888", linestyle=":")
            axes.set_title(TITLES[task.name])
            axes.set_xlabel("epoch")
            axes.set_ylabel("loss, nats")
            axes.grid(alpha=0.6)
            axes.legend()
        return canvas

    ends = "; ".join(
        f"{TITLES[t.name]} {history[0]['train_loss'][t.name]:.2f} to "
        f"{history[-1]['train_loss'][t.name]:.2f} in training, "
        f"{history[0]['holdout_loss'][t.name]:.2f} to {history[-1]['holdout_loss'][t.name]:.2f} on "
        "the holdout"
        for t in TASKS
    )
    return Figure(
        "losses",
        "Training and holdout loss by task; dotted lines mark a change of the input size",
        f"Loss by epoch, one panel for each task. {ends}.",
        history,
        draw,
    )


def _shares(counts: Mapping[str, int]) -> list[float]:
    total = sum(counts.values())
    return [count / total for count in counts.values()]


def label_distributions(split: str, facts: Json) -> Figure:
    """The report's figures 3.2 (training labels) and 3.5 (validation labels)."""
    counts = {task.name: facts["counts"][task.name] for task in (AGE, RACE, GENDER)}

    def draw() -> Canvas:
        canvas = _canvas(12, 3.8)
        panels = canvas.subplots(1, 3, width_ratios=(9, 7, 3))
        for axes, (name, found) in zip(panels, counts.items(), strict=True):
            names = [display(name, label) for label in found]
            bars = axes.bar(names, list(found.values()), color=COLOURS[name])
            axes.bar_label(bars, [f"{share:.1%}" for share in _shares(found)], size=7.5)
            axes.set_title(TITLES[name])
            axes.tick_params(axis="x", rotation=40)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
            axes.grid(axis="y", alpha=0.6)
        panels[0].set_ylabel("faces")
        return canvas

    def extremes(name: str, found: Mapping[str, int]) -> str:
        total = sum(found.values())
        low, high = min(found, key=lambda k: found[k]), max(found, key=lambda k: found[k])
        return (
            f"{TITLES[name]}: from {display(name, low)} with {found[low] / total:.1%} to "
            f"{display(name, high)} with {found[high] / total:.1%}"
        )

    spans = "; ".join(extremes(*item) for item in counts.items())
    return Figure(
        f"labels-{split}",
        f"Age, race and gender labels of the {split} split",
        f"Bars of the number of faces by label. {spans}.",
        counts,
        draw,
    )


def _crossed(facts: Json, one: Task, other: Task) -> list[list[int]]:
    """Counts of `one`'s classes down and `other`'s across, from the labels' intersections."""
    first, second = (
        (one, other) if f"{one.name} × {other.name}" in facts["counts"] else (other, one)
    )
    joint = facts["counts"][f"{first.name} × {second.name}"]
    table = [[joint[f"{a} × {b}"] for b in second.classes] for a in first.classes]
    return table if first is one else [list(line) for line in zip(*table, strict=True)]


def gender_by_age_and_race(split: str, facts: Json) -> Figure:
    """The report's figures 3.3 and 3.6."""
    data = {task.name: _crossed(facts, task, GENDER) for task in (AGE, RACE)}

    def draw() -> Canvas:
        canvas = _canvas(12, 3.8)
        for axes, task in zip(canvas.subplots(1, 2), (AGE, RACE), strict=True):
            shares = np.array([np.array(line) / sum(line) for line in data[task.name]])
            left = np.zeros(len(shares))
            names = [
                f"{n} ({sum(line):,})"
                for n, line in zip(_names(task), data[task.name], strict=True)
            ]
            for index, gender in enumerate(GENDER.classes):
                bars = axes.barh(
                    names, shares[:, index], left=left, color=GENDER_COLOURS[index], label=gender
                )
                axes.bar_label(
                    bars, [f"{s:.0%}" for s in shares[:, index]], label_type="center", size=8
                )
                left += shares[:, index]
            axes.invert_yaxis()
            axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
            axes.set_xlim(0, 1)
            axes.set_xlabel("share of the faces")
            axes.set_title(f"by {TITLES[task.name].lower()}")
        canvas.legend(
            *canvas.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2
        )
        return canvas

    def span(task: Task) -> str:
        shares = {
            n: line[0] / sum(line) for n, line in zip(_names(task), data[task.name], strict=True)
        }
        low, high = min(shares, key=lambda k: shares[k]), max(shares, key=lambda k: shares[k])
        return (
            f"the male share by {TITLES[task.name].lower()} runs from {shares[low]:.0%} ({low}) to "
            f"{shares[high]:.0%} ({high})"
        )

    return Figure(
        f"labels-{split}-gender",
        f"Gender labels by age group and by race, {split} split (faces)",
        f"Stacked bars of the share of each gender; {span(AGE)}; {span(RACE)}.",
        data,
        draw,
    )


def age_by_race(split: str, facts: Json) -> Figure:
    """The report's figures 3.4 and 3.7."""
    table = _crossed(facts, RACE, AGE)

    def draw() -> Canvas:
        canvas = _canvas(9, 4)
        axes = canvas.subplots()
        shares = [[count / sum(line) for count in line] for line in table]
        rows = [f"{n} ({sum(line):,})" for n, line in zip(_names(RACE), table, strict=True)]
        texts = [[f"{share:.1%}" for share in line] for line in shares]
        _shades(
            axes, [[share / 0.5 for share in line] for line in shares], rows, _names(AGE), texts
        )
        axes.set_xlabel("age group")
        axes.set_ylabel("race (faces)")
        return canvas

    def commonest(line: Sequence[int]) -> str:
        return _names(AGE)[int(np.argmax(line))]

    words = ", ".join(
        f"{name} {commonest(line)}" for name, line in zip(_names(RACE), table, strict=True)
    )
    return Figure(
        f"labels-{split}-age-by-race",
        f"Age labels by race, {split} split, percent of each race's faces",
        f"A shaded table of the share of each age group within each race. The commonest: {words}.",
        table,
        draw,
    )


PIPELINE = (
    ("Picture", "bytes to upright RGB,\nsize limits"),
    ("Detection", "YuNet (5 landmarks)\nor Haar cascade"),
    ("Alignment", "turned and cut out\nlike FairFace's chips"),
    ("Network", "one backbone,\nthree heads"),
    ("Calibration", "temperature, softmax,\nthreshold for “unsure”"),
    ("Result", "gender, age group, race\nwith probabilities"),
)


def pipeline() -> Figure:
    """The report's figure 3.8: from picture to result."""

    def draw() -> Canvas:
        canvas = _canvas(12, 1.9)
        axes = canvas.subplots()
        axes.set_axis_off()
        for index, (title, text) in enumerate(PIPELINE):
            box = FancyBboxPatch(
                (index * 2.2, 0),
                1.8,
                1,
                boxstyle="round,pad=0.08",
                facecolor="#EAF3FA",
                edgecolor="#0072B2",
            )
            axes.add_patch(box)
            axes.text(index * 2.2 + 0.9, 0.78, title, ha="center", weight="bold")
            axes.text(index * 2.2 + 0.9, 0.28, text, ha="center", va="center", size=8)
            if index:
                axes.annotate(
                    "",
                    (index * 2.2 - 0.1, 0.5),
                    (index * 2.2 - 0.3, 0.5),
                    arrowprops={"arrowstyle": "->", "color": INK},
                )
        axes.set_xlim(-0.2, len(PIPELINE) * 2.2 - 0.2)
        axes.set_ylim(-0.2, 1.2)
        return canvas

    steps = ", ".join(f"{title.lower()} ({' '.join(text.split())})" for title, text in PIPELINE)
    return Figure(
        "pipeline", "From picture to result", f"Six boxes in a row: {steps}.", PIPELINE, draw
    )


def data_figures(labels: Json) -> dict[str, Figure]:
    """The report's figures 3.2 to 3.8 by number; counts of `python -m train imbalance`."""
    train, validation = labels["splits"]["train"], labels["splits"]["validation"]
    return {
        "3.2": label_distributions("train", train),
        "3.3": gender_by_age_and_race("train", train),
        "3.4": age_by_race("train", train),
        "3.5": label_distributions("validation", validation),
        "3.6": gender_by_age_and_race("validation", validation),
        "3.7": age_by_race("validation", validation),
        "3.8": pipeline(),
    }


def result_figures(report: Json) -> dict[str, Figure]:
    """The report's figures 4.1 to 4.4 by number and ours by name, where there is data."""
    found = {}
    if "history" in report:
        found["4.1"] = losses(report)
    found |= {
        "4.2": confusion_overall(report),
        "4.3": confusion_by_gender(report, AGE),
        "4.4": confusion_by_gender(report, RACE),
        "subgroups": subgroups(report),
        "reliability": reliability(report),
        "risk-coverage": risk_coverage(report),
        "group-accuracy": group_accuracy(report),
        "fairness": fairness(report),
    }
    if "robustness" in report:
        found["robustness"] = robustness(report)
    return found


def card_figures(report: Json) -> list[Figure]:
    """Those of `result_figures` that a model card shows."""
    kept = (
        "4.1",
        "4.2",
        "group-accuracy",
        "fairness",
        "reliability",
        "risk-coverage",
        "robustness",
    )
    found = result_figures(report)
    return [found[name] for name in kept if name in found]


def write_figures(figures: Sequence[Figure], folder: Path, endings: Sequence[str]) -> None:
    """Draw figures into a folder, and take away pictures there that are none of them."""
    wanted = {f"{figure.name}.{ending}" for figure in figures for ending in endings}
    for path in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if path.name not in wanted:
            path.unlink()
    for figure in figures:
        figure.save(folder, endings)
