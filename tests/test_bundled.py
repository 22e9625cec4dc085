"""What the repository says about its weights is what their report says."""

import hashlib
import json
from pathlib import Path

import pytest

from faceattr.hub import BUNDLED
from train.card import make_card
from train.results import START, TableError, comparison, insert

ROOT = Path(__file__).resolve().parents[1]
REPORTS = [BUNDLED / "report.json", *sorted((ROOT / "docs" / "results").glob("*.json"))]


def read(path):
    return json.loads(path.read_text())


def test_the_report_is_about_these_weights():
    digest = hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()
    assert read(REPORTS[0])["weights_sha256"] == digest


def test_they_beat_the_report_on_5000_validation_rows():
    report = read(REPORTS[0])
    assert report["dataset"]["split"] == "validation"
    assert report["dataset"]["rows"] == 5_000
    overall = {name: found["accuracy"] for name, found in report["overall"].items()}
    assert overall["gender"] > 0.8735
    assert overall["race"] > 0.5933
    assert overall["age"] > 0.5083


def test_the_card_is_made_of_the_report():
    card = make_card(read(REPORTS[0]), read(BUNDLED / "config.json"))
    assert (BUNDLED / "README.md").read_text() == str(card)


def test_the_readme_table_is_made_of_the_reports():
    text = (ROOT / "README.md").read_text()
    assert insert(text, comparison([read(path) for path in REPORTS])) == text


def test_a_file_without_markers_is_refused():
    with pytest.raises(TableError, match=START):
        insert("no markers here", "| table |")
