"""What the repository says about its weights is what their report says."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from faceattr.hub import BUNDLED, BUNDLED_NAMES, DEFAULT_MODEL
from faceattr.labels import AGE, GENDER, RACE, TASKS
from scripts import audit_docs, benchmark
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


def emptied(path, page):
    """Copy a file without what stands between its markers; its whole text."""
    text = path.read_text(encoding="utf-8")
    rest = re.sub(r"(<!-- (\w+) -->\n).*?(?=<!-- /\2 -->)", r"\1", text, flags=re.DOTALL)
    assert len(rest) < 0.8 * len(text)
    page.write_text(rest, encoding="utf-8")
    return text


def test_the_readmes_results_are_what_their_command_writes(tmp_path):
    page = tmp_path / "README.md"
    text = emptied(ROOT / "README.md", page)
    command = ["results", *REPORTS, "--pipeline", PIPELINE, "--into", page]
    assert main([*map(str, command), "--performance", str(benchmark.RESULT)]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_the_page_of_costs_is_what_its_command_writes():
    assert benchmark.PAGE.read_text(encoding="utf-8") == benchmark.page(read(benchmark.RESULT))


def test_the_guide_of_the_audit_is_what_its_command_writes(tmp_path, monkeypatch):
    page = tmp_path / "audit.md"
    text = emptied(ROOT / "docs" / "audit.md", page)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["audit_docs", "--into", str(page)])
    audit_docs.main()
    assert page.read_text(encoding="utf-8") == text


def test_a_file_without_markers_is_refused():
    with pytest.raises(TableError, match="<!-- results -->"):
        insert("no markers here", "| table |")


def test_a_bundle_takes_the_place_of_the_old_one_whole_or_not_at_all(tmp_path):
    tools, run, target = (tmp_path / name for name in (".venv/bin", "run/model", "target"))
    for folder in (tools, run, target / "figures", tmp_path / "scripts"):
        folder.mkdir(parents=True)
    for name in ("bundle_weights", "environment.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for path in ("run/model/config.json", "run/model/model.safetensors", "run/history.jsonl"):
        (tmp_path / path).write_text("new")
    for name in ("config.json", "figures/old.png", "notes.txt"):
        (target / name).write_text("old")
    # Neither pip nor Python is wanted here: the stub makes what --output names.
    programs = {
        "python": 'while [ $# -gt 1 ]; do [ "$1" != --output ] || echo > "$2"; shift; done',
        "cp": '/bin/cp "$@" && [ -z "$BROKEN" -o "$1" != -r ]',
        "cksum": "echo 1",
    }
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed-dev").write_text("dev 1")
    (tmp_path / "pyproject.toml").touch()

    def bundle(broken):
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "BROKEN": broken}
        command = ["bash", "scripts/bundle_weights", "run", "a/dataset", "target/"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        files = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
        return done.returncode, (target / "config.json").read_text(), files

    assert bundle("yes") == (1, "old", {"config.json", "figures/old.png", "notes.txt"})
    made = {"config.json", "model.safetensors", "history.jsonl", "report.json", "README.md"}
    assert bundle("") == (0, "new", {*made, "audit.json", "notes.txt"})
    assert not list(tmp_path.glob("target.*"))
