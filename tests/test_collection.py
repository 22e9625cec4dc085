"""A collection on the page: unpacking within limits, and what is said of it."""

import io
import zipfile

import numpy as np
import pytest
from audit_data import FACTS, answers_for, calibration, classes_for
from synthetic import picture

from faceattr.audit.measured import Question
from faceattr.audit.report import build_report
from faceattr.labels import TASKS
from page.collection import Gathered, unpack
from page.errors import RequestError
from page.limits import Limits
from page.view.collection import render_collection
from page.view.encode import csv_text

LIMITS = Limits(max_bytes=20_000, max_request_bytes=60_000, max_collection=5)
JPEG = picture(np.random.default_rng(0), 32)


def zipped(files, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_images_of_a_zip_come_out_by_name_and_other_files_stay_in():
    files = {"a/1.jpg": JPEG, "a/2.PNG": b"x", "notes.txt": b"x", "__MACOSX/1.jpg": b"x"}
    items = unpack("upload", zipped({**files, "a/.hidden.jpg": b"x"}), LIMITS)
    assert [(item.name, item.content) for item in items] == [("1.jpg", JPEG), ("2.PNG", b"x")]


def test_what_is_no_zip_stays_as_it_is():
    (item,) = unpack("image 1", JPEG, LIMITS)
    assert (item.name, item.content) == ("image 1", JPEG)


def test_one_image_too_large_is_told_and_the_others_stay():
    files = {"1.jpg": JPEG, "2.jpg": bytes(20_001)}
    first, second = unpack("upload", zipped(files, compression=zipfile.ZIP_DEFLATED), LIMITS)
    assert first.content == JPEG
    assert isinstance(second.content, RequestError) and second.content.kind == "too_large"


def test_a_bomb_is_refused_by_what_it_unpacks_to():
    bomb = zipped({f"{n}.jpg": bytes(19_000) for n in range(5)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2_000
    with pytest.raises(RequestError, match="at most 60,000 bytes of images") as caught:
        unpack("upload", bomb, LIMITS)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize("files", [{}, {f"{n}.jpg": b"x" for n in range(6)}, {"a.txt": b"x"}])
def test_too_many_or_no_images_are_refused(files):
    with pytest.raises(RequestError, match="expected 1 to 5 images"):
        unpack("upload", zipped(files) if files else zipped({"a.txt": b""}), LIMITS)


def test_a_damaged_zip_is_refused_in_words():
    with pytest.raises(RequestError, match="damaged, encrypted or of an unusual kind"):
        unpack("upload", b"PK\x03\x04" + bytes(50), LIMITS)


@pytest.fixture(scope="module")
def gathered():
    rng = np.random.default_rng(4)
    found = Gathered()
    found.add("broken.jpg", RequestError("bad_picture", "not <an> image"))
    answers = answers_for(rng, classes_for(rng, 40, 0.5))
    for n in range(40):
        row = {"image": n + 1, "name": f"{n}.jpg", "small": False, "blurred": False, "cut": False}
        for task in TASKS:
            shares = answers[task.name][n]
            row |= {f"{task.name}:{name}": s for name, s in zip(task.classes, shares, strict=True)}
            row |= {task.name: task.classes[shares.argmax()], f"{task.name}_unsure": n == 0}
        found.faces.append(row)
        found.images.append(
            {"image": n + 1, "name": f"{n}.jpg", "faces": 1, "error": "", "message": ""}
        )
    found.images.append({"image": 41, "name": "empty.jpg", "faces": 0, "error": "", "message": ""})
    return found


def test_what_is_shown_names_failures_and_says_how_little_few_faces_tell(gathered):
    report = build_report(
        gathered.collected(), FACTS, Question(), calibration(np.random.default_rng(4))
    )
    page = render_collection(report, gathered)
    assert "42 images, 40 faces" in page and "1 image without a face, 1 not read" in page
    assert "not &lt;an&gt; image" in page and "empty.jpg: no face found" in page
    assert "worth something from about 100 faces on" in page
    assert page.count("<figure>") == len(TASKS) and page.count(" download=") == 4


def test_tables_to_download_have_a_row_for_every_face_and_image(gathered):
    assert len(csv_text(gathered.faces).splitlines()) == 41
    images = csv_text(gathered.images).splitlines()
    assert len(images) == 43 and "bad_picture" in images[1]
