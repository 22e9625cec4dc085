"""A collection on the page: unpacking within limits, and what is said of it."""

import asyncio
import hashlib
import io
import struct
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from audit_data import FACTS, answers_for, calibration, classes_for
from synthetic import picture

from faceattr.audit.calibration import write_table
from faceattr.audit.measured import Question
from faceattr.audit.report import build_report
from faceattr.audit.words import WORTH_FACES
from faceattr.hub import WeightsFiles
from faceattr.labels import TASKS
from page.admission.gate import Gate
from page.admission.inbox import Inbox
from page.calls import Calls
from page.collection import Gathered, report, unpack
from page.errors import RequestError
from page.limits import Limits
from page.service import read
from page.view.collection import _described, render_collection
from page.view.encode import csv_text
from page.view.texts import filled

LIMITS = Limits(max_bytes=20_000, max_collection=5)
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
    assert [(i.name, read(i.content)) for i in items] == [("a/1.jpg", JPEG), ("a/2.PNG", b"x")]


def test_what_is_no_zip_stays_as_it_is():
    (item,) = unpack("image 1", JPEG, LIMITS)
    assert (item.name, item.content) == ("image 1", JPEG)


def test_one_image_too_large_is_told_and_the_others_stay():
    files = {"1.jpg": JPEG, "2.jpg": bytes(20_001)}
    first, second = unpack("upload", zipped(files, compression=zipfile.ZIP_DEFLATED), LIMITS)
    assert read(first.content) == JPEG
    with pytest.raises(RequestError, match="at most 20,000 bytes an image, came more"):
        read(second.content)


def test_of_all_zips_of_a_request_nothing_is_unpacked_before_its_turn_and_all_images_count():
    inbox = Inbox(LIMITS)
    three = zipped({f"{n}.jpg": JPEG for n in range(3)})
    tokens = [inbox.put(three) for _ in range(2)]
    held = inbox.held
    calls = Calls(SimpleNamespace(limits=LIMITS), Gate(1, 1, 9.0), inbox)
    with pytest.raises(RequestError, match="expected 1 to 5 images, came 6"):
        asyncio.run(_described(calls, tokens, False, None))
    (source, _) = inbox.sources(tokens, keep=True)
    items = unpack("upload", source, LIMITS)
    assert not any(isinstance(item.content, bytes) for item in items)
    assert [read(item.content) for item in items] == [JPEG] * 3 and inbox.held == held
    inbox.drop(tokens)
    assert inbox.held == 0
    with pytest.raises(RequestError, match="this upload is gone"):
        read(items[0].content)


@pytest.mark.parametrize("files", [{}, {f"{n}.jpg": b"x" for n in range(6)}, {"a.txt": b"x"}])
def test_too_many_or_no_images_are_refused(files):
    with pytest.raises(RequestError, match="expected 1 to 5 images"):
        unpack("upload", zipped(files) if files else zipped({"a.txt": b""}), LIMITS)


def test_a_zip_of_too_many_files_is_refused_unread():
    with pytest.raises(RequestError, match="at most 2,000 files in the zip, came 2,001"):
        unpack("upload", b"PK\x03\x04" + b"PK\x01\x02" * 2_001, LIMITS)


def far_away():
    """A zip whose file is said to begin where no memory reaches."""
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    entry = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 5, 5, 5, 12, *[0] * 4, -1 % 2**32
    )
    entry += b"1.jpg" + extra
    return b"PK\3\4" + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), 4, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\3\4" + bytes(50),
        far_away(),
        zipped({"é.jpg": JPEG}).replace("é".encode(), b"\xff\xff"),
        zipped({"1.jpg": bytes(99)}, compression=zipfile.ZIP_BZIP2),
        zipped({"1.jpg": bytes(99)}, compression=zipfile.ZIP_LZMA),
    ],
)
def test_a_damaged_or_unusual_zip_is_refused_in_words(content):
    with pytest.raises(RequestError, match="damaged, encrypted or of an unusual kind"):
        read(unpack("upload", content, LIMITS)[0].content)


def test_a_file_without_a_name_in_a_zip_is_passed_over():
    nameless = zipped({"1.jpg": JPEG, "a": b"x"}).replace(b"a", b"\0")
    assert len(unpack("upload", nameless, LIMITS)) == 1


def test_the_page_says_how_many_images_of_which_size_it_takes():
    limits = Limits(max_bytes=2_000_000, max_request_bytes=7_500_000, max_collection=9)
    words = filled("collection_intro.html", limits=limits, worth=WORTH_FACES).replace("\n", " ")
    assert "up to 9 images" in words
    assert "at most 2&nbsp;MB each and 7.5&nbsp;MB in all" in words


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


def test_a_name_that_is_a_formula_is_text_in_a_table():
    assert csv_text([{"name": "=1+1", "share": -0.5}]) == "name,share\n'=1+1,-0.5\n"


def test_a_report_is_of_the_weights_in_use_and_says_which_faces_it_lacks(gathered, tmp_path):
    content = b"the weights"
    table = calibration(np.random.default_rng(4))
    (tmp_path / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    files = WeightsFiles(tmp_path / "config.json", tmp_path / "model.safetensors", "made up")
    info = SimpleNamespace(
        model="made up", revision=None, detector="yunet", backend="onnx", mirror=False
    )
    pipeline = SimpleNamespace(info=info, files=files)
    service = SimpleNamespace(pipeline=pipeline, limits=LIMITS)
    found = []
    for sha256 in ("cd" * 32, digest):
        write_table(replace(table, weights_sha256=sha256), tmp_path / "audit.json")
        found.append(report(service, replace(gathered, truncated=2), crops=False))
    titles = [[one["title"] for one in values["warnings"]] for values in found]
    assert ["Nothing is corrected." in some for some in titles] == [True, False]
    assert ["Not all faces are counted:" in some for some in titles] == [True, True]
    assert dict(found[1]["provenance"])["Digest"] == f"model.safetensors {digest}"
