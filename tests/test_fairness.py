"""Fairness criteria against plain loops, against fairlearn's binary ones, and on made-up worlds."""

from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
from fairlearn.metrics import (
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from predictions_table import columns, table

from faceattr.labels import AGE, GENDER, RACE, TASKS
from train.evaluate.fairness import GROUPINGS, difference_if_equal, fairness, title
from train.evaluate.predictions import Predictions, read_predictions

ROWS = 1500


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    path = tmp_path_factory.mktemp("fairness") / "p.parquet"
    pq.write_table(table(columns(rows=ROWS, seed=4)), path)
    return read_predictions(path)


@pytest.fixture(scope="module")
def found(predictions):
    return fairness(predictions, draws=60)


def faces(predictions, task):
    """Label, answer and all attributes of each face, as plain tuples."""
    answers = predictions.predicted(task).tolist()
    attributes = {t.name: predictions.true[t.name].tolist() for t in TASKS}
    return [
        (attributes[task.name][k], answers[k], {name: v[k] for name, v in attributes.items()})
        for k in range(predictions.rows)
    ]


def by_group(predictions, task, grouping):
    groups = {}
    for label, answer, attributes in faces(predictions, task):
        key = tuple(attributes[t.name] for t in grouping)
        groups.setdefault(key, []).append((label, answer))
    return groups


def spread(rates):
    """Difference and ratio of rates given as (hits, base) pairs, those on 30 faces or more."""
    shares = [hits / base for hits, base in rates if base >= 30]
    if len(shares) < 2:
        return None, None
    return max(shares) - min(shares), min(shares) / max(shares) if max(shares) else None


def close(entry, expected):
    if expected is None:
        assert entry["value"] is None
    else:
        assert entry["value"] == pytest.approx(expected)
        assert entry["low"] <= entry["high"]


def test_every_attribute_and_intersection_is_there(found):
    names = {"gender", "race", "age", "gender × race", "gender × age", "race × age"}
    for task in TASKS:
        assert set(found[task.name]) == names | {"gender × race × age"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=title)
def test_accuracy_by_group_agrees_with_plain_loops(predictions, found, task, grouping):
    entry = found[task.name][title(grouping)]["accuracy"]
    groups = by_group(predictions, task, grouping)
    right = {key: (sum(a == b for a, b in pairs), len(pairs)) for key, pairs in groups.items()}
    difference, ratio = spread(right.values())
    close(entry["difference"], difference)
    close(entry["ratio"], ratio)
    assert entry["groups"] == len(groups)
    assert entry["few"] == sum(base < 30 for _, base in right.values())
    large = {key: hits / base for key, (hits, base) in right.items() if base >= 30}
    if large:
        assert entry["worst"]["accuracy"] == pytest.approx(min(large.values()))
        worst = tuple(t.index(n) for t, n in zip(grouping, entry["worst"]["group"], strict=True))
        assert large[worst] == min(large.values())
    for cell in entry["by_group"]:
        key = tuple(t.index(n) for t, n in zip(grouping, cell["group"], strict=True))
        assert (cell["correct"], cell["n"]) == right[key]


@pytest.mark.parametrize(
    ("task", "grouping"),
    [pair for pair in product(TASKS, GROUPINGS) if pair[0] not in pair[1]],
    ids=lambda value: value.name if hasattr(value, "name") else title(value),
)
def test_criteria_by_class_agree_with_plain_loops(predictions, found, task, grouping):
    entry = found[task.name][title(grouping)]
    groups = by_group(predictions, task, grouping).values()
    largest = {"parity": [], "positives": [], "odds": []}
    for c in range(len(task.classes)):
        parity = spread([(sum(b == c for _, b in g), len(g)) for g in groups])
        labels = spread([(sum(a == c for a, _ in g), len(g)) for g in groups])
        of_class = [[b for a, b in g if a == c] for g in groups]
        others = [[b for a, b in g if a != c] for g in groups]
        positives = spread([(g.count(c), len(g)) for g in of_class])[0]
        negatives = spread([(g.count(c), len(g)) for g in others])[0]
        known = [value for value in (positives, negatives) if value is not None]
        odds = max(known) if known else None
        close(entry["demographic_parity"]["by_class"][c]["difference"], parity[0])
        close(entry["demographic_parity"]["by_class"][c]["ratio"], parity[1])
        close(entry["labels"]["by_class"][c]["difference"], labels[0])
        close(entry["equal_opportunity"]["by_class"][c]["difference"], positives)
        close(entry["equalized_odds"]["by_class"][c]["difference"], odds)
        for name, value in (("parity", parity[0]), ("positives", positives), ("odds", odds)):
            largest[name] += [value] if value is not None else []
    close(entry["demographic_parity"]["difference"], max(largest["parity"], default=None))
    close(entry["equal_opportunity"]["difference"], max(largest["positives"], default=None))
    close(entry["equalized_odds"]["difference"], max(largest["odds"], default=None))


@pytest.mark.parametrize("grouping", [RACE, AGE], ids=lambda task: task.name)
def test_for_two_classes_the_criteria_are_fairlearns(predictions, found, grouping):
    entry = found["gender"][grouping.name]
    # Class Female, position 1, is what fairlearn takes for the favourable answer.
    given = {"y_true": predictions.true["gender"], "y_pred": predictions.predicted(GENDER)}
    given["sensitive_features"] = predictions.true[grouping.name]
    parity = entry["demographic_parity"]["by_class"][1]
    assert parity["difference"]["value"] == pytest.approx(demographic_parity_difference(**given))
    assert parity["ratio"]["value"] == pytest.approx(demographic_parity_ratio(**given))
    opportunity = entry["equal_opportunity"]["by_class"][1]["difference"]["value"]
    assert opportunity == pytest.approx(equal_opportunity_difference(**given))
    odds = entry["equalized_odds"]["by_class"][1]["difference"]["value"]
    assert odds == pytest.approx(equalized_odds_difference(**given))


def world(accuracy_of_group, rows=4000):
    """Answers on gender that are right as often as the race says."""
    rng = np.random.default_rng(1)
    true = {task.name: rng.integers(len(task.classes), size=rows) for task in TASKS}
    right = rng.random(rows) < np.array(accuracy_of_group)[true["race"]]
    answer = np.where(right, true["gender"], 1 - true["gender"])
    probabilities = {task.name: np.eye(len(task.classes))[true[task.name]] for task in TASKS}
    probabilities["gender"] = np.eye(2)[answer]
    return Predictions(("",) * rows, np.zeros(rows, bool), true, probabilities, {})


def test_a_perfect_classifier_is_fair_but_for_the_labels():
    entry = fairness(world([1.0] * 7), draws=30)["gender"]["race"]
    assert entry["accuracy"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert entry["equalized_odds"]["difference"]["value"] == 0.0
    assert entry["demographic_parity"] == entry["labels"]


def test_the_interval_holds_the_true_difference_and_the_worst_group_is_named():
    entry = fairness(world([0.95, 0.6, *[0.9] * 5]), draws=200)["gender"]["race"]["accuracy"]
    assert entry["worst"]["group"] == [RACE.classes[1]]
    assert entry["best"]["group"] == [RACE.classes[0]]
    assert entry["difference"]["low"] < 0.35 < entry["difference"]["high"]
    assert entry["difference"]["low"] > entry["if_equal"]["p95"]


def test_chance_alone_makes_small_groups_differ_more():
    small, large = difference_if_equal([40] * 7, 0.9), difference_if_equal([4000] * 7, 0.9)
    assert small["mean"] > 5 * large["mean"]
    # Two groups of n: the mean |difference| tends to 2 sqrt(p (1 - p) / (pi n)).
    expected = 2 * np.sqrt(0.09 / (np.pi * 1000))
    assert difference_if_equal([1000, 1000], 0.9)["mean"] == pytest.approx(expected, rel=0.08)
