"""Figures of the labels: the report's 3.2 to 3.7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from faceattr.labels import AGE, GENDER, RACE, Task
from train.report.plots import COLOURS, INK, Figure, canvas_of, names_of, shades
from train.report.sections import TITLES, Json, display

GENDER_COLOURS = ("#56B4E9", "#E69F00")


def _shares(counts: Mapping[str, int]) -> list[float]:
    total = sum(counts.values())
    return [count / total for count in counts.values()]


def label_distributions(split: str, facts: Json) -> Figure:
    """The report's figures 3.2 (training labels) and 3.5 (validation labels)."""
    counts = {task.name: facts["counts"][task.name] for task in (AGE, RACE, GENDER)}

    def draw() -> Canvas:
        canvas = canvas_of(12, 3.8)
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
        canvas = canvas_of(12, 3.8)
        for axes, task in zip(canvas.subplots(1, 2), (AGE, RACE), strict=True):
            shares = np.array([np.array(line) / sum(line) for line in data[task.name]])
            left = np.zeros(len(shares))
            pairs = zip(names_of(task), data[task.name], strict=True)
            names = [f"{n} ({sum(line):,})" for n, line in pairs]
            for index, gender in enumerate(GENDER.classes):
                part, colour = shares[:, index], GENDER_COLOURS[index]
                bars = axes.barh(names, part, left=left, color=colour, label=gender)
                axes.bar_label(bars, [f"{s:.0%}" for s in part], label_type="center", size=8)
                left += part
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
            n: line[0] / sum(line) for n, line in zip(names_of(task), data[task.name], strict=True)
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
        canvas = canvas_of(9, 4)
        axes = canvas.subplots()
        shares = [[count / sum(line) for count in line] for line in table]
        rows = [f"{n} ({sum(line):,})" for n, line in zip(names_of(RACE), table, strict=True)]
        texts = [[f"{share:.1%}" for share in line] for line in shares]
        shades(
            axes, [[share / 0.5 for share in line] for line in shares], rows, names_of(AGE), texts
        )
        axes.set_xlabel("age group")
        axes.set_ylabel("race (faces)")
        return canvas

    def commonest(line: Sequence[int]) -> str:
        return names_of(AGE)[int(np.argmax(line))]

    words = ", ".join(
        f"{name} {commonest(line)}" for name, line in zip(names_of(RACE), table, strict=True)
    )
    return Figure(
        f"labels-{split}-age-by-race",
        f"Age labels by race, {split} split, percent of each race's faces",
        f"A shaded table of the share of each age group within each race. The commonest: {words}.",
        table,
        draw,
    )


def data_figures(labels: Json) -> dict[str, Figure]:
    """The report's figures 3.2 to 3.7 by number; counts of `python -m train imbalance`."""
    train, validation = labels["splits"]["train"], labels["splits"]["validation"]
    return {
        "3.2": label_distributions("train", train),
        "3.3": gender_by_age_and_race("train", train),
        "3.4": age_by_race("train", train),
        "3.5": label_distributions("validation", validation),
        "3.6": gender_by_age_and_race("validation", validation),
        "3.7": age_by_race("validation", validation),
    }
