"""Detectors: counts on labelled photos, the choice between them, and the wait for the Hub."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from faceattr import detection
from faceattr.alignment import CHIP_LANDMARKS, align_face
from faceattr.detection import (
    DetectorStatus,
    HaarDetector,
    YuNetDetector,
    load_detector,
)
from faceattr.errors import DetectorError
from faceattr.images import decode_image
from faceattr.results import Detection, FaceBox
from scripts.measure_detection import count_matches, measure_photos, read_chips

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def fresh(monkeypatch):
    """A process that has not asked the Hub yet and has no YuNet configured."""
    monkeypatch.delenv(detection.YUNET_ENV, raising=False)
    detection._ask_hub.cache_clear()
    yield
    detection._ask_hub.cache_clear()


@pytest.fixture(scope="module")
def yunet(yunet_path):
    return YuNetDetector(yunet_path)


@pytest.fixture(scope="module")
def haar():
    return HaarDetector()


@pytest.fixture(scope="module")
def group_photo(photos_dir):
    return decode_image(photos_dir / "2008_002506.jpg")


def test_yunet_finds_every_labelled_face_and_no_other(photos_dir, yunet):
    total = measure_photos(yunet, photos_dir)["total"]
    assert (total["labelled"], total["found"], total["false"]) == (43, 43, 0)


def test_haar_finds_41_of_43_labelled_faces_with_3_false_at_most(photos_dir, haar):
    total = measure_photos(haar, photos_dir)["total"]
    assert total["labelled"] == 43
    assert total["found"] >= 41
    assert total["false"] <= 3


def test_matching_counts_each_face_and_each_box_once():
    truth = [FaceBox(0, 0, 10, 10), FaceBox(100, 0, 10, 10)]
    boxes = [FaceBox(1, 0, 10, 10), FaceBox(0, 2, 10, 10), FaceBox(100, 7, 10, 10)]
    faces = [Detection(box, 1.0, None, "test") for box in boxes]
    assert count_matches(faces, truth) == (1, 2)
    assert count_matches([], truth) == (0, 0)
    assert count_matches(faces, []) == (0, 3)


def test_faces_come_largest_first_with_the_detectors_name(group_photo, yunet, haar):
    for detector in (yunet, haar):
        faces = detector.detect(group_photo)
        areas = [face.box.area for face in faces]
        assert len(faces) == 3
        assert areas == sorted(areas, reverse=True)
        assert {face.detector for face in faces} == {detector.name}


def test_yunet_gives_five_points_inside_the_box_and_haar_none(group_photo, yunet, haar):
    for face in yunet.detect(group_photo):
        assert len(face.landmarks) == 5
        assert 0.7 <= face.score <= 1
        for x, y in face.landmarks:
            assert face.box.x < x < face.box.x + face.box.width
            assert face.box.y < y < face.box.y + face.box.height
        # The pictured person's right eye is on our left.
        assert face.landmarks[0][0] < face.landmarks[1][0]
    assert all(face.landmarks is None for face in haar.detect(group_photo))


def test_boxes_and_points_scale_with_the_picture(group_photo, yunet, haar):
    large = np.ascontiguousarray(group_photo.repeat(3, axis=0).repeat(3, axis=1))
    for detector in (yunet, haar):
        small_faces, large_faces = detector.detect(group_photo), detector.detect(large)
        assert len(small_faces) == len(large_faces)
        for small in small_faces:
            box = FaceBox(*(3 * v for v in vars(small.box).values()))
            match = max(large_faces, key=lambda other, box=box: other.box.iou(box))
            assert match.box.iou(box) > 0.75
            if small.landmarks is not None:
                apart = np.array(match.landmarks) - 3 * np.array(small.landmarks)
                assert np.abs(apart).max() < 0.1 * box.width


def test_boxes_narrower_than_min_face_are_dropped(group_photo, yunet_path):
    for make in (lambda **k: YuNetDetector(yunet_path, **k), HaarDetector):
        widths = sorted(face.box.width for face in make().detect(group_photo))
        kept = make(min_face=widths[0] + 0.1).detect(group_photo)
        assert sorted(face.box.width for face in kept) == widths[1:]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (700, 2, 3), (64, 64, 3)])
def test_pictures_without_a_face_give_an_empty_list(shape, haar, request):
    picture = np.full(shape, 128, np.uint8)
    assert haar.detect(picture) == []
    assert request.getfixturevalue("yunet").detect(picture) == []


def test_other_arrays_are_refused(haar):
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        haar.detect(np.zeros((40, 40), np.uint8))


def test_threads_of_one_detector_get_their_own_pictures_faces(photos_dir, yunet):
    pictures = [decode_image(path) for path in sorted(photos_dir.glob("*.jpg"))[:3]]
    pictures[1] = np.ascontiguousarray(pictures[1][:, :300])
    alone = [yunet.detect(picture) for picture in pictures]
    wrong = []

    def work(index):
        for _ in range(6):
            if yunet.detect(pictures[index]) != alone[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_landmarks_of_an_aligned_crop_lie_near_the_template(group_photo, fairface_dir, yunet):
    crops = [align_face(group_photo, face) for face in yunet.detect(group_photo)]
    for chip in read_chips(fairface_dir, 25):
        crops.extend(align_face(chip, face) for face in yunet.detect(chip)[:1])
    apart = []
    for crop in crops:
        faces = yunet.detect(crop)
        if faces:
            points = np.array(faces[0].landmarks) / crop.shape[0]
            apart.append(np.linalg.norm(points - np.array(CHIP_LANDMARKS), axis=1).mean())
    assert len(apart) >= 25
    assert np.median(apart) < 0.04


def test_crops_by_haar_boxes_resemble_those_by_landmarks(group_photo, yunet, haar):
    for found in haar.detect(group_photo):
        seen = yunet.detect(align_face(group_photo, found))
        points = np.array(seen[0].landmarks) / 224
        assert np.linalg.norm(points - np.array(CHIP_LANDMARKS), axis=1).mean() < 0.12


def test_unknown_kinds_are_refused():
    with pytest.raises(DetectorError, match="'auto', 'yunet' or 'haar', came 'mtcnn'"):
        load_detector("mtcnn")


def test_the_configured_file_is_used(fresh, monkeypatch, yunet_path):
    monkeypatch.setenv(detection.YUNET_ENV, str(yunet_path))
    for kind in ("auto", "yunet"):
        assert load_detector(kind).status == DetectorStatus("yunet")


@pytest.mark.parametrize("kind", ["auto", "yunet"])
def test_a_configured_file_that_is_no_model_is_an_error(fresh, monkeypatch, tmp_path, kind):
    monkeypatch.setenv(detection.YUNET_ENV, str(tmp_path / "gone.onnx"))
    with pytest.raises(DetectorError, match="no file 'gone.onnx'") as caught:
        load_detector(kind)
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "gone.onnx").write_bytes(b"not a network")
    with pytest.raises(DetectorError, match="cannot load 'gone.onnx'"):
        load_detector(kind)


def test_without_yunet_auto_is_haar_with_the_reason_and_yunet_an_error(fresh, monkeypatch):
    asked = []
    monkeypatch.setattr(detection, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(detection.hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        detection, "_download", lambda outcome: (asked.append(1), outcome.append("it refused"))
    )
    for _ in range(2):
        status = load_detector("auto").status
        assert status == DetectorStatus("haar", "YuNet is not available: it refused")
        with pytest.raises(DetectorError, match=rf"it refused\..*{detection.YUNET_ENV}"):
            load_detector("yunet")
    assert asked == [1]
    assert load_detector("haar").status == DetectorStatus("haar")


def test_offline_mode_asks_nobody(fresh, monkeypatch):
    monkeypatch.setattr(detection, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(detection.hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(detection, "_download", lambda _: pytest.fail("the Hub was asked"))
    assert "HF_HUB_OFFLINE" in load_detector("auto").status.fallback_reason


@pytest.mark.parametrize("cached", [True, False])
def test_a_file_of_the_pinned_content_is_used_and_any_other_refused(
    fresh, monkeypatch, yunet_path, cached
):
    hit = str(yunet_path) if cached else None
    monkeypatch.setattr(detection, "try_to_load_from_cache", lambda *_, **__: hit)
    monkeypatch.setattr(detection.hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(detection, "_download", lambda outcome: outcome.append(yunet_path))
    with pytest.raises(DetectorError, match="was refused"):
        load_detector("yunet")
    assert load_detector("auto").name == "haar"
    digest = hashlib.sha256(yunet_path.read_bytes()).hexdigest()
    monkeypatch.setattr(detection, "YUNET_SHA256", digest)
    detection._ask_hub.cache_clear()
    assert load_detector("auto").status == DetectorStatus("yunet")


@contextmanager
def silent_server():
    """A port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


PROBE = """
import json, time
from faceattr.detection import load_detector
spent = []
for _ in range(2):
    started = time.perf_counter()
    status = load_detector("auto").status
    spent.append(time.perf_counter() - started)
print(json.dumps([status.name, status.fallback_reason, *spent]))
"""


def ask(endpoint, cache):
    """Load "auto" twice in a process of its own, whose Hub is `endpoint`."""
    hidden = ("HF_HUB_OFFLINE", detection.YUNET_ENV)
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(run.stdout)


def test_a_hub_that_never_answers_costs_at_most_3_s_and_once(tmp_path):
    with silent_server() as endpoint:
        started = time.perf_counter()
        name, reason, first, second = ask(endpoint, tmp_path)
        whole = time.perf_counter() - started
    assert name == "haar"
    assert "YuNet is not available" in reason
    # Two cascades are loaded within these times as well: about 0.1 s, more on a busy machine.
    assert first < 3 + second
    assert second < 1
    assert whole < 30


def test_a_hub_that_refuses_connections_costs_no_retries(tmp_path):
    with silent_server() as endpoint:
        pass
    name, reason, first, _ = ask(endpoint, tmp_path)
    assert name == "haar"
    assert "Hub" in reason
    assert first < 3
