"""The page in a real Chromium, and what it says."""

import base64
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import expect
from site_fixtures import (
    ColourDetector,
    behind_proxy,
    png,
    red_cells,
    red_quarters,
    running,
    tiny_service,
)

import app
from faceattr.hub import DEFAULT_MODEL, WeightsFiles
from faceattr.pipeline import FacePipeline, PipelineInfo
from page.service import FaceService
from page.view.model_tab import card_markdown, model_html
from page.view.render import describe, render_found, short
from page.view.texts import percent

LONGEST_MS = 120_000
"""Of anything that a page is waited for: machines may be busy."""
expect.set_options(timeout=LONGEST_MS)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "artifacts"
EXAMPLES = ROOT / "page" / "view" / "static" / "examples"
AXE = ROOT / "tests" / "node_modules" / "axe-core" / "axe.min.js"
TABS = {
    "Try it": "#in-use strong",
    "Collection": "#describe",
    "Model": "#model table",
    "Use it": "#use pre",
    "Limits": "#limits h2",
}
"""What each tab shows."""

# Gradio and its server warn about their own dependencies; none of it is ours to fix.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_file_names_and_labels_cannot_inject_markup():
    note = describe(PipelineInfo("<script>", None, "haar", "<b>"), None)
    assert "<script>" not in note
    assert "<b>" not in note


def test_weights_that_cannot_be_had_fall_back_to_the_bundled_ones(monkeypatch):
    monkeypatch.setenv("FACEATTR_MODEL", "no/such/folder")
    monkeypatch.setenv("FACEATTR_DETECTOR", "haar")
    pipeline, note = app.load_pipeline()
    assert pipeline.info.model == DEFAULT_MODEL
    assert "bundled" in note
    assert "no/such/folder" not in note
    assert note in describe(pipeline.info, note)


def test_unsure_answers_are_marked_and_years_given_as_a_range():
    found = tiny_service().find(png(red_quarters(1)))
    face = found.faces[0]
    assert (face.gender.unsure, face.race.unsure) == (False, True)
    gender, years = short(face)
    assert (gender, years) == (face.gender.display_label, face.age_range.label)
    html = render_found(found, {})
    assert html.count(">unsure<") == 1
    assert f"Face 1: {gender}, {years}" in html
    assert f"{years}: {percent(face.age_range.probability)}" in html
    unsure = replace(face, gender=replace(face.gender, unsure=True))
    assert short(unsure)[0] == f"{gender}?"


def test_a_turned_picture_and_a_face_that_may_be_young_are_remarked_upon():
    found = tiny_service().find(png(red_quarters(1)))
    face = found.faces[0]

    def shown(age, turn):
        shares = {name: float(name == age) for name in face.age.probabilities}
        other = replace(face, age=replace(face.age, label=age, probabilities=shares), turn=turn)
        return render_found(replace(found, faces=[other]), {})

    assert "may be under 20" in shown("10-19", 0)
    assert "turned by" not in shown("10-19", 0)
    assert "may be under 20" not in shown("30-39", 90)
    assert "turned by 90°" in shown("30-39", 90)


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.9999, "> 99 %"), (0.5, "50 %"), (1e-4, "< 1 %"), (0, "0 %")],
)
def test_shares_never_claim_more_than_they_know(share, text):
    assert percent(share) == text.replace(" ", "\u00a0")


def test_faces_beyond_the_limit_are_mentioned_on_the_page():
    found = tiny_service(max_faces=2).find(png(red_cells(5)))
    html = render_found(found, {})
    assert html.count("<article") == 2
    assert "only the 2 largest are shown" in html


def test_the_model_tab_reads_the_report_and_ignores_what_it_does_not_know():
    service = FaceService(FacePipeline.from_pretrained(detector="haar"))
    report = json.loads(json.dumps(service.report))
    share = f"{report['overall']['race']['accuracy']:.1%}".replace("%", "\u00a0%")
    html = model_html(service)
    assert share in html
    assert "70+" in html
    service.report = {**report, "news": {"x": [1]}, "subgroups": {"9": {"task": "mood"}, "8": 3}}
    assert share in model_html(service)
    cell = {"accuracy": 0.914, "low": 0.9, "high": 0.93, "n": 100}
    stored = {"threshold": 0.62, "coverage": {**cell, "accuracy": 0.733}, "accuracy": cell}
    service.report = {
        "overall": {"age": cell, "race": cell},
        "selective": {"age": {"stored": stored}, "race": {"stored": 1}},
    }
    html = model_html(service)
    expected = ("62 %", "73.3 %", "91.4 %", "90.0 to 93.0 %")
    assert all(text.replace(" %", "\u00a0%") in html for text in expected)
    assert html.count("not measured") == 3
    service.report = {"overall": {"race": "high"}, "per_class": [], "calibration": None}
    assert "The model in use" in model_html(service)


