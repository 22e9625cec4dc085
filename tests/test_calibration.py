import json
import shutil

import numpy as np
import pytest

from faceattr.backends.export import export
from faceattr.backends.onnx import OnnxClassifier
from faceattr.hub import find_weights
from faceattr.model import LightweightMTLNet224, ModelConfig, load_model
from faceattr.preprocessing import Preprocessing
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


def test_calibrate_rewrites_the_config_only(tmp_path, tiny_fairface):
    sizes = {"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}
    config = ModelConfig(sizes=sizes, preprocessing=Preprocessing(image_size=32))
    LightweightMTLNet224(config).save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert main(["calibrate", str(tmp_path / "b"), "--data", str(tiny_fairface)]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    before, after = (json.loads((tmp_path / n / "config.json").read_text()) for n in "ab")
    assert [key for key in before if before[key] != after[key]] == ["temperatures", "thresholds"]
    assert load_model(tmp_path / "b").config.thresholds == after["thresholds"]


def test_calibrate_keeps_the_onnx_file_up_to_date(tmp_path, tiny_fairface):
    sizes = {"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}
    config = ModelConfig(sizes=sizes, preprocessing=Preprocessing(image_size=32))
    LightweightMTLNet224(config).save_pretrained(tmp_path)
    export(tmp_path)
    assert main(["calibrate", str(tmp_path), "--data", str(tiny_fairface)]) == 0
    kept = OnnxClassifier(find_weights(tmp_path, file="model.onnx")).config
    assert kept.temperatures == load_model(tmp_path).config.temperatures
    assert kept.temperatures != config.temperatures
