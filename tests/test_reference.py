"""The report's figures in `train/report/reference.py` are the ones it prints."""

import re
from pathlib import Path

import pytest

from faceattr.labels import AGE, GENDER, RACE
from train.report import reference as published
from train.tables import read_json


@pytest.fixture(scope="module")
def lines(report_text):
    return report_text.splitlines()


def table_above(lines, caption):
    """Rows of the tab-separated table that ends above its caption, first cells as keys."""
    end = next(i for i, line in enumerate(lines) if line.startswith(caption))
    start = end - 1
    while not lines[start].strip():
        start -= 1
    rows = []
    while "\t" in lines[start]:
        rows.insert(0, lines[start].split("\t"))
        start -= 1
    return rows[0], {row[0]: tuple(float(cell) for cell in row[1:]) for row in rows[1:]}


@pytest.mark.parametrize(
    ("number", "down", "across"),
    [("4.1", AGE, RACE), ("4.2", GENDER, RACE), ("4.3", GENDER, AGE)],
)
def test_subgroup_tables_are_as_printed_and_in_our_class_order(lines, number, down, across):
    header, rows = table_above(lines, f"Table {number}: ")
    assert [across.classes[across.index(name)] for name in header[1:]] == list(across.classes)
    assert [down.classes[down.index(name)] for name in rows] == list(down.classes)
    assert tuple(rows.values()) == published.SUBGROUPS[number]


def test_imbalance_figures_are_as_printed(lines):
    for caption in ("Table 3.2: ", "Table 3.3: "):
        _, rows = table_above(lines, caption)
        assert {name.lower(): row for name, row in rows.items()} == published.TABLE_3_2


def test_accuracies_and_size_are_as_printed(report_text):
    words = " ".join(report_text.split())
    gender, race, age = re.search(
        r"gender classification with an accuracy of ([\d.]+)%, followed by ethnicity and age group "
        r"with ([\d.]+)% and ([\d.]+)%",
        words,
    ).groups()
    found = {"gender": float(gender), "age": float(age), "race": float(race)}
    assert {name: round(100 * share, 2) for name, share in published.ACCURACY.items()} == found
    assert f"a total of {published.PARAMETERS} trainable parameters" in words


def test_the_confused_pairs_are_the_ones_named(report_text):
    words = " ".join(report_text.split())
    named = re.search(r"misclassifications were between the groups (.*?)\. There", words)[1]
    named = named.replace("Southeast Asia", "Southeast Asian").replace("Latino Hispanic", "Latino")
    assert named.count('"') == 2 * len(published.CONFUSED_RACES)
    for pair in published.CONFUSED_RACES:
        one, other = (name.replace("_Hispanic", "") for name in pair)
        assert f"{one} and {other}" in named


@pytest.mark.parametrize(
    ("number", "task", "down", "across"),
    [("4.1", "gender", AGE, RACE), ("4.2", "age", GENDER, RACE), ("4.3", "race", GENDER, AGE)],
)
def test_the_printed_tables_weighted_by_the_labels_give_the_printed_accuracies(
    number, task, down, across
):
    """So the tables are of the whole validation split and in the class order assumed."""
    path = Path(__file__).parents[1] / "docs" / "results" / "labels.json"
    counts = read_json(path)["splits"]["validation"]["counts"]
    total = 0.0
    for i, row in enumerate(down.classes):
        for j, column in enumerate(across.classes):
            joint = counts.get(f"{down.name} × {across.name}", {}).get(f"{row} × {column}")
            if joint is None:
                joint = counts[f"{across.name} × {down.name}"][f"{column} × {row}"]
            total += joint * published.SUBGROUPS[number][i][j]
    accuracy = total / published.VALIDATION_ROWS
    assert accuracy == pytest.approx(published.ACCURACY[task], abs=0.005)