def test_weights_without_a_report_are_said_to_be_of_unknown_accuracy():
    service = tiny_service()
    assert service.report is None
    assert "accuracy is unknown here" in model_html(service)
    assert service.model_info()["tasks"]["race"]["accuracy"] is None


def test_a_strangers_card_can_load_nothing(tmp_path):
    images = "![seen](https://a.test/x.png) <img src=//b.test> ![y][z]"
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n---\n# Card\n{images}\n")
    service = tiny_service()
    service.pipeline.files = WeightsFiles(tmp_path / "c", tmp_path / "m", "local")
    text = card_markdown(service)
    assert text.startswith("# Card\n*seen* &lt;img")
    assert "license" not in text
    assert "![" not in text
    assert card_markdown(tiny_service()) == ""


@pytest.fixture(scope="module")
def server(site):
    return site[0]


CAMERA = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; install it to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture(scope="module")
def browser(chromium):
    browser = chromium.launch(executable_path=CHROMIUM, args=CAMERA)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def filmed(chromium, tmp_path_factory):
    """A browser whose camera sees seven faces."""
    frame = Image.new("RGB", (640, 480))
    with Image.open(EXAMPLES / "solvay1927-left.jpg") as photo:
        frame.paste(photo.resize((640, 446)), (0, 17))
    film = tmp_path_factory.mktemp("film") / "camera.mjpeg"
    frame.save(film, "JPEG", quality=95)
    options = [*CAMERA, f"--use-file-for-fake-video-capture={film}"]
    browser = chromium.launch(executable_path=CHROMIUM, args=options)
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    yield from new_page(browser)


@pytest.fixture
def phone(browser):
    yield from new_page(browser, viewport={"width": 390, "height": 844})


@pytest.fixture
def dark(browser):
    yield from new_page(browser, color_scheme="dark")


def new_page(browser, **options):
    """A page that fails the test when its script does."""
    options.setdefault("viewport", {"width": 1280, "height": 900})
    page = browser.new_page(**options)
    page.set_default_timeout(LONGEST_MS)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def opened(page, server):
    page.goto(server)
    page.wait_for_selector("input[type=file]", state="attached")
    page.wait_for_selector(TABS["Try it"])


def turned_to(page, tab):
    """A page that shows a tab."""
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector(TABS[tab])


def saved(path, image):
    Image.fromarray(image).save(path)
    return path


def upload(page, photo, awaited):
    """Give the page a photo and wait for what it should show."""
    page.locator("input[type=file]").first.set_input_files(photo)
    page.wait_for_selector(awaited)


def screenshot(page, name):
    ARTIFACTS.mkdir(exist_ok=True)
    page.wait_for_timeout(400)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def empty(site):
    return len(site[1].inbox) == 0


@pytest.mark.browser
@pytest.mark.parametrize("count", [1, 2, 12, 60])
def test_a_visitor_sees_one_card_a_face(site, page, tmp_path, count):
    opened(page, site[0])
    upload(page, saved(tmp_path / "faces.png", red_cells(count)), "#result .fa-face")
    expect(page.locator("#result .fa-face")).to_have_count(count)
    expect(page.locator("#result .fa-count")).to_contain_text(f"{count} face")
    card = page.locator("#result .fa-face").last
    bars = card.locator(".fa-bar:has(.fa-track:visible)")
    if count > 3:
        expect(bars).to_have_count(8)
        card.locator("[data-more]").click()
    expect(bars).to_have_count(18)
    titles = card.locator("h3").all_inner_texts()
    assert titles[0].strip() == "Perceived gender"
    assert titles[1].startswith("Perceived age ") and titles[1].endswith("%")
    assert titles[2] == "Perceived race unsure"
    ages = card.locator("ul").nth(1).locator(".fa-bar span:first-child").all_inner_texts()
    assert [age for age in ages if age][:2] == ["0-2", "3-9"]
    shares = card.locator("ul").nth(2).locator(".fa-share").all_inner_texts()
    values = [int("".join(c for c in share if c.isdigit())) for share in shares]
    assert values == sorted(values, reverse=True)
    assert empty(site)


