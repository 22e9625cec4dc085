import json

import numpy as np
import pytest

from faceattr.labels import AGE, GENDER, RACE
from faceattr.results import LANDMARKS, Attribute, FaceBox, FaceResult


def attribute(task, winner):
    values = np.full(len(task.classes), 0.5 / (len(task.classes) - 1))
    values[task.index(winner)] = 0.5
    return Attribute.from_probabilities(task, values, 0.6)


def face(**changes):
    values = {
        "box": FaceBox(1.26, 2, 30, 40),
        "score": 0.9,
        "landmarks": tuple((float(i), float(i)) for i in range(5)),
        "detector": "yunet",
        "crop": np.zeros((4, 4, 3), np.uint8),
        "gender": attribute(GENDER, "Female"),
        "age": attribute(AGE, "more than 70"),
        "race": attribute(RACE, "Latino_Hispanic"),
    }
    return FaceResult(**{**values, **changes})


def test_dict_is_json_with_names_for_everything():
    values = json.loads(json.dumps(face().to_dict()))
    assert list(values) == ["box", "score", "detector", "landmarks", "gender", "age", "race"]
    assert values["box"] == {"x": 1.3, "y": 2, "width": 30, "height": 40}
    assert list(values["landmarks"]) == list(LANDMARKS)
    assert values["age"]["label"] == "more than 70"
    assert values["age"]["display_label"] == "70+"
    assert list(values["race"]["probabilities"]) == list(RACE.classes)
    assert sum(values["race"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_dict_keeps_its_keys_without_a_detector():
    bare = face(score=None, landmarks=None, detector=None).to_dict()
    assert list(bare) == list(face().to_dict())
    assert bare["score"] is bare["landmarks"] is bare["detector"] is None


def test_the_likeliest_class_is_the_label():
    found = attribute(AGE, "30-39")
    assert (found.label, found.probability) == ("30-39", 0.5)


def test_an_answer_below_the_threshold_is_unsure():
    values = np.array([0.3, 0.7])
    assert Attribute.from_probabilities(GENDER, values, 0.71).to_dict()["unsure"] is True
    assert Attribute.from_probabilities(GENDER, values, 0.7).to_dict()["unsure"] is False


def test_the_wrong_number_of_probabilities_is_refused():
    with pytest.raises(ValueError, match="gender: expected 2"):
        Attribute.from_probabilities(GENDER, np.ones(3) / 3, 0.5)


def test_overlap_of_boxes():
    box = FaceBox(0, 0, 10, 10)
    assert box.iou(FaceBox(5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert box.iou(FaceBox(10, 0, 10, 10)) == 0
    assert box.iou(box) == 1
