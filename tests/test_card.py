import copy
import json
import re

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from predictions_table import CONFIG, columns, table

from train.__main__ import main
from train.evaluate.predictions import read_predictions
from train.evaluate.report import SCHEMA, evaluate
from train.report.card import make_card
from train.report.plots_results import card_figures
from train.report.sections import duration
from train.tables import TableError


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "p.parquet"
    pq.write_table(table(columns(rows=1200)), path)
    return json.loads(json.dumps(evaluate(read_predictions(path))))


@pytest.fixture
def changed(report):
    return copy.deepcopy(report), copy.deepcopy(CONFIG)


def test_the_written_card_reads_back_with_one_result_for_each_head(report, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    output = tmp_path / "README.md"
    files = ["--report", str(tmp_path / "report.json"), "--config", str(tmp_path / "config.json")]
    command = ["card", *files, "--output", str(output), "--repo-id", "someone/faces"]
    assert main(command) == 0
    first = output.read_bytes()
    card = ModelCard.load(output)
    data = card.data
    assert (data.license, data.library_name) == ("cc-by-4.0", "faceattr")
    assert (data.pipeline_tag, data.datasets) == (
        "image-classification",
        ["HuggingFaceM4/FairFace"],
    )
    assert data.model_name == "faces"
    assert {r.metric_name: r.metric_value for r in data.eval_results} == {
        "Gender accuracy": report["overall"]["gender"]["accuracy"],
        "Age group accuracy": report["overall"]["age"]["accuracy"],
        "Race accuracy": report["overall"]["race"]["accuracy"],
    }
    assert {(r.dataset_config, r.dataset_split) for r in data.eval_results} == {
        ("0.25", "validation")
    }
    assert all(r.dataset_args == {"rows": 1200} for r in data.eval_results)
    assert main(command) == 0
    assert output.read_bytes() == first


def test_the_card_says_what_part_of_fairface_it_rests_on(report):
    text = " ".join(make_card(report, CONFIG).text.split())
    assert "Trained and measured on a part of FairFace" in text
    assert "40,000 of 86,744 training rows" in text
    assert "1,200 of 10,954 validation rows" in text
    assert "38,000 rows, and 2,000 held out" in text


def test_a_card_for_all_of_fairface_has_no_warning_of_a_part(changed):
    report, config = changed
    for training in (report["training"], config["training"]):
        training["dataset"]["rows"] = 84_744
    report["dataset"]["rows"] = 10_954
    text = make_card(report, config).text
    assert "a part of FairFace" not in text


def test_every_cell_of_the_reports_tables_is_in_the_card_with_count_and_interval(report):
    text = make_card(report, CONFIG).text
    tables = report["subgroups"].values()
    cells = [cell for table in tables for line in table["cells"] for cell in line if cell["n"]]
    assert len(cells) > 50
    for cell in cells:
        low, high = (f"{100 * cell[key]:.0f}" for key in ("low", "high"))
        mark = "†" if cell["n"] < 30 else ""
        shown = f"| {100 * cell['accuracy']:.1f} ({low}–{high}), {cell['n']}{mark} |"
        assert shown in text


def test_groups_without_faces_are_shown_as_such(changed):
    report, config = changed
    cell = {"n": 0, "correct": 0, "accuracy": None, "low": None, "high": None}
    report["subgroups"]["4.1"]["cells"][0][0] = cell
    assert "| 0-2 | no faces |" in make_card(report, config).text


def test_named_failures_are_the_most_frequent_confusions(report):
    text = " ".join(make_card(report, CONFIG).text.split())
    matrix = report["confusion"]["overall"]["gender"]["counts"]
    shares = {
        f"Male taken for Female ({100 * matrix[0][1] / sum(matrix[0]):.1f} %": matrix[0],
        f"Female taken for Male ({100 * matrix[1][0] / sum(matrix[1]):.1f} %": matrix[1],
    }
    assert all(f"{share} of {sum(line)})" in text for share, line in shares.items())


def test_the_card_says_how_many_young_people_are_taken_for_adults(report):
    matrix = report["confusion"]["overall"]["age"]
    line = matrix["counts"][matrix["classes"].index("10-19")]
    adult = sum(line[3:])
    expected = f"of {sum(line)} faces labelled 10-19, {100 * adult / sum(line):.0f} % are answered"
    assert expected in " ".join(make_card(report, CONFIG).text.split())


def test_a_report_with_few_faces_still_gives_a_card(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(table(columns(rows=8)), path)
    text = make_card(evaluate(read_predictions(path)), CONFIG).text
    assert "**Race**: most often confused: none." in text
    assert "None" not in text


def test_no_placeholder_or_missing_value_is_left_in_the_card(report):
    text = make_card(report, CONFIG, "someone/faces").text
    assert not re.search(r"\{\{|\{%|\bNone\b|\bnan\b|Undefined", text)
    assert 'from_pretrained("someone/faces")' in text
    assert not re.search(r"\n{4,}|[ \t]\n", text)
    assert text.endswith("do not edit.\n")


def test_the_example_in_the_card_is_valid_python(report):
    for repo_id in (None, "someone/faces"):
        text = make_card(report, CONFIG, repo_id).text
        snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert snippets
        for snippet in snippets:
            compile(snippet, "card", "exec")


def test_a_report_of_other_weights_is_refused(changed):
    report, config = changed
    config["training"]["seed"] += 1
    with pytest.raises(TableError, match="describe different weights"):
        make_card(report, config)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r, c: r.update(schema=99), f"schema {SCHEMA}, came 99"),
        (lambda r, c: r["dataset"].update(split="holdout"), "validation split, came 'holdout'"),
        (lambda r, c: r.update(augmentation="flip"), "one view of each face, came 'flip'"),
        (lambda r, c: c["training"].pop("hardware"), r"lack \['hardware'\]"),
        (lambda r, c: c["training"]["dataset"].pop("holdout_rows"), r"lacks \['holdout_rows'\]"),
    ],
)
def test_input_that_cannot_make_an_honest_card_is_refused(changed, spoil, message):
    spoil(*changed)
    with pytest.raises(TableError, match=message):
        make_card(*changed)


