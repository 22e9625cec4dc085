"""What answers page and API: without PyTorch, within the limits, at the picture's own size."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from site_fixtures import tiny_service

import app
from faceattr.config import ModelConfig
from faceattr.detection import HaarDetector
from faceattr.explain import explain
from faceattr.labels import TASKS
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from faceattr.results import FaceBox
from page.errors import RequestError
from page.service import FaceService
from page.view.render import render_found

ROOT = Path(__file__).resolve().parents[1]
PORTRAIT = ROOT / "page" / "view" / "static" / "examples" / "collins.jpg"


@pytest.fixture(scope="module")
def pipelines():
    return [FacePipeline.from_pretrained(detector="haar", backend=b) for b in ("torch", "onnx")]


def test_the_page_asks_for_the_faster_backend(monkeypatch):
    monkeypatch.setenv("FACEATTR_DETECTOR", "haar")
    assert app.load_pipeline()[0].info.backend == "onnx"


def test_the_page_starts_and_answers_with_what_the_extra_app_brings():
    code = f"""
import sys
missing = ["torch", "torchvision", "pyarrow", "scipy", "datasets", "sklearn", "matplotlib"]
sys.modules.update(dict.fromkeys(missing))
import app
from page.server import Site
from page.service import FaceService
service = FaceService(app.load_pipeline()[0])
Site(service)
content = open({str(PORTRAIT)!r}, "rb").read()
assert service.predict(content)["faces"]
assert service.explain(content, "age")["heat_map"]
"""
    environment = {**os.environ, "FACEATTR_DETECTOR": "haar"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_heat_maps_agree(pipelines, task):
    chip = pipelines[0](PORTRAIT)[0].crop
    one, other = (explain(pipeline, chip, task) for pipeline in pipelines)
    assert one.label == other.label
    assert np.abs(one.drop).max() > 0.01
    # The ONNX file keeps folded weights in float16.
    np.testing.assert_allclose(one.drop, other.drop, rtol=0, atol=5e-4)


def test_a_heat_map_explains_the_answer_of_a_face_and_its_mirror_image(pipelines):
    plain = pipelines[1]
    mirrored = FacePipeline(plain.classifier, plain.detector, mirror=True)
    face = mirrored(PORTRAIT)[0]
    found = explain(mirrored, face.crop, "age")
    assert (found.label, found.probability) == (face.age.label, pytest.approx(face.age.probability))
    assert found.probability != explain(plain, face.crop, "age").probability


class OnePixel:
    """Says "Male" with the redness of one pixel."""

    name = "one pixel"
    config = ModelConfig(preprocessing=Preprocessing(image_size=32))
    place = (12, 18)

    def probabilities(self, pixels):
        row, column = self.place
        red = pixels[:, row, column, 0].astype(np.float32) / 255
        answers = {t.name: np.eye(len(t.classes), dtype=np.float32)[[0]] for t in TASKS}
        answers = {name: one.repeat(len(pixels), 0) for name, one in answers.items()}
        male = next(t for t in TASKS if t.name == "gender").index("Male")
        answers["gender"][:, male], answers["gender"][:, 1 - male] = red, 1 - red
        return answers


def test_a_heat_map_shows_the_pixel_that_the_answer_hangs_on():
    network = OnePixel()
    white = np.full((32, 32, 3), 255, np.uint8)
    found = explain(FacePipeline(network, HaarDetector()), white, "gender")
    grey = round(network.config.preprocessing.mean[0] * 255) / 255
    assert (found.label, found.probability) == ("Male", 1.0)
    assert found.drop[network.place] == pytest.approx(1 - grey)
    # Patches are 8 px wide and lie 4 px apart: those over row 12 begin at 8 and 12.
    touched = np.flatnonzero(found.drop.any(1))
    assert (touched.min(), touched.max()) == (8, 19)
    assert (found.drop >= 0).all() and found.drop[:8].max() == 0


def test_model_info_agrees(pipelines):
    one, other = (FaceService(pipeline).model_info() for pipeline in pipelines)
    assert (one.pop("backend"), other.pop("backend")) == ("torch", "onnx")
    assert one == other


def jpeg(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_limits_can_be_raised():
    content = jpeg(np.full((5_001, 8_000, 3), (255, 0, 0), np.uint8))
    with pytest.raises(RequestError, match="at most 40,000,000 pixels"):
        tiny_service().predict(content)
    service = tiny_service(max_pixels=41_000_000)
    answer = service.predict(content)
    assert (answer["width"], answer["height"]) == (8_000, 5_001)
    assert answer["faces"]
    assert service.classify_crop(content)["faces"][0]["box"]["width"] == 8_000


def test_boxes_are_drawn_where_the_faces_are_in_a_picture_that_is_read_small():
    image = np.zeros((2_000, 2_800, 3), np.uint8)
    image[1_200:1_600, 400:800, 0] = 255
    found = tiny_service().find(jpeg(image))
    assert found.picture.reduction(1_280) == 2
    assert [face.box for face in found.faces] == [FaceBox(400, 1_200, 400, 400)]
    html = render_found(found, {})
    content = re.search(r'<figure .*?src="data:image/jpeg;base64,([^"]+)', html)[1]
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert (shown.width, shown.height) == (1_280, 914)
    sides = re.search(r"left:(.*?)%;top:(.*?)%;width:(.*?)%;height:(.*?)%", html).groups()
    width, height = found.picture.size
    expected = [100 * n for n in (400 / width, 1_200 / height, 400 / width, 400 / height)]
    assert [float(side) for side in sides] == pytest.approx(expected, abs=0.01)


def test_a_loose_crop_is_told_in_the_answer_and_on_the_page_and_nowhere_else(capfd):
    with Image.open(PORTRAIT) as portrait:
        content = jpeg(np.asarray(portrait))
    # Python's warnings are errors here.
    service = FaceService(FacePipeline.from_pretrained())
    found = service.whole(content)
    assert "the crop is loose" in found.faces[0].crop_note
    html = render_found(found, {})
    assert "the crop is loose" in html
    assert "align=" not in html
    assert "the crop is loose" in service.classify_crop(content)["faces"][0]["crop_note"]
    assert capfd.readouterr().err == ""


def test_a_thorough_search_finds_what_a_fast_one_does_not():
    service = FaceService(FacePipeline.from_pretrained())
    with Image.open(PORTRAIT.with_name("solvay1927.jpg")) as photo:
        large = Image.new("RGB", (4 * photo.width, 4 * photo.height))
        large.paste(photo)
    content = jpeg(np.asarray(large))
    fast, thorough = (service.predict(content, detect=d)["faces"] for d in ("fast", "thorough"))
    assert len(fast) < len(thorough)
    with pytest.raises(RequestError, match="one of: fast, thorough"):
        service.predict(content, detect="slow")
    with pytest.raises(RequestError, match="another detector for a thorough search"):
        service.predict_batch([content], detector="haar", detect="thorough")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("GRADIO_SERVER_PORT", "http", "whole number from 0 to 65535, came 'http'"),
        ("FACEATTR_MAX_FACES", "many", "whole number, came 'many'"),
        ("FACEATTR_REVISION", "main", "with FACEATTR_MODEL only, came 'main'"),
        ("FACEATTR_DETECTOR", "dlib", "'auto', 'yunet' or 'haar', came 'dlib'"),
    ],
)
def test_a_wrong_setting_is_said_without_a_traceback(variable, value, words, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        app.main()
