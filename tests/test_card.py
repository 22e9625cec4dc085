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
from train.report.card import TEMPLATE, duration, make_card
from train.report.plots_results import card_figures
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
    assert "40,000 of its 86,744 training rows" in text
    assert "1,200 of its 10,954 validation rows" in text
    assert "| Rows trained on | 38,000 of 86,744 |" in text
    assert "not measured on the same rows" in text


def test_a_card_for_all_of_fairface_has_no_warning_of_a_part(changed):
    report, config = changed
    for training in (report["training"], config["training"]):
        training["dataset"]["rows"] = 84_744
    report["dataset"]["rows"] = 10_954
    text = make_card(report, config).text
    assert "a part of FairFace" not in text
    assert "not measured on the same rows" not in text


def test_every_cell_of_the_reports_tables_is_in_the_card_with_count_and_interval(report):
    text = make_card(report, CONFIG).text
    for found in report["subgroups"].values():
        for cell in (cell for line in found["cells"] for cell in line):
            if cell["n"] == 0:
                continue
            low, mid, high = (f"{100 * cell[key]:.1f}" for key in ("low", "accuracy", "high"))
            mark = " †" if cell["n"] < 30 else ""
            assert f"| {mid} ({low} to {high}) of {cell['n']}{mark} |" in text


def test_groups_without_faces_are_shown_as_such(changed):
    report, config = changed
    cell = {"n": 0, "correct": 0, "accuracy": None, "low": None, "high": None}
    report["subgroups"]["4.1"]["cells"][0][0] = cell
    assert "| 0-2 | no faces |" in make_card(report, config).text


def test_named_failures_are_the_lowest_class_and_the_most_frequent_confusion(report):
    text = " ".join(make_card(report, CONFIG).text.split())
    for title, task in (("Gender", "gender"), ("Age group", "age"), ("Race", "race")):
        worst = min(report["per_class"][task], key=lambda entry: entry["accuracy"])
        name = {"more than 70": "70+", "Latino_Hispanic": "Latino/Hispanic"}.get(
            worst["class"], worst["class"]
        )
        assert f"**{title}**: lowest for {name} ({100 * worst['accuracy']:.1f} %" in text
    matrix = report["confusion"]["overall"]["gender"]["counts"]
    shares = {
        f"Male taken for Female ({100 * matrix[0][1] / sum(matrix[0]):.1f} %": matrix[0],
        f"Female taken for Male ({100 * matrix[1][0] / sum(matrix[1]):.1f} %": matrix[1],
    }
    assert all(f"{share} of {sum(line)})" in text for share, line in shares.items())


def test_a_report_with_few_faces_still_gives_a_card(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(table(columns(rows=8)), path)
    text = " ".join(make_card(evaluate(read_predictions(path)), CONFIG).text.split())
    assert "- **Race**. - **Gender accuracy" in text
    assert "63 of 63 groups have fewer than 30 faces" in text


def test_no_placeholder_or_missing_value_is_left_in_the_card(report):
    text = make_card(report, CONFIG, "someone/faces").text
    assert not re.search(r"\{\{|\{%|\bNone\b|\bnan\b|Undefined", text)
    assert 'from_pretrained("someone/faces")' in text
    assert not re.search(r"\n{4,}|[ \t]\n", text)
    assert text.endswith("do not edit.\n")


def test_the_template_holds_no_measured_number():
    prose = TEMPLATE.read_text(encoding="utf-8")
    assert re.findall(r"\d[\d.,]*\s?%(?!\})|\d{1,3},\d{3}|\b0\.\d+", prose) == []


def test_the_example_in_the_card_is_valid_python(report):
    for repo_id in (None, "someone/faces"):
        text = make_card(report, CONFIG, repo_id).text
        compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], "card", "exec")


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


def test_a_card_says_what_the_network_learned_from(report):
    """Teachers, distillation and arithmetic of a run are in its card, and only then."""
    plain = make_card(report, CONFIG).text
    assert "Distilled from" not in plain
    config, changed = copy.deepcopy(CONFIG), copy.deepcopy(report)
    training = config["training"]
    training["settings"]["distillation"] = {"weight": 0.7, "temperature": 2.0}
    training["precision"], training["compile"] = "bfloat16", True
    training["teachers"] = [
        {
            "architecture": "TeacherNet",
            "recipe": "teacher",
            "seed": 3,
            "wall_seconds": 2400,
            "holdout_accuracy": {"gender": 0.91, "age": 0.56, "race": 0.66},
        }
    ]
    changed["training"] = training
    text = " ".join(make_card(changed, config).text.split())
    assert "| Distilled from | `teacher` (seed 3) |" in text
    holdout = "holdout gender 91.0 %, age 56.0 %, race 66.0 %"
    assert f"- `teacher` (seed 3): TeacherNet, from scratch; {holdout}" in text
    assert "- `teacher` (seed 3): 40 min 00 s on hardware that was not recorded" in text
    assert "distillation with weight 0.7 and temperature 2;" in text
    training["settings"]["distillation"]["mirrored"] = True
    text = " ".join(make_card(changed, config).text.split())
    assert "temperature 2 on each view and its mirror image;" in text
    assert "bfloat16, torch.compile" in text


def test_a_card_says_what_the_run_started_from_and_what_all_of_it_cost(changed):
    report, config = changed
    assert "Started from" not in make_card(report, config).text
    start = {
        "sha256": "cd" * 32,
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
        training["start"] = start
        training["settings"]["continues"] = True
    text = " ".join(make_card(report, config).text.split())
    assert "| Started from | the weights of `ours` (seed 4), a warm restart |" in text
    assert "Training took 1 h 42 min, measured as wall time" in text
    assert "- `ours` (seed 4): 40 min 00 s on CPU, 2 threads" in text


def test_a_card_holds_the_fairness_and_calibration_figures_of_its_report(report):
    text = make_card(report, CONFIG).text
    for task in ("gender", "age", "race"):
        calibration = report["calibration"][task]
        assert f"| {calibration['expected_calibration_error']:.4f} |" in text
        assert f"| {calibration['brier']:.4f} |" in text
        stored = report["selective"][task]["stored"]
        share = 100 * stored["coverage"]["accuracy"]
        assert f"| {stored['threshold']:g} | {share:.1f} (" in text
        for criteria in report["fairness"][task].values():
            entries = [criteria["accuracy"]["difference"]]
            if "equalized_odds" in criteria:
                entries.append(criteria["equalized_odds"]["difference"])
            for found in entries:
                if found["value"] is None:
                    assert "too few faces" in text
                    continue
                value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
                assert f"{value} ({low} to {high})" in text


def test_a_card_shows_its_pictures_with_alt_text(report, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    output = tmp_path / "README.md"
    files = ["--report", str(tmp_path / "report.json"), "--config", str(tmp_path / "config.json")]
    assert main(["card", *files, "--output", str(output)]) == 0
    shown = re.findall(r"!\[(.{40,}?)\]\(figures/([a-z0-9-]+\.png)\)", output.read_text())
    assert {name for _, name in shown} == {path.name for path in (tmp_path / "figures").iterdir()}
    assert len(shown) == len(card_figures(report)) > 3