@pytest.mark.browser
def test_other_options_use_the_picture_that_the_browser_still_has(site, page, tmp_path):
    opened(page, site[0])
    upload(page, saved(tmp_path / "two.png", red_quarters(2)), "#result .fa-face")
    assert empty(site)
    page.locator("#options button").first.click()
    page.locator("#min-face input").fill("150")
    page.locator("#find").click()
    page.wait_for_selector("#result .fa-message h2")
    expect(page.locator("#result")).to_contain_text("No face found")
    page.locator("#min-face input").fill("50")
    page.locator("#find").click()
    page.wait_for_selector("#result .fa-face")
    page.get_by_label("Haar cascades").check()
    page.locator("#find").click()
    page.wait_for_selector("#result .fa-message h2")
    assert empty(site)


@pytest.mark.browser
def test_an_example_stays_where_no_photo_could_be_looked_at_again(server, page, tmp_path):
    opened(page, server)
    page.locator("#options button").first.click()
    expect(page.locator("#min-face input")).to_be_visible()
    expect(page.locator("#find")).to_be_hidden()
    upload(page, saved(tmp_path / "two.png", red_quarters(2)), "#result .fa-face")
    expect(page.locator("#find")).to_be_visible()


@pytest.mark.browser
def test_the_page_works_under_the_path_of_a_proxy(site, page, tmp_path):
    photo = saved(tmp_path / "two.png", red_quarters(2))
    with behind_proxy(site[0], "/faces") as url:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        opened(page, url)
        upload(page, photo, "#result .fa-face")
        page.locator("#options button").first.click()
        page.locator("#min-face input").fill("150")
        page.locator("#find").click()
        page.wait_for_selector("#result .fa-message h2")
        page.locator("#min-face input").fill("50")
        page.locator("#find").click()
        page.wait_for_selector("#result .fa-face")
        page.locator("[data-why]").first.click()
        page.wait_for_selector(".fa-map img")
        page.get_by_role("tab", name="Use it").click()
        expect(page.locator("#use")).to_contain_text(f"{url}api/v1/predict")
        assert [a for a in asked if not a.startswith((url, "data:", "blob:"))] == []
        answer = Client(url, verbose=False).predict(handle_file(photo), api_name="/predict")
        assert len(answer["faces"]) == 2
    assert empty(site)


@pytest.mark.browser
def test_a_visitor_without_a_face_may_treat_the_whole_picture_as_one(site, page, tmp_path):
    opened(page, site[0])
    expect(page.locator("#whole")).to_be_hidden()
    upload(page, saved(tmp_path / "none.png", red_quarters(0)), "#result .fa-message h2")
    expect(page.locator("#result")).to_contain_text("No face found")
    screenshot(page, "no-face")
    page.locator("#whole").click()
    page.wait_for_selector("#result .fa-face")
    expect(page.locator("#result .fa-count")).to_contain_text("whole picture treated as one face")
    expect(page.locator("#whole")).to_be_hidden()
    assert empty(site)


@pytest.mark.browser
def test_a_bad_file_is_explained(site, page, tmp_path):
    opened(page, site[0])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<html>not a picture</html>")
    upload(page, bad, "#result .fa-error")
    expect(page.locator("#result")).to_contain_text("not an image")
    page.get_by_alt_text("No preview of this file").wait_for()
    assert empty(site)


@pytest.mark.browser
def test_results_can_be_downloaded(server, page, tmp_path):
    opened(page, server)
    upload(page, saved(tmp_path / "two.png", red_quarters(2)), "#result .fa-face")
    files = {}
    for link in page.locator(".fa-downloads a").all():
        with page.expect_download() as download:
            link.click()
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        files[target.suffix] = target
    document = json.loads(files[".json"].read_text())
    assert (document["api_version"], len(document["faces"])) == ("1", 2)
    rows = list(csv.DictReader(files[".csv"].open()))
    assert [row["face"] for row in rows] == ["1", "2"]
    assert rows[0]["race"] == document["faces"][0]["race"]["label"]
    assert sum(float(rows[0][name]) for name in rows[0] if name.startswith("age:")) == (
        pytest.approx(1, abs=1e-4)
    )
    with Image.open(files[".jpg"]) as picture:
        assert picture.size == (200, 160)


