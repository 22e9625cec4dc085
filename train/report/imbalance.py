"""How unevenly the labels of a data set are spread (report, sections 2.1 and 3.4.1).

Reads label files (CSV with the columns file, age, gender, race, service_test) or streams the
labels of a Hub data set or folder; prints the six figures of the report's Tables 3.2 and 3.3
for each attribute, and for all their intersections.
"""

from __future__ import annotations

import argparse
import csv
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from faceattr.audit.measures import MEASURES, figures
from faceattr.errors import LabelError
from faceattr.labels import AGE, GENDER, RACE, Task
from train.report import reference as published
from train.report.sections import render
from train.tables import TableError, markdown_table, rounded, write_json, write_text

ATTRIBUTES: tuple[Task, ...] = (AGE, GENDER, RACE)
"""In the order of the report's tables."""

COLUMNS = ("file", "age", "gender", "race", "service_test")


def imbalance(counts: Mapping[str, int]) -> dict[str, float]:
    """The six figures of the report's section 2.1; `faceattr.audit.measures` has the formulas.

    Section 2.1.4 does not state the entropy's base; its tables use 2. Section 2.1.5 states the Gini
    index as here, and describes its range the wrong way round.

    Args:
        counts: instances by class; a class without instances counts as a class.

    Raises:
        ValueError: for no classes, a negative count or no instances at all.
    """
    values = np.array(list(counts.values()), dtype=np.float64)
    if not len(values) or values.min() < 0 or values.sum() == 0:
        raise ValueError(f"expected counts of at least one instance, came {dict(counts)}")
    return {name: float(value) for name, value in figures(values / values.sum()).items()}


@dataclass(frozen=True)
class Labels:
    """How often each combination of labels occurs in the split `name`.

    `joint` holds faces by (age, gender, race), `service_test` those with that mark.
    """

    name: str
    joint: Mapping[tuple[str, ...], int]
    service_test: int

    @property
    def rows(self) -> int:
        """Number of faces."""
        return sum(self.joint.values())

    def counts(self, *tasks: Task) -> dict[str, int]:
        """Faces by class, or by combination of classes, in canonical order, zeros included."""
        positions = [ATTRIBUTES.index(task) for task in tasks]
        found: Counter[tuple[str, ...]] = Counter()
        for combination, count in self.joint.items():
            found[tuple(combination[position] for position in positions)] += count
        cells = product(*(task.classes for task in tasks))
        return {" × ".join(cell): found[cell] for cell in cells}


def read_labels(path: Path) -> Labels:
    """Count the labels of a CSV file with the columns of `COLUMNS`.

    Raises:
        TableError: naming a missing column, or the line of an unknown label or repeated file.
    """
    joint: Counter[tuple[str, ...]] = Counter()
    canonical = {task.name: functools.cache(_canonical(task)) for task in ATTRIBUTES}
    files: set[str] = set()
    marked = 0
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise TableError(f"{path}: expected the columns {list(COLUMNS)}, {missing} missing")
        for row in reader:
            line = f"{path}, line {reader.line_num}"
            try:
                joint[tuple(of(row[name] or "") for name, of in canonical.items())] += 1
            except LabelError as error:
                raise TableError(f"{line}: {error}") from error
            if (mark := row["service_test"]) not in ("True", "False"):
                raise TableError(f"{line}: service_test must be True or False, came {mark!r}")
            if row["file"] in files:
                raise TableError(f"{line}: {row['file']!r} came before")
            files.add(row["file"])
            marked += mark == "True"
    if not joint:
        raise TableError(f"{path}: no rows below the header")
    return Labels(path.stem, joint, marked)


def _canonical(task: Task) -> Callable[[str], str]:
    return lambda spelling: task.classes[task.index(spelling)]


def stream_labels(path: str, config: str, revision: str | None, split: str) -> Labels:
    """Count the labels of a split of a Hub data set or folder; pictures are not read."""
    # Reading label files needs neither datasets nor torch, which it imports.
    from train.data.source import Source

    rows = Source(path, config, revision).pinned().stream(split, columns=list(COLUMNS[1:]))
    maps = {t.name: t.indices(rows.features[t.name].names) for t in ATTRIBUTES}
    joint: Counter[tuple[str, ...]] = Counter()
    marked = 0
    for row in rows:
        joint[tuple(t.classes[maps[t.name][row[t.name]]] for t in ATTRIBUTES)] += 1
        marked += bool(row["service_test"])
    return Labels(split, joint, marked)


def _intersections() -> list[tuple[Task, ...]]:
    return [chosen for size in (2, 3) for chosen in combinations(ATTRIBUTES, size)]


def _title(tasks: Sequence[Task]) -> str:
    return " × ".join(task.name for task in tasks)


