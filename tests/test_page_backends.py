"""The page runs its network in ONNX Runtime, and starts without PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import app
from faceattr.images import decode_image
from faceattr.labels import TASKS
from faceattr.pipeline import FacePipeline
from page.explain import explain
from page.service import FaceService

ROOT = Path(__file__).resolve().parents[1]
MEAN_FACE = ROOT / "page" / "static" / "examples" / "mean-face.jpg"


@pytest.fixture(scope="module")
def pipelines():
    return [FacePipeline.from_pretrained(detector="haar", backend=b) for b in ("torch", "onnx")]


def test_the_page_asks_for_the_faster_backend(monkeypatch):
    monkeypatch.setenv("FACEATTR_DETECTOR", "haar")
    assert app.load_pipeline()[0].info.backend == "onnx"


def test_the_page_starts_and_answers_without_pytorch():
    code = (
        "import sys, app; from page.server import Site; from page.service import FaceService;"
        "service = FaceService(app.load_pipeline()[0]); Site(service);"
        f"assert service.predict(open({str(MEAN_FACE)!r}, 'rb').read())['faces'];"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"FACEATTR_DETECTOR": "haar", "GRADIO_ANALYTICS_ENABLED": "False"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_heat_maps_agree(pipelines, task):
    chip = decode_image(MEAN_FACE)
    one, other = (explain(pipeline, chip, task) for pipeline in pipelines)
    assert one.label == other.label
    assert np.abs(one.drop).max() > 0.01
    np.testing.assert_allclose(one.drop, other.drop, rtol=0, atol=1e-5)


def test_model_info_agrees(pipelines):
    one, other = (FaceService(pipeline).model_info() for pipeline in pipelines)
    assert one == other
