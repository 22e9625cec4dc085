import json
import shutil

import numpy as np
import pytest

from faceattr.backends.onnx import OnnxClassifier
from faceattr.hub import find_weights
from train.__main__ import main
from train.evaluate.calibration import fit, fit_threshold


def test_threshold_is_the_lowest_that_reaches_the_accuracy():
    top = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    correct = np.array([True, True, False, True, False])
    assert fit_threshold(top, correct, 0.75) == 0.6
    assert fit_threshold(top, correct, 0.9) == 0.8
    assert fit_threshold(top, correct, 0.6) == 0.5


def test_answers_of_equal_probability_pass_together():
    top = np.array([0.9, 0.8, 0.8, 0.8])
    correct = np.array([True, True, False, False])
    assert fit_threshold(top, correct, 0.9) == 0.9


def test_an_accuracy_out_of_reach_leaves_every_answer_unsure():
    assert fit_threshold(np.array([0.9, 0.8]), np.array([False, True]), 0.8) == 1.0


def test_threshold_agrees_with_a_search_of_all_thresholds():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.2, 1, 400).round(4)
    correct = rng.random(400) < top
    passing = [t for t in top if correct[top >= t].mean() >= 0.85]
    assert fit_threshold(top, correct, 0.85) == pytest.approx(min(passing), abs=1e-4)


def test_threshold_refers_to_calibrated_probabilities():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (3000, 2))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = (rng.random(3000) < shares[:, 1]).astype(int)
    temperature, threshold = fit("gender", logits * 4, targets)
    assert temperature == pytest.approx(4, rel=0.15)
    assert threshold == fit("gender", logits, targets)[1]


def test_calibrate_rewrites_the_config_and_exports_again(
    exported_weights, tmp_path, tiny_fairface, caplog
):
    folder = shutil.copytree(exported_weights, tmp_path / "tiny")
    (folder / "audit.json").write_text("{}")
    command = ["calibrate", str(folder), "--data", str(tiny_fairface)]
    assert main(command) == 0
    assert "audit.json rest on the calibration before" in caplog.text
    caplog.clear()
    assert main(command) == 0
    assert "calibration before" not in caplog.text
    weights = [(path / "model.safetensors").read_bytes() for path in (exported_weights, folder)]
    assert weights[0] == weights[1]
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (exported_weights, folder)
    )
    assert [key for key in before if before[key] != after[key]] == ["temperatures", "thresholds"]
    kept = OnnxClassifier(find_weights(folder, file="model.onnx")).config
    assert kept.temperatures == after["temperatures"]
    assert kept.thresholds == after["thresholds"]
