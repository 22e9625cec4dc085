"""The page and its API, through the real server, the real client and a real browser."""

import base64
import io
import json
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from faceattr.detection import DetectorStatus
from faceattr.hub import DEFAULT_MODEL
from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.pipeline import FacePipeline, PipelineInfo
from faceattr.preprocessing import Preprocessing
from faceattr.results import Detection, FaceBox

FILE = {"_type": "gradio.FileData"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"

# Gradio and its server warn about their own dependencies; none of it is ours to fix.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class ColourDetector:
    """Finds a face wherever a picture's quarter is red."""

    name = "colour"
    status = DetectorStatus("colour")

    def detect(self, image):
        height, width = image.shape[0] // 2, image.shape[1] // 2
        found = []
        for y in (0, height):
            for x in (0, width):
                mean = image[y : y + height, x : x + width].mean((0, 1))
                if mean[0] > 200 and mean[1] < 80:
                    found.append(Detection(FaceBox(x, y, width, height), 1.0, None, self.name))
        return found


def red_quarters(count, size=(200, 160)):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for index in range(count):
        y, x = divmod(index, 2)
        image[y * 80 : y * 80 + 80, x * 100 : x * 100 + 100, 0] = 255
    return image


def saved(path, image):
    Image.fromarray(image).save(path)
    return path


@pytest.fixture(scope="module")
def server():
    torch.manual_seed(0)
    config = ModelConfig(
        sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8},
        preprocessing=Preprocessing(image_size=32),
    )
    demo = app.build_demo(FacePipeline(LightweightMTLNet224(config), ColourDetector()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


def test_the_api_answers_with_to_dict(client, tmp_path):
    answer = client.predict(
        handle_file(saved(tmp_path / "p.png", red_quarters(2))), api_name="/predict"
    )
    assert list(answer) == ["width", "height", "model", "revision", "detector", "faces"]
    assert (answer["width"], answer["height"], answer["detector"]) == (200, 160, "colour")
    assert [face["box"]["x"] for face in answer["faces"]] == [0, 100]
    for face in answer["faces"]:
        assert list(face) == ["box", "score", "detector", "landmarks", "gender", "age", "race"]
        assert sum(face["race"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_api_answers_with_no_faces(client, tmp_path):
    answer = client.predict(
        handle_file(saved(tmp_path / "p.png", red_quarters(0))), api_name="/predict"
    )
    assert answer["faces"] == []


def test_the_api_explains_a_bad_picture_without_its_path(client, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>not a picture</html>")
    with pytest.raises(AppError) as error:
        client.predict(handle_file(bad), api_name="/predict")
    assert "Traceback" not in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert "JPEG" in str(error.value)


def test_the_api_is_the_only_public_endpoint(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/predict"]


def test_a_data_url_works_over_plain_http(server):
    buffer = io.BytesIO()
    Image.fromarray(red_quarters(1)).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    body = json.dumps({"data": [{"url": url}]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}gradio_api/call/predict", body, headers)
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    stream = urllib.request.urlopen(f"{server}gradio_api/call/predict/{event}").read().decode()
    assert "event: complete" in stream
    answer = json.loads(stream.partition("data: ")[2].splitlines()[0])[0]
    assert len(answer["faces"]) == 1


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "other"}}, {"meta": FILE}])
def test_a_path_of_the_server_is_refused(server, tmp_path, meta):
    path = saved(tmp_path / "secret.png", red_quarters(1))
    body = json.dumps({"data": [{"path": str(path), **meta}]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}gradio_api/call/predict", body, headers)
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    stream = urllib.request.urlopen(f"{server}gradio_api/call/predict/{event}").read().decode()
    assert "event: error" in stream
    assert "complete" not in stream


def test_file_names_and_labels_cannot_inject_markup():
    note = app.describe(PipelineInfo("<script>", None, "haar", "<b>"), None)
    assert "<script>" not in note
    assert "<b>" not in note


def test_weights_that_cannot_be_had_fall_back_to_the_bundled_ones(monkeypatch):
    monkeypatch.setenv("FACEATTR_MODEL", "no/such/folder")
    monkeypatch.setenv("FACEATTR_DETECTOR", "haar")
    pipeline, note = app.load_pipeline()
    assert pipeline.info.model == DEFAULT_MODEL
    assert "bundled" in note
    assert "no/such/folder" not in note


@pytest.fixture(scope="module")
def page():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; install it to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def upload(page, photo, awaited):
    """Give the page a photo and wait for what it should show."""
    page.locator("input[type=file]").first.set_input_files(photo)
    page.wait_for_selector(awaited)


def screenshot(page, name):
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


@pytest.mark.browser
def test_a_visitor_sees_one_card_a_face(server, page, tmp_path):
    page.goto(server)
    upload(page, saved(tmp_path / "three.png", red_quarters(3)), "#result .face")
    assert page.locator("#result .face").count() == 3
    assert "3 faces found" in page.locator("#result").inner_text()
    card = page.locator("#result .face").first
    assert card.locator("h4").all_inner_texts() == [
        "Perceived gender",
        "Perceived age",
        "Perceived race",
    ]
    ages = card.locator("ul").nth(1).locator(".bar span:first-child").all_inner_texts()
    assert [age for age in ages if age][0] == "0-2"
    assert page.locator("#result img.annotated").get_attribute("alt").startswith("Your picture")
    screenshot(page, "three-faces")


@pytest.mark.browser
def test_a_visitor_without_a_face_is_told_what_to_try(server, page, tmp_path):
    page.goto(server)
    upload(page, saved(tmp_path / "none.png", red_quarters(0)), "#result .message")
    assert "No face found" in page.locator("#result").inner_text()
    screenshot(page, "no-face")


@pytest.mark.browser
def test_the_page_says_what_is_in_use_and_asks_no_third_party(server, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server)
    page.wait_for_selector("#in-use")
    page.wait_for_timeout(2_000)
    text = page.locator("#in-use").inner_text()
    assert "Weights:" in text
    assert "Detector: colour" in text
    assert "annotators" in page.locator("body").inner_text()
    foreign = [u for u in asked if not u.startswith((server, "data:", "blob:"))]
    assert foreign == []


@pytest.mark.browser
def test_a_group_photo_gives_one_card_a_face(page, photos_dir, yunet_path, monkeypatch):
    monkeypatch.setenv("FACEATTR_YUNET", str(yunet_path))
    pipeline, note = app.load_pipeline()
    demo = app.build_demo(pipeline, note)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    try:
        page.goto(url)
        photo = photos_dir / "2008_004176.jpg"
        upload(page, photo, "#result .face")
        labelled = json.loads((photos_dir / "boxes.json").read_text())[photo.name]
        assert page.locator("#result .face").count() == len(labelled)
        page.wait_for_timeout(500)
        screenshot(page, "group-photo")
    finally:
        demo.close()
