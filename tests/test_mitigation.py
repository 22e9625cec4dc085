import copy
import json

import pyarrow.parquet as pq
import pytest
from predictions_table import CONFIG, columns, table

from faceattr.labels import RACE, TASKS
from train.__main__ import main
from train.evaluate.predictions import read_predictions
from train.evaluate.report import evaluate
from train.report.mitigation import chosen, document, groups, lost, mean_error
from train.tables import TableError, write_json


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    path = tmp_path_factory.mktemp("mitigation") / "p.parquet"
    pq.write_table(table(columns(rows=1500)), path)
    return read_predictions(path)


@pytest.fixture(scope="module")
def base(predictions):
    return evaluate(predictions, draws=5)


def variant(base, split, recipe, group=0.0, overall=0.0):
    """A report whose worst race in race and overall accuracies are moved by so much."""
    report = copy.deepcopy(base)
    report["dataset"]["split"] = split
    report["weights_sha256"] = recipe
    report["training"] = {**CONFIG["training"], "recipe": recipe}
    if recipe != "control":
        report["training"]["settings"] = {**report["training"]["settings"], "child_gender": 3.0}
    report["fairness"]["race"]["race"]["accuracy"]["worst"]["accuracy"] += group
    for task in TASKS:
        report["overall"][task.name]["accuracy"] += overall
    return report


def both(base, **changes):
    return [
        [
            variant(base, split, "control"),
            *(variant(base, split, name, *moved) for name, moved in changes.items()),
        ]
        for split in ("holdout", "validation")
    ]


def test_the_four_groups_are_those_that_a_plain_count_finds(predictions, base):
    found = groups(base)
    for heading, task, attribute in (
        ("Race, worst race", "race", "race"),
        ("Gender, worst race", "gender", "race"),
        ("Age group, worst age group", "age", "age"),
    ):
        named = {t.name: t for t in TASKS}
        right = predictions.correct(named[task])
        shares = []
        for index, _ in enumerate(named[attribute].classes):
            rows = predictions.true[attribute] == index
            if rows.sum() >= 30:
                shares.append(right[rows].mean())
        assert found[heading]["accuracy"] == pytest.approx(min(shares), abs=1e-6)
    gender = next(t for t in TASKS if t.name == "gender")
    young = predictions.true["age"] < 2
    assert found["Gender, under ten"]["n"] == young.sum()
    expected = predictions.correct(gender)[young].mean()
    assert found["Gender, under ten"]["accuracy"] == pytest.approx(expected)
    assert mean_error(base) == pytest.approx(1 - sum(c["accuracy"] for c in found.values()) / 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"one": (0.06, -0.002), "two": (0.03, 0.0)}, 1),
        ({"one": (0.06, -0.004), "two": (0.03, -0.003)}, 2),
        ({"one": (0.06, -0.02), "two": (-0.01, 0.0)}, 0),
    ],
)
def test_the_choice_lowers_the_worst_errors_while_no_head_loses_much(base, changes, expected):
    holdout, _ = both(base, **changes)
    assert chosen(holdout) == expected


def test_a_loss_in_one_head_is_not_made_up_for_by_another(base):
    (control, one), _ = both(base, one=(0.1, 0.0))
    one["overall"]["gender"]["accuracy"] -= 0.01
    one["overall"]["race"]["accuracy"] += 0.05
    assert lost(one, control) == pytest.approx(0.01)
    assert chosen([control, one]) == 0


def test_the_page_gives_every_group_with_its_change(base, tmp_path):
    holdout, validation = both(base, fair=(0.06, -0.002))
    text = document(holdout, validation, "Seen before.")
    worst = base["fairness"]["race"]["race"]["accuracy"]["worst"]
    error = f"{100 * (1 - worst['accuracy'] - 0.06):.1f} (-6.0) of {worst['n']}"
    assert f"| {RACE.display_name(worst['group'][0])}: {error} |" in text
    assert '- `fair`: `{"child_gender": 3.0}`' in text
    assert "weights of **`fair`** are taken" in text
    paths = []
    for index, report in enumerate([*holdout, *validation]):
        paths.append(tmp_path / f"{index}.json")
        write_json(paths[-1], json.loads(json.dumps(report)))
    (tmp_path / "note.md").write_text("Seen before.\n")
    command = ["mitigation", "--holdout", *paths[:2], "--validation", *paths[2:]]
    stored, output = tmp_path / "stored.json", tmp_path / "page.md"
    more = ["--json", stored, "--note", tmp_path / "note.md", "--output", output]
    assert main([*map(str, [*command, *more])]) == 0
    assert output.read_text(encoding="utf-8") == text
    output.unlink()
    assert main(["mitigation", *map(str, more)]) == 0
    assert output.read_text(encoding="utf-8") == text
    assert stored.stat().st_size < 4 * paths[0].stat().st_size / 10


def test_reports_that_do_not_belong_together_are_refused(base):
    holdout, validation = both(base, fair=(0.0, 0.0))
    for wrong, message in (
        ((holdout[:1], validation[:1]), "two or more"),
        ((holdout, validation[:1]), "2 reports on the holdout and 1 on"),
        ((validation, holdout), "on the split 'holdout'"),
        ((holdout, validation[::-1]), "not in the same order"),
    ):
        with pytest.raises(TableError, match=message):
            document(*wrong)
