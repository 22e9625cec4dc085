"""What the repository says about its weights is what their report says."""

import hashlib
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from faceattr.hub import BUNDLED, BUNDLED_NAMES, DEFAULT_MODEL
from faceattr.labels import AGE, GENDER, RACE, TASKS
from scripts import audit_docs
from train.__main__ import main
from train.data.source import Source
from train.evaluate.predict import predict
from train.evaluate.report import read_history
from train.report.card import make_card
from train.report.mitigation import document
from train.report.pages import page, page_figures
from train.report.plots_results import card_figures
from train.report.results import TableError, comparison, insert
from train.tables import read_json as read
from train.tables import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
FIGURES = ROOT / "docs" / "figures"
REPORTS = [BUNDLED / name / "report.json" for name in BUNDLED_NAMES]
PIPELINE = RESULTS / "pipeline.json"


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_a_report_is_about_the_weights_beside_it(name):
    digest = hashlib.sha256((BUNDLED / name / "model.safetensors").read_bytes()).hexdigest()
    assert read(BUNDLED / name / "report.json")["weights_sha256"] == digest


@pytest.mark.slow
def test_the_default_weights_give_what_their_report_says(fairface_dir, tmp_path):
    """Predicted anew and counted in plain loops; a few answers may differ on another CPU."""
    output = tmp_path / "p.parquet"
    predict(None, Source(str(fairface_dir)), "validation", output, torch.device("cpu"))
    columns = pq.read_table(output).to_pydict()
    report = read(BUNDLED / DEFAULT_MODEL / "report.json")
    rows = range(len(columns["row"]))
    assert len(rows) == report["dataset"]["rows"]
    for task in TASKS:
        classes = list(task.classes)
        counts = [[0] * len(classes) for _ in classes]
        for k in rows:
            scores = [columns[f"{task.name}:{name}"][k] for name in classes]
            counts[classes.index(columns[f"{task.name}_true"][k])][scores.index(max(scores))] += 1
        told = report["confusion"]["overall"][task.name]["counts"]
        for line, expected in zip(counts, told, strict=True):
            assert line == pytest.approx(expected, abs=5)
        right = sum(counts[index][index] for index in range(len(classes)))
        assert right == pytest.approx(report["overall"][task.name]["correct"], abs=5)
    for i, gender in enumerate(GENDER.classes):
        for j, race in enumerate(RACE.classes):
            cell = report["subgroups"]["4.2"]["cells"][i][j]
            group = [
                k
                for k in rows
                if (columns["gender_true"][k], columns["race_true"][k]) == (gender, race)
            ]
            ages = [max(AGE.classes, key=lambda n, k=k: columns[f"age:{n}"][k]) for k in group]
            right = sum(age == columns["age_true"][k] for age, k in zip(ages, group, strict=True))
            assert (cell["n"], cell["correct"]) == (len(group), pytest.approx(right, abs=5))


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_a_card_is_made_of_its_report(name):
    card = make_card(read(BUNDLED / name / "report.json"), read(BUNDLED / name / "config.json"))
    assert (BUNDLED / name / "README.md").read_text() == str(card)


def drawn_from(path):
    """The fingerprint of the data that a picture was drawn from."""
    with Image.open(path) as image:
        return image.info["Description"].removeprefix("data ")


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_a_cards_pictures_are_drawn_from_its_report(name):
    folder = BUNDLED / name / "figures"
    wanted = {
        f"{f.name}.png": f.fingerprint for f in card_figures(read(BUNDLED / name / "report.json"))
    }
    assert {path.name: drawn_from(path) for path in folder.iterdir()} == wanted


def test_the_results_page_and_its_pictures_are_made_of_the_report():
    report, labels = read(BUNDLED / DEFAULT_MODEL / "report.json"), read(RESULTS / "labels.json")
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(report, labels)
    figures = page_figures(report, labels).values()
    wanted = {f"{f.name}.png": f.fingerprint for f in figures}
    assert {path.name: drawn_from(path) for path in FIGURES.iterdir()} == wanted


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_a_report_holds_what_was_measured_beside_the_predictions(name):
    report = read(BUNDLED / name / "report.json")
    assert report["history"] == read_history(BUNDLED / name / "history.jsonl")
    assert report["data_duplicates"] == read(RESULTS / "duplicates.json")["splits"]


def test_the_defaults_robustness_is_in_its_report():
    measured = read(RESULTS / "robustness" / f"{DEFAULT_MODEL}.json")
    found = read(BUNDLED / DEFAULT_MODEL / "report.json")["robustness"]
    assert found["weights_sha256"] == measured["weights_sha256"]
    assert (found["clean"], found["corruptions"]) == (measured["clean"], measured["corruptions"])


def test_the_mitigation_page_is_made_of_its_reports():
    stored = read(RESULTS / "fairness.json")
    note = (RESULTS / "fairness-note.md").read_text(encoding="utf-8").strip()
    page = document(stored["holdout"], stored["validation"], note)
    assert (ROOT / "docs" / "fairness.md").read_text(encoding="utf-8") == page


def test_the_pipeline_was_measured_with_the_default_weights():
    report = read(BUNDLED / DEFAULT_MODEL / "report.json")
    assert read(PIPELINE)["weights_sha256"] == report["weights_sha256"]


def test_the_comparison_shows_the_median_of_every_round_of_every_run():
    report = read(BUNDLED / DEFAULT_MODEL / "report.json")
    key = f"{DEFAULT_MODEL}, {report['preprocessing']['image_size']} px|onnx|1"
    runs = [{"networks": {key: times}} for times in ([1.0, 9.0], [3.0])]
    ours, *others = comparison([report], {"runs": runs}).splitlines()[2:]
    assert ours.split(" | ")[2] == "3.0"
    assert others[0].split(" | ")[2] == "–"


def test_a_pipeline_measured_with_other_weights_is_refused(tmp_path, capsys):
    write_json(tmp_path / "performance.json", {"runs": []})
    write_json(tmp_path / "pipeline.json", {**read(PIPELINE), "weights_sha256": "ab" * 32})
    command = [
        "results",
        *REPORTS,
        "--performance",
        tmp_path / "performance.json",
        "--pipeline",
        tmp_path / "pipeline.json",
        "--into",
    ]
    assert main([*map(str, command), str(tmp_path / "page.md")]) == 1
    assert "was measured with other weights" in capsys.readouterr().err


def test_the_guide_of_the_audit_is_what_its_command_writes(tmp_path, monkeypatch):
    page = tmp_path / "audit.md"
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    emptied = re.sub(r"(<!-- (\w+) -->\n).*?(?=<!-- /\2 -->)", r"\1", text, flags=re.DOTALL)
    assert len(emptied) < 0.8 * len(text)
    page.write_text(emptied, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["audit_docs", "--into", str(page)])
    audit_docs.main()
    assert page.read_text(encoding="utf-8") == text


def test_a_file_without_markers_is_refused():
    with pytest.raises(TableError, match="<!-- results -->"):
        insert("no markers here", "| table |")