@pytest.mark.browser
def test_what_drives_an_answer_is_shown_on_demand(server, page, tmp_path):
    opened(page, server)
    upload(page, saved(tmp_path / "one.png", red_quarters(1)), "#result .fa-face")
    assert page.locator(".fa-map img").count() == 0
    page.locator(".fa-why select").select_option("race")
    page.locator("[data-why]").click()
    page.wait_for_selector(".fa-map img")
    assert page.locator(".fa-map img").get_attribute("alt").startswith("Heat map of face 1")
    expect(page.locator(".fa-map")).to_contain_text("not why")


@pytest.mark.browser
def test_a_webcam_picture_is_classified(site, page):
    opened(page, site[0])
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    page.get_by_role("button", name="capture photo").click()
    page.wait_for_selector("#result .fa-message h2, #result .fa-face")
    expect(page.locator("#result")).to_contain_text("No face found")
    assert empty(site)


PASTE = """([base64]) => {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return navigator.clipboard.write([
    new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) }),
  ]);
}"""


@pytest.mark.browser
def test_the_picture_stays_in_view_beside_its_cards(real_site, page):
    opened(page, real_site)
    for photo in ("solvay1927-left.jpg", "solvay1927.jpg"):
        page.goto(real_site)
        upload(page, EXAMPLES / photo, "#result .fa-face")
        page.locator(".fa-face").last.hover()
        top = "document.querySelector('.fa-figure').getBoundingClientRect().top"
        page.wait_for_function(f"() => 0 <= {top} && {top} < 100")


