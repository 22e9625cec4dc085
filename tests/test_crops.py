"""Crops that are handed in: held against a training chip, turned, cut anew."""

import json
import pickle
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from faceattr import CropWarning, FacePipeline
from faceattr.__main__ import main
from faceattr.detection import YuNetDetector
from faceattr.errors import ArgumentError, DetectorError
from faceattr.results import Detection, FaceBox
from scripts.measure_detection import read_chips


@pytest.fixture(scope="module")
def pipeline():
    return FacePipeline.from_pretrained(backend="onnx")


@pytest.fixture(scope="module")
def chips(fairface_dir):
    return list(read_chips(fairface_dir, 20))


def wider(chip, factor):
    edge = round(chip.shape[0] * (factor - 1) / 2)
    return cv2.copyMakeBorder(chip, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(128,) * 3)


def quietly(pipeline, crops, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CropWarning)
        return pipeline.classify_crops(crops, **options)


def test_training_chips_pass_without_a_word(pipeline, chips):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = pipeline.classify_crops(chips[:5])
    assert [(face.crop_note, face.turn) for face in results] == [(None, 0)] * 5


@pytest.mark.parametrize("word", ["loose", "tight"])
def test_loose_and_tight_crops_are_answered_with_a_warning(pipeline, chips, word):
    tight = np.ascontiguousarray(chips[0][45:179, 45:179])
    crop = {"loose": wider(chips[0], 2), "tight": tight}[word]
    with pytest.warns(CropWarning, match=f"1 of 1 crops .* {word}.*align=True"):
        (face,) = pipeline.classify_crops([crop])
    assert word in face.crop_note
    assert face.to_dict()["crop_note"] == face.crop_note


def test_aligning_a_loose_crop_gives_the_chip_again(pipeline, chips):
    plain = quietly(pipeline, chips)
    loose = quietly(pipeline, [wider(chip, 2) for chip in chips])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aligned = pipeline.classify_crops([wider(chip, 2) for chip in chips], align=True)

    def same(others):
        pairs = [
            (a, b)
            for one, other in zip(plain, others, strict=True)
            for a, b in zip(one.attributes, other.attributes, strict=True)
        ]
        return sum(a.label == b.label for a, b in pairs)

    assert same(aligned) > same(loose)
    box = aligned[0].box
    assert aligned[0].detector == "yunet"
    assert aligned[0].crop.shape == (224, 224, 3)
    # The chip's face, within a border of half the chip's side.
    assert 112 < box.x + box.width / 2 < 336


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_crops_are_turned_back(pipeline, chips, turn):
    plain = quietly(pipeline, chips)
    turned = quietly(pipeline, [np.ascontiguousarray(np.rot90(chip, turn // 90)) for chip in chips])
    told = [face.turn == turn for face in turned]
    assert sum(told) >= 18
    assert np.array_equal(turned[told.index(True)].crop, plain[told.index(True)].crop)


def test_answers_about_a_crop_without_a_face_are_unsure(pipeline):
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    (face,) = pipeline.classify_crops([noise])
    assert "no face" in face.crop_note
    assert all(attribute.unsure for attribute in face.attributes)


class Undecided(YuNetDetector):
    """Never knows which side is up."""

    def detect(self, image, *given, **options):
        return [replace(face, turn_sure=False) for face in super().detect(image, *given, **options)]


def test_answers_about_a_crop_whose_turn_cannot_be_told_are_unsure(pipeline, chips):
    undecided = FacePipeline(pipeline.classifier, Undecided())
    assert not pipeline.classify_crops(chips[:1])[0].gender.unsure
    (face,) = undecided.classify_crops(chips[:1])
    assert "which side of the crop is up" in face.crop_note
    assert all(attribute.unsure for attribute in face.attributes)


def test_faces_narrower_than_the_least_are_left_out_once(pipeline, photos_dir):
    photo = photos_dir / "2008_002506.jpg"
    widths = sorted(face.box.width for face in pipeline(photo))
    kept = pipeline(photo, min_face=widths[0] + 0.1)
    assert sorted(face.box.width for face in kept) == widths[1:]
    strict = FacePipeline(pipeline.classifier, pipeline.detector, min_face=widths[0] + 0.1)
    assert len(strict(photo)) == len(widths) - 1


class OneTurned(YuNetDetector):
    """One face, 40 pixels from ear to ear, that lies on its side."""

    def detect(self, image, *given, **options):
        return [Detection(FaceBox(60, 60, 60, 40), 0.9, None, "yunet", 90)]


def test_the_width_of_a_turned_face_goes_from_ear_to_ear(pipeline):
    turned, image = (
        FacePipeline(pipeline.classifier, OneTurned()),
        np.zeros((200, 200, 3), np.uint8),
    )
    assert len(turned(image, min_face=39)) == 1
    assert turned(image, min_face=41) == []


def test_how_to_look_is_chosen_per_pipeline_and_per_call(pipeline, chips):
    image = np.full((3000, 4000, 3), 128, np.uint8)
    image[1000:1090, 2000:2090] = cv2.resize(chips[0], (90, 90))
    assert pipeline(image) == []
    assert len(pipeline(image, detect="thorough")) == 1
    thorough = FacePipeline(pipeline.classifier, pipeline.detector, detect="thorough")
    assert len(thorough(image)) == 1
    assert thorough(image, detect="fast") == []
    with pytest.raises(ArgumentError, match="'fast' or 'thorough', came 'slow'"):
        pipeline(image, detect="slow")


def test_haar_refuses_a_thorough_search_with_advice():
    haar = FacePipeline.from_pretrained(detector="haar", backend="onnx")
    with pytest.raises(DetectorError, match="'yunet'"):
        haar(np.zeros((64, 64, 3), np.uint8), detect="thorough")


@pytest.mark.parametrize("detector", ["yunet", "haar"])
def test_detectors_pickle(detector, photos_dir):
    from faceattr.detection import load_detector
    from faceattr.images import decode_image

    image = decode_image(photos_dir / "2008_002506.jpg")
    found = load_detector(detector)
    assert pickle.loads(pickle.dumps(found)).detect(image) == found.detect(image)


def test_the_command_line_looks_thoroughly_and_aligns_crops(chips, tmp_path, capsys):
    large = np.full((3000, 4000, 3), 128, np.uint8)
    large[1000:1090, 2000:2090] = cv2.resize(chips[0], (90, 90))
    photo, crop = tmp_path / "photo.png", tmp_path / "crop.png"
    Image.fromarray(large).save(photo)
    Image.fromarray(wider(chips[0], 2)).save(crop)
    counts = []
    for how in ("fast", "thorough"):
        assert main([str(photo), "--json", "--detect", how]) == 0
        counts.append(len(json.loads(capsys.readouterr().out)["faces"]))
    assert counts == [0, 1]
    assert main([str(crop), "--json", "--crops"]) == 0
    assert "loose" in capsys.readouterr().err
    assert main([str(crop), "--json", "--crops", "--align"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["faces"][0]["detector"] == "yunet"
    assert "note" not in err
