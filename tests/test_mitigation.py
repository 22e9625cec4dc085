import copy

import pyarrow.parquet as pq
import pytest
from predictions_table import CONFIG, columns, table

from faceattr.labels import GENDER, RACE, TASKS
from train.__main__ import main
from train.evaluate.predictions import read_predictions
from train.evaluate.report import evaluate
from train.report.mitigation import balance, chosen, document
from train.tables import TableError, write_json


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("mitigation") / "p.parquet"
    pq.write_table(table(columns(rows=1500)), path)
    return evaluate(read_predictions(path), draws=5)


def variant(base, split, recipe, group=0.0, overall=0.0):
    """A report whose worst groups and overall accuracies are moved by so much."""
    report = copy.deepcopy(base)
    report["dataset"]["split"] = split
    report["weights_sha256"] = recipe
    report["training"] = {**CONFIG["training"], "recipe": recipe}
    if recipe != "control":
        settings = {**report["training"]["settings"]}
        settings["mitigation"] = {"kind": recipe, "strength": 0.01, "groups": ["gender", "race"]}
        report["training"]["settings"] = settings
    for task in TASKS:
        report["fairness"][task.name]["gender × race"]["accuracy"]["worst"]["accuracy"] += group
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


def test_changes_are_means_over_the_heads(base):
    (control, fair), _ = both(base, fair=(0.06, -0.01))
    assert balance(fair, control) == pytest.approx({"overall": -0.01, "group": 0.06, "class": 0.0})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fair": (0.06, -0.01), "dro": (0.03, 0.0)}, 1),
        ({"fair": (0.06, -0.04), "dro": (0.05, -0.01)}, 2),
        ({"fair": (0.01, -0.02), "dro": (-0.01, 0.0)}, 0),
    ],
)
def test_the_choice_weighs_the_worst_groups_gain_against_the_cost(base, changes, expected):
    holdout, _ = both(base, **changes)
    assert chosen(holdout) == expected


def test_the_page_gives_every_head_with_its_changes(base, tmp_path):
    holdout, validation = both(base, fair=(0.06, -0.01))
    text = document(holdout, validation)
    worst = base["fairness"]["race"]["gender × race"]["accuracy"]["worst"]
    who = f"{GENDER.display_name(worst['group'][0])}, {RACE.display_name(worst['group'][1])}"
    assert f"| {who}: {100 * (worst['accuracy'] + 0.06):.1f} (+6.0) of {worst['n']} |" in text
    assert "| `fair` | -1.00 | +6.00 | +0.00 |" in text
    assert "preferred weights are those of **`fair`**" in text
    paths = []
    for index, report in enumerate([*holdout, *validation]):
        paths.append(tmp_path / f"{index}.json")
        write_json(paths[-1], report)
    command = ["mitigation", "--holdout", *paths[:2], "--validation", *paths[2:]]
    output = tmp_path / "page.md"
    assert main([*map(str, command), "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8") == text


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