@pytest.mark.browser
def test_a_cameras_picture_is_answered_live_only_when_asked(real_site, filmed):
    for page in new_page(filmed):
        opened(page, real_site)
        expect(page.locator("#live")).to_be_hidden()
        page.get_by_role("button", name="Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        page.wait_for_function("document.querySelector('#picture video')?.videoWidth > 0")
        sent = []
        page.on("request", lambda request, sent=sent: sent.append(request.url))
        page.wait_for_timeout(500)
        assert not any("predict" in address for address in sent)
        page.locator("#live input").check()
        page.wait_for_function("document.querySelectorAll('#live-faces .fa-box').length === 7")
        page.locator("#live input").uncheck()
        page.wait_for_selector("#live-faces", state="detached")


@pytest.mark.browser
def test_a_picture_on_the_clipboard_is_classified(site, page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, site[0])
    page.evaluate(PASTE, [base64.b64encode(png(red_quarters(2))).decode()])
    page.get_by_role("button", name="Paste from clipboard").click()
    page.wait_for_selector("#result .fa-face")
    expect(page.locator("#result .fa-face")).to_have_count(2)
    assert empty(site)


@pytest.mark.browser
def test_examples_are_one_click_and_credited(real_site, page):
    opened(page, real_site)
    page.get_by_text("NASA").first.wait_for()
    for name, count in (("One face", 1), ("Seven faces", 7), ("Twenty-nine faces", 29)):
        page.get_by_role("button", name=name).click()
        page.wait_for_function(
            "n => document.querySelectorAll('#result .fa-face').length === n", arg=count
        )


@pytest.mark.browser
def test_a_card_and_its_box_mark_each_other_by_mouse_and_keyboard(server, page, tmp_path):
    opened(page, server)
    upload(page, saved(tmp_path / "faces.png", red_cells(5)), "#result .fa-face")

    def are_marked(number):
        # Of all faces only this one's box and card.
        expect(page.locator(f"#result :is(#box-{number}, #face-{number}).fa-mark")).to_have_count(2)
        expect(page.locator("#result .fa-mark")).to_have_count(2)

    page.locator("#face-3").hover()
    are_marked(3)
    page.locator("#box-5").focus()
    are_marked(5)
    page.keyboard.press("Enter")
    page.wait_for_url("**#face-5")
    page.locator("#face-2 [data-more]").focus()
    are_marked(2)


PLACED = """n => {
  const tags = [...document.querySelectorAll("#result .fa-tag")];
  return tags.length === n && tags.every((tag) => tag.style.top);
}"""
OVERLAPS = """() => {
  const of = (all) => [...document.querySelectorAll(all)].map((e) => e.getBoundingClientRect());
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const tags = of(".fa-tag"), faces = of(".fa-box");
  return tags.filter((tag, i) => faces.some((face) => meet(tag, face))
    || tags.some((other, j) => i !== j && meet(tag, other))).length;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("count", [1, 7, 29])
def test_answers_stand_outside_all_faces(real_site, page, count):
    opened(page, real_site)
    photo = {1: "collins.jpg", 7: "solvay1927-left.jpg", 29: "solvay1927.jpg"}[count]
    upload(page, EXAMPLES / photo, "#result .fa-face")
    page.wait_for_function(PLACED, arg=count)
    page.wait_for_function(f"() => ({OVERLAPS})() === 0")
    assert page.locator(".fa-tag.fa-bare").count() <= count / 4


@pytest.mark.browser
def test_numbers_of_many_faces_do_not_cover_each_other_on_a_phone(real_site, phone):
    opened(phone, real_site)
    upload(phone, EXAMPLES / "solvay1927.jpg", "#result .fa-face")
    phone.wait_for_function(PLACED, arg=29)
    phone.wait_for_function(f"() => ({OVERLAPS})() <= 1")


@pytest.mark.browser
def test_the_page_is_small_and_asks_no_third_party(server, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    opened(page, server)
    for tab in TABS:
        turned_to(page, tab)
    page.wait_for_timeout(1_000)
    foreign = [u for u in asked if not u.startswith((server, "data:", "blob:"))]
    assert foreign == []
    assert len(page.request.get(server).body()) < 200_000


LINES = """cell => {
  const words = document.createRange();
  words.selectNodeContents(cell);
  return new Set([...words.getClientRects()].map((line) => line.top)).size;
}"""


@pytest.mark.browser
def test_words_of_the_cards_tables_are_whole_on_a_phone(real_site, phone):
    opened(phone, real_site)
    turned_to(phone, "Model")
    phone.get_by_role("button", name="The weights' card").click()
    cell = phone.locator("#card th", has_text="Southeast Asian").first
    cell.wait_for()
    assert cell.evaluate(LINES) <= 2
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_a_second_click_leaves_the_shares_of_a_collection(server, page, tmp_path):
    opened(page, server)
    turned_to(page, "Collection")
    photo = saved(tmp_path / "faces.png", red_cells(2))
    page.locator("#collection-files input[type=file]").set_input_files([photo, photo])
    page.wait_for_selector("#collection-files .file-preview")
    page.locator("#describe").click()
    page.wait_for_selector("#collection-result .fa-count")
    page.wait_for_selector("#collection-files .file-preview", state="detached")
    page.locator("#describe").click()
    page.get_by_text("No image came: drop some first").wait_for()
    expect(page.locator("#collection-result .fa-count")).to_be_visible()


@pytest.mark.browser
def test_tabs_say_what_is_in_use_how_to_call_it_and_what_it_is_not_for(server, page):
    opened(page, server)
    page.locator("#in-use", has_text="Detector: colour").wait_for()
    page.get_by_role("tab", name="Model").click()
    page.locator("#model", has_text="LightweightMTLNet224").wait_for()
    page.get_by_role("tab", name="Use it").click()
    expect(page.locator("#use")).to_contain_text(f'Client("{server.rstrip("/")}")')
    expect(page.locator("#use")).to_contain_text(f"{server}api/v1/predict")
    page.get_by_role("tab", name="Limits").click()
    page.locator("#limits", has_text="Article 5(1)(g)").wait_for()


@pytest.mark.browser
def test_the_page_works_by_keyboard_alone(server, page):
    opened(page, server)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "(() => { const e = document.activeElement;"
            " return e.id || e.getAttribute('aria-label') || e.innerText })()"
        )
        reached.append(name.strip())
        if name.strip() == "One face":
            page.keyboard.press("Enter")
            break
    assert "How often it is right" in reached
    page.wait_for_selector("#result .fa-message h2, #result .fa-face")


@pytest.mark.browser
def test_the_result_comes_into_view_on_a_phone(server, phone, tmp_path):
    opened(phone, server)
    upload(phone, saved(tmp_path / "faces.png", red_cells(5)), "#result .fa-face")
    bottom = "document.querySelector('.fa-figure').getBoundingClientRect().bottom"
    top = "document.querySelector('.fa-count').getBoundingClientRect().top"
    phone.wait_for_function(f"() => {bottom} < innerHeight && {top} >= 0")


@pytest.mark.browser
def test_nothing_is_cut_off_on_a_phone(server, phone, tmp_path):
    opened(phone, server)
    upload(phone, saved(tmp_path / "faces.png", red_cells(5)), "#result .fa-face")
    for tab in TABS:
        turned_to(phone, tab)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390, tab


OURS = (
    "[class*='fa-'], #result, #model, #use, #limits, #in-use, #examples, #card, #collection-result"
)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_in_what_we_wrote(server, browser, tmp_path, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; run: npm install --prefix tests")
    photo = saved(tmp_path / "faces.png", red_cells(2))
    for page in new_page(browser, color_scheme=scheme):
        opened(page, server)
        upload(page, photo, "#result .fa-face")
        page.locator("[data-why]").first.click()
        page.wait_for_selector(".fa-map img")
        page.get_by_role("tab", name="Collection").click()
        page.locator("#collection-files input[type=file]").set_input_files([photo, photo])
        page.wait_for_selector("#collection-files .file-preview")
        page.locator("#describe").click()
        page.wait_for_selector("#collection-result .fa-count")
        page.evaluate(AXE.read_text())
        ours, gradios = [], set()
        for tab in TABS:
            turned_to(page, tab)
            found = page.evaluate("axe.run(document)")
            assert len(found["passes"]) > 10
            for rule in found["violations"]:
                if rule["impact"] not in ("serious", "critical"):
                    continue
                for node in rule["nodes"]:
                    target = node["target"][0]
                    is_ours = page.evaluate(
                        "([t, ours]) => !!document.querySelector(t)?.closest(ours)", [target, OURS]
                    )
                    entry = f"{rule['id']}: {target}"
                    (ours.append(entry) if is_ours else gradios.add(entry))
        ARTIFACTS.mkdir(exist_ok=True)
        listed = json.dumps(sorted(gradios), indent=1)
        (ARTIFACTS / f"axe-gradio-{scheme}.json").write_text(listed)
        assert ours == []


@pytest.fixture(scope="module")
def real_site(tmp_path_factory):
    """The bundled weights behind YuNet."""
    pipeline = FacePipeline.from_pretrained()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with running(FaceService(pipeline)) as (url, _):
            yield url


@pytest.mark.browser
def test_real_photos_give_one_card_a_face(real_site, page, dark, phone, photos_dir, tmp_path):
    photo = photos_dir / "2008_004176.jpg"
    labelled = json.loads((photos_dir / "boxes.json").read_text())[photo.name]
    for view, name in ((page, "several-faces"), (phone, "phone"), (dark, "dark")):
        opened(view, real_site)
        upload(view, photo, "#result .fa-face")
        expect(view.locator("#result .fa-face")).to_have_count(len(labelled))
        screenshot(view, name)
    upload_again(page, EXAMPLES / "collins.jpg")
    page.locator(".fa-why select").select_option("age")
    page.locator("[data-why]").click()
    page.wait_for_selector(".fa-map img")
    screenshot(page, "one-face")
    turned_to(page, "Model")
    screenshot(page, "model")
    turned_to(page, "Use it")
    screenshot(page, "use")


def upload_again(page, photo):
    """Clear the field, then give it another photo."""
    page.locator("#picture").get_by_role("button", name="Remove Image").click()
    page.wait_for_selector("#result .fa-empty")
    upload(page, photo, "#result .fa-face")
    expect(page.locator("#result .fa-face")).to_have_count(1)


def test_the_tests_detector_sees_the_cells_that_were_drawn():
    for count in (0, 1, 2, 12, 60):
        assert len(ColourDetector().detect(red_cells(count))) == count
    assert np.array_equal(red_quarters(0), np.zeros((160, 200, 3)))