@pytest.mark.parametrize("repo_id", ["faces", "/faces", "someone/"])
def test_a_repository_id_without_user_or_name_is_refused(report, repo_id):
    with pytest.raises(TableError, match="user/name"):
        make_card(report, CONFIG, repo_id)


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "1 min 00 s"), (75, "1 min 15 s"), (3725, "1 h 02 min")]
)
def test_durations_are_written_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_card_says_what_the_weights_rest_on_and_what_all_of_it_cost(changed):
    report, config = changed
    assert "Rests on" not in make_card(report, config).text
    run = {
        "architecture": "FaceAttrNet",
        "recipe": "ours",
        "seed": 4,
        "hardware": "CPU, 2 threads",
        "wall_seconds": 2400,
        "holdout_accuracy": {"gender": 0.91},
        "teachers": [],
        "start": None,
    }
    for training in (report["training"], config["training"]):
        training["start"], training["teachers"] = "cd" * 32, ["ef" * 32]
    config["training"]["runs"] = {
        "cd" * 32: run,
        "ef" * 32: {**run, "recipe": "teacher", "seed": 3},
    }
    text = " ".join(make_card(report, config).text.split())
    assert "started from `ours` (seed 4); taught by `teacher` (seed 3); 2 earlier runs" in text
    assert "| Cost | 2 h 22 min over 3 runs" in text


def test_a_card_holds_the_gaps_and_calibration_of_its_report(report):
    text = make_card(report, CONFIG).text
    for task in ("gender", "age", "race"):
        calibration = report["calibration"][task]
        assert f"| {calibration['expected_calibration_error']:.4f} (" in text
        for grouping in ("race", "age"):
            found = report["fairness"][task][grouping]["accuracy"]["difference"]
            value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
            assert f"{value} ({low} to {high})" in text


def test_a_card_stays_short(report):
    words = [w for w in make_card(report, CONFIG).text.split() if any(map(str.isalnum, w))]
    assert len(words) < 1_600


def test_a_card_shows_its_pictures_with_alt_text(report, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    output = tmp_path / "README.md"
    files = ["--report", str(tmp_path / "report.json"), "--config", str(tmp_path / "config.json")]
    assert main(["card", *files, "--output", str(output)]) == 0
    shown = re.findall(r"!\[(.{40,}?)\]\(figures/([a-z0-9-]+\.png)\)", output.read_text())
    assert {name for _, name in shown} == {path.name for path in (tmp_path / "figures").iterdir()}
    assert len(shown) == len(card_figures(report)) == 3


def test_a_card_says_which_heads_were_adjusted_for_rare_classes(changed):
    report, config = changed
    assert "Rare classes" not in make_card(report, config).text
    for facts in (report, config):
        facts["training"]["logit_adjustment"] = {"gender": 0.0, "age": 0.25, "race": 0.5}
    assert "τ: age group 0.25, race 0.5 |" in make_card(report, config).text
