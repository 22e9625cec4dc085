"""Figures of results, from report.json: the report's 4.1 to 4.4 and ours."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from faceattr.labels import AGE, GENDER, RACE, TASKS, Task
from train.evaluate.cells import FEW_FACES
from train.report.plots import (
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    PANEL,
    Figure,
    canvas_of,
    shades,
)
from train.report.sections import TITLES, Json, display, percent


def _look(task: str) -> dict[str, Any]:
    """What tells a task's lines apart."""
    return {"color": COLOURS[task], "marker": MARKERS[task]}


def _finish(axes: Axes, across: str, up: str = "", legend: str | None = None) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.6)
    if legend:
        axes.legend(loc=legend)


def _confusion(axes: Axes, matrix: Json, task: str, title: str) -> None:
    names = [display(task, name) for name in matrix["classes"]]
    totals = [sum(line) for line in matrix["counts"]]
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals, strict=True)]
    texts = [
        ["" if share is None else percent(share, 0) for share in line] for line in matrix["shares"]
    ]
    shades(axes, matrix["shares"], rows, names, texts)
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
        canvas = canvas_of(15, 5)
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
        canvas = canvas_of(13, 5.2)
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


def reliability(report: Json) -> Figure:
    """Accuracy against claimed probability."""
    data = {task.name: report["calibration"][task.name] for task in TASKS}
    bins = {name: found["reliability"] for name, found in data.items()}

    def draw() -> Canvas:
        canvas = canvas_of(11, 4)
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
            points = [(e["confidence"], e["accuracy"]) for e in filled]
            axes.plot(*zip(*points, strict=True), **_look(name), label="accuracy")
            few = [e for e in filled if e["n"] < FEW_FACES]
            places = [e["confidence"] for e in few], [e["accuracy"] for e in few]
            look: dict[str, Any] = {**_look(name), "markerfacecolor": PANEL, "linestyle": ""}
            axes.plot(*places, **look, label=f"fewer than {FEW_FACES} faces")
            error = data[name]["expected_calibration_error"]
            axes.set_title(f"{TITLES[name]}, error {error:.3f}")
            _finish(axes, "probability of the answer", legend="upper left")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
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
        canvas = canvas_of(7.5, 4.6)
        axes = canvas.subplots()
        for name, found in data.items():
            curve, stored = found["curve"], found["stored"]
            points = [(p["coverage"], p["accuracy"]) for p in curve]
            words = f"{TITLES[name]} (aim {percent(found['aimed_accuracy'], 0)} %)"
            axes.plot(*zip(*points, strict=True), **_look(name), markevery=7, label=words)
            if stored["accuracy"]["n"]:
                at = (stored["coverage"]["accuracy"], stored["accuracy"]["accuracy"])
                axes.plot(*at, color=COLOURS[name], marker="*", markersize=16, linestyle="")
        axes.plot([], [], color=INK, marker="*", markersize=12, linestyle="", label="at threshold")
        across = "share of faces answered, surest first"
        _finish(axes, across, "accuracy of the answers", "lower left")
        axes.set_xlim(0, 1.02)
        return canvas

    points = "; ".join(
        f"{TITLES[n]}: {percent(f['stored']['coverage']['accuracy'], 0)} % answered at the stored "
        f"threshold"
        for n, f in data.items()
    )
    return Figure(
        "risk-coverage",
        "Accuracy against the share of faces answered",
        f"Three curves of accuracy against coverage; stars mark the stored thresholds. {points}.",
        data,
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
        canvas = canvas_of(12, 5.5)
        for axes, task in zip(canvas.subplots(1, 3, sharey=True), TASKS, strict=True):
            place, ticks = 0, []
            for attribute, cells in data[task.name].items():
                for cell in cells:
                    few = "†" if cell["n"] < FEW_FACES else ""
                    ticks.append((place, display(attribute, cell["group"][0]) + few))
                    axes.plot([cell["low"], cell["high"]], [place, place], color=COLOURS[task.name])
                    axes.plot(cell["accuracy"], place, **_look(task.name))
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


def losses(report: Json) -> Figure:
    """The report's figure 4.1: training and holdout loss by task and epoch."""
    history = report["history"]

    def draw() -> Canvas:
        canvas = canvas_of(12, 3.8)
        epochs = [entry["epoch"] for entry in history]
        changes = [
            later["epoch"]
            for before, later in zip(history, history[1:], strict=False)
            if before["image_size"] != later["image_size"]
        ]
        for axes, task in zip(canvas.subplots(1, 3), TASKS, strict=True):
            for key, style, marker in (("train_loss", "-", "o"), ("holdout_loss", "--", "s")):
                values = [entry[key][task.name] for entry in history]
                look: dict[str, Any] = {"linestyle": style, "marker": marker, "markersize": 3.5}
                words = "training" if key == "train_loss" else "holdout"
                axes.plot(epochs, values, color=COLOURS[task.name], label=words, **look)
            for epoch in changes:
                axes.axvline(epoch - 0.5, color="#888888", linestyle=":")
            axes.set_title(TITLES[task.name])
            _finish(axes, "epoch", "loss, nats", "best")
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


def result_figures(report: Json) -> dict[str, Figure]:
    """The report's figures 4.1 to 4.4 by number and ours by name, where there is data."""
    found = {}
    if "history" in report:
        found["4.1"] = losses(report)
    found |= {
        "4.2": confusion_overall(report),
        "4.3": confusion_by_gender(report, AGE),
        "4.4": confusion_by_gender(report, RACE),
        "reliability": reliability(report),
        "risk-coverage": risk_coverage(report),
        "group-accuracy": group_accuracy(report),
    }
    return found


def card_figures(report: Json) -> list[Figure]:
    """Those of `result_figures` that a model card shows."""
    kept = ("4.2", "group-accuracy", "reliability")
    found = result_figures(report)
    return [found[name] for name in kept if name in found]
