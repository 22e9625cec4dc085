"""Detectors: counts on labelled photos, and the choice between them."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceattr.alignment import CHIP_LANDMARKS, align_face
from faceattr.detection import (
    YUNET_ENV,
    YUNET_FILE,
    HaarDetector,
    YuNetDetector,
    load_detector,
)
from faceattr.errors import DetectorError
from faceattr.images import decode_image
from faceattr.results import Detection, FaceBox
from scripts.measure_detection import count_matches, measure_photos, read_chips, search

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def yunet():
    return YuNetDetector(YUNET_FILE)


@pytest.fixture(scope="module")
def haar():
    return HaarDetector()


@pytest.fixture(scope="module")
def group_photo(photos_dir):
    return decode_image(photos_dir / "2008_002506.jpg")


def test_yunet_finds_every_labelled_face_and_no_other(photos_dir, yunet):
    total = measure_photos(search(yunet), photos_dir)
    assert (total["labelled"], total["found"], total["false"]) == (43, 43, 0)


def test_haar_finds_41_of_43_labelled_faces_with_3_false_at_most(photos_dir, haar):
    total = measure_photos(search(haar), photos_dir)
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
    faces = yunet.detect(group_photo)
    assert len(faces) == 3
    for face in faces:
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
        assert len(small_faces) == len(large_faces) == 3
        for small in small_faces:
            box = FaceBox(*(3 * v for v in vars(small.box).values()))
            match = max(large_faces, key=lambda other, box=box: other.box.iou(box))
            assert match.box.iou(box) > 0.75
            if small.landmarks is not None:
                apart = np.array(match.landmarks) - 3 * np.array(small.landmarks)
                assert np.abs(apart).max() < 0.1 * box.width


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


def test_what_was_looked_at_before_changes_no_answer(group_photo, yunet):
    """Networks are kept for a few sizes; here come more than are kept, and all of them again."""
    sides = (640, 320, 300, 250, 224, 180, 150, 112, 90, 60)
    images = [cv2.resize(group_photo, (side, side * 3 // 4)) for side in sides]
    alone = [YuNetDetector().detect(image) for image in images]
    assert sum(map(bool, alone)) >= 8
    for _ in range(2):
        assert [yunet.detect(image) for image in images] == alone
        assert [yunet.detect(image) for image in images[::-1]] == alone[::-1]


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
    faces = haar.detect(group_photo)
    assert len(faces) == 3
    for found in faces:
        seen = yunet.detect(align_face(group_photo, found))
        points = np.array(seen[0].landmarks) / 224
        assert np.linalg.norm(points - np.array(CHIP_LANDMARKS), axis=1).mean() < 0.12


def test_unknown_kinds_are_refused():
    with pytest.raises(DetectorError, match="'auto', 'yunet' or 'haar', came 'mtcnn'"):
        load_detector("mtcnn")


def test_yunet_comes_with_the_package_and_auto_means_it(monkeypatch, tmp_path):
    monkeypatch.delenv(YUNET_ENV, raising=False)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(run.stdout) == {"names": ["yunet", "yunet", "haar"], "new": ["MainThread"]}
    assert list(tmp_path.iterdir()) == []


PROBE = """
import json, socket, threading

def refuse(*_, **__):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
from faceattr.detection import load_detector
names = [load_detector(kind).name for kind in ("auto", "yunet", "haar")]
print(json.dumps({"names": names, "new": [t.name for t in threading.enumerate()]}))
"""


def test_a_configured_file_is_used_instead(monkeypatch, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(YUNET_FILE.read_bytes())
    monkeypatch.setenv(YUNET_ENV, str(other))
    monkeypatch.setattr("faceattr.detection.YUNET_FILE", tmp_path / "gone.onnx")
    for kind in ("auto", "yunet"):
        assert load_detector(kind).name == "yunet"


@pytest.mark.parametrize("kind", ["auto", "yunet"])
def test_a_configured_file_that_is_no_model_is_an_error(monkeypatch, tmp_path, kind):
    monkeypatch.setenv(YUNET_ENV, str(tmp_path / "gone.onnx"))
    with pytest.raises(DetectorError, match="no file 'gone.onnx'") as caught:
        load_detector(kind)
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "gone.onnx").write_bytes(b"not a network")
    with pytest.raises(DetectorError, match="cannot load 'gone.onnx'"):
        load_detector(kind)
