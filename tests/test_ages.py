"""The likeliest range of neighbouring age groups, against every range tried one by one."""

import json
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from predictions_table import columns, table

from faceattr.ages import UNDER_20, UNDER_20_LEVEL, likeliest_range
from faceattr.labels import AGE
from scripts.measure_age_range import main


def named(values):
    return dict(zip(AGE.classes, values, strict=True))


def draws(count):
    rng = np.random.default_rng(0)
    return [named(rng.dirichlet(np.full(9, a))) for a in (0.1, 0.5, 2) for _ in range(count)]


@pytest.mark.parametrize("level", [0.0, 0.3, 0.8, 0.99])
def test_no_other_range_is_shorter_or_as_short_and_likelier(level):
    for probabilities in draws(100):
        found = likeliest_range(probabilities, level=level)
        values = list(probabilities.values())
        holding = [
            (j - i, -sum(values[i:j]), i)
            for i, j in combinations(range(10), 2)
            if sum(values[i:j]) >= level - 1e-12
        ]
        length, total, start = min(holding)
        assert len(found.groups) == length
        assert found.probability == pytest.approx(-total)
        assert found.groups == AGE.classes[start : start + length]


def test_a_range_is_written_in_years():
    probabilities = named([0, 0, 0.02, 0.4, 0.43, 0.15, 0, 0, 0])
    found = likeliest_range(probabilities)
    assert (found.label, found.first_year, found.last_year) == ("20-39", 20, 39)
    assert found.to_dict() == {
        "label": "20-39",
        "first_year": 20,
        "last_year": 39,
        "groups": ["20-29", "30-39"],
        "probability": 0.83,
        "may_be_under_20": False,
    }
    oldest = likeliest_range(named([0, 0, 0, 0, 0, 0, 0.1, 0.3, 0.6]))
    assert (oldest.label, oldest.last_year) == ("60+", None)
    assert likeliest_range(named([1, 0, 0, 0, 0, 0, 0, 0, 0])).label == "0-2"


def test_rounding_leaves_no_face_without_a_range():
    values = np.full(9, 1 / 9) * (1 - 1e-7)
    found = likeliest_range(named(values), level=1.0)
    assert found.groups == AGE.classes


def test_whoever_may_be_under_20_is_flagged_whatever_the_likeliest_group():
    adult = named([0, 0, UNDER_20_LEVEL, 1 - UNDER_20_LEVEL, 0, 0, 0, 0, 0])
    assert likeliest_range(adult).label == "20-29"
    assert likeliest_range(adult).may_be_under_20
    assert not likeliest_range(named([0, 0, 0.01, 0.99, 0, 0, 0, 0, 0])).may_be_under_20
    young = [p for p in draws(50) if max(p, key=p.get) in UNDER_20]
    assert len(young) > 20
    assert all(likeliest_range(probabilities).may_be_under_20 for probabilities in young)


def write_table(path, part, rows=2000):
    """A predictions table of faces whose labels are drawn from their own probabilities."""
    rng = np.random.default_rng(1)
    values = rng.dirichlet(np.full(9, 0.3), rows)
    true = [AGE.classes[rng.choice(9, p=row)] for row in values]
    ages = {f"age:{name}": values[:, i] for i, name in enumerate(AGE.classes)}
    data = {**columns(rows), **ages, "age_true": true}
    dataset = {"id": "fairface", "config": "0.25", "split": part, "revision": None, "rows": rows}
    pq.write_table(table(data, model="made-up", dataset=dataset), path)
    return [(named(row), label) for row, label in zip(values, true, strict=True)]


def test_the_command_counts_what_ranges_hold(tmp_path):
    holdout, validation = tmp_path / "holdout.parquet", tmp_path / "validation.parquet"
    write_table(holdout, "holdout")
    faces = write_table(validation, "validation")
    output = tmp_path / "age.json"
    assert main([str(holdout), str(validation), "--output", str(output)]) == 0
    found = json.loads(output.read_text())["networks"]["made-up"]
    held = [label in likeliest_range(row).groups for row, label in faces]
    assert found["validation"]["coverage"]["accuracy"] == pytest.approx(np.mean(held), abs=1e-4)
    young = [likeliest_range(row).may_be_under_20 for row, label in faces if label in UNDER_20]
    assert found["validation"]["flagged_of_under_20"]["n"] == len(young)
    assert found["validation"]["flagged_of_under_20"]["accuracy"] == pytest.approx(
        np.mean(young), abs=1e-4
    )
    # Labels follow the probabilities, so a level holds at least its own share of them.
    assert len(found["holdout"]["levels"]) > 1
    for tried in found["holdout"]["levels"]:
        assert tried["coverage"] == pytest.approx(tried["stated"], abs=0.06)
        assert tried["stated"] >= tried["level"]