def describe(splits: Iterable[Labels]) -> dict[str, Any]:
    """Counts and figures of every attribute and intersection by split, JSON-ready."""
    groups = [*((task,) for task in ATTRIBUTES), *_intersections()]
    return {
        labels.name: {
            "rows": labels.rows,
            "service_test_rows": labels.service_test,
            "imbalance": {_title(g): imbalance(labels.counts(*g)) for g in groups},
            "counts": {_title(g): labels.counts(*g) for g in groups},
        }
        for labels in splits
    }


def differences(labels: Labels) -> list[str]:
    """Where a split's figures, to six decimals, differ from the report's Table 3.2."""
    found = []
    for task in ATTRIBUTES:
        here = imbalance(labels.counts(task))
        for (key, heading), printed in zip(
            MEASURES.items(), published.TABLE_3_2[task.name], strict=True
        ):
            if f"{here[key]:.6f}" != f"{printed:.6f}":
                found.append(f"{task.name}, {heading}: {here[key]:.6f}, printed {printed:.6f}")
    return found


def figures_table(labels: Labels, groups: Iterable[Sequence[Task]]) -> str:
    """The figures of one split as a Markdown table, one line for each attribute or group."""
    rows = []
    for tasks in groups:
        counts = labels.counts(*tasks)
        sizes = (len(counts), min(counts.values()), max(counts.values()))
        found = imbalance(counts).values()
        rows.append([_title(tasks), *(f"{n:,}" for n in sizes), *(f"{v:.6f}" for v in found)])
    header = ["", "Cells", "Smallest", "Largest", *MEASURES.values()]
    return markdown_table(header, rows)


def _counts_table(splits: Sequence[Labels], task: Task) -> str:
    counts = [labels.counts(task) for labels in splits]
    rows = [
        [task.display_name(name)]
        + [
            f"{found[name]:,} ({found[name] / labels.rows:.2%})"
            for found, labels in zip(counts, splits, strict=True)
        ]
        for name in task.classes
    ]
    return markdown_table([task.name, *(labels.name for labels in splits)], rows)


def document(splits: Sequence[Labels], sources: Sequence[str], command: str) -> str:
    """A Markdown page with all tables of these splits and the comparison with the report."""

    def sections(groups: Sequence[Sequence[Task]]) -> str:
        return "\n\n".join(f"### {s.name}\n\n{figures_table(s, groups)}" for s in splits)

    return render(
        "data.md",
        command=command,
        sources=" and ".join(f"`{source}`" for source in sources),
        rows=markdown_table(
            ["", "faces", "of these `service_test`"],
            [[s.name, f"{s.rows:,}", f"{s.service_test:,}"] for s in splits],
        ),
        counts="\n\n".join(_counts_table(splits, task) for task in ATTRIBUTES),
        by_attribute=sections([(task,) for task in ATTRIBUTES]),
        printed=sum(len(row) for row in published.TABLE_3_2.values()),
        agreement={labels.name: differences(labels) for labels in splits},
        intersections=sections(_intersections()),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train imbalance`."""
    parser.add_argument("labels", nargs="*", type=Path, help="CSV files, one for each split")
    parser.add_argument("--data", help="instead of files: Hub id or folder, both splits")
    parser.add_argument("--data-config", default="0.25", help="margin (%(default)s)")
    parser.add_argument("--data-revision", help="commit of a Hub data set")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write counts and figures")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write a page with all tables")


def _load(args: argparse.Namespace) -> tuple[list[Labels], list[str]]:
    if bool(args.labels) == bool(args.data):
        raise TableError("give either label files or --data, and not both")
    if args.data:
        splits = [
            stream_labels(args.data, args.data_config, args.data_revision, split)
            for split in ("train", "validation")
        ]
        return splits, [Path(args.data).name if Path(args.data).is_dir() else args.data]
    splits = [read_labels(path) for path in args.labels]
    if len({labels.name for labels in splits}) != len(splits):
        raise TableError("label files name the splits, so their names must differ")
    return splits, [path.name for path in args.labels]


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train imbalance`."""
    splits, sources = _load(args)
    for labels in splits:
        groups = [*((task,) for task in ATTRIBUTES), *_intersections()]
        text = f"{labels.name}: {labels.rows:,} faces\n\n{figures_table(labels, groups)}\n\n"
        sys.stdout.write(text)
    if args.json:
        write_json(args.json, {"schema": 1, "splits": rounded(describe(splits))})
    if args.markdown:
        given = "--data " + sources[0] if args.data else " ".join(sources)
        command = f"python -m train imbalance {given} --markdown {args.markdown.name}"
        write_text(args.markdown, document(splits, sources, command))
