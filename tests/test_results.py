import base64
import json
import sys
from io import BytesIO
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from faceattr.labels import AGE, GENDER, RACE
from faceattr.results import LANDMARKS, ROW, Attribute, FaceBox, FaceResult, to_pandas


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
    assert list(values) == ["box", "score", "detector", "landmarks", "turn", "crop_note"] + [
        "gender",
        "age",
        "race",
        "age_range",
    ]
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


def test_a_face_is_shown_in_one_line():
    shown = repr(face())
    assert shown.startswith("FaceResult(1,2 30×40, gender='Male? 50%', age='70+? 50%'")
    assert len(shown) < 200
    assert shown in repr([face()])


def test_a_notebook_shows_the_crop_and_the_answers():
    shown = face(crop=np.full((9, 9, 3), 7, np.uint8))._repr_html_()
    content = shown.partition("data:image/png;base64,")[2].partition('"')[0]
    with Image.open(BytesIO(base64.b64decode(content))) as crop:
        assert crop.getpixel((3, 3)) == (7, 7, 7)
    for text in ("Male ?", "70+ ?", "Latino/Hispanic ?", "50%", "age range"):
        assert text in shown


def test_show_uses_the_notebook_where_one_runs_this(monkeypatch):
    shown = []
    shell = ModuleType("IPython")
    shell.get_ipython = lambda: object()
    part = ModuleType("IPython.display")
    part.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", part)
    one = face()
    one.show()
    assert shown == [one]


def test_show_prints_and_opens_the_crop_elsewhere(monkeypatch, capsys):
    opened = []
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr("PIL.Image.Image.show", lambda image: opened.append(image.size))
    face().show()
    assert capsys.readouterr().out == f"{face()!r}\n"
    assert opened == [(4, 4)]


def test_a_flat_row_has_the_columns_it_promises():
    row = face().to_row()
    assert tuple(row) == ROW
    assert (row["x"], row["gender"], row["age"], row["age_unsure"]) == (1.3, "Male", "70+", True)
    assert json.loads(json.dumps(row)) == row


def test_tables_of_one_image_of_several_and_of_named_ones():
    pandas = pytest.importorskip("pandas")
    one = to_pandas([face(), face()])
    assert list(one.columns) == ["face", *ROW]
    assert one["face"].tolist() == [1, 2]
    several = to_pandas([[face()], [], [face(), face()]])
    assert list(several.columns) == ["image", "face", *ROW]
    assert several[["image", "face"]].values.tolist() == [[0, 1], [2, 1], [2, 2]]
    # An image column wherever there may be several, even without a face.
    assert list(to_pandas([[], []]).columns) == list(to_pandas({"a": []}).columns)
    assert to_pandas([[], []]).columns[0] == "image"
    named = to_pandas({"a.jpg": [face()], "b.jpg": []})
    assert named["image"].tolist() == ["a.jpg"]
    assert to_pandas({"a.jpg": face()})["image"].tolist() == ["a.jpg"]
    assert to_pandas({}).columns[0] == "image"
    assert len(to_pandas(face())) == 1
    assert list(to_pandas([]).columns) == ["face", *ROW]
    assert isinstance(named, pandas.DataFrame)
    for wrong in (["a"], 3, [[face()], None], {"a": None}):
        with pytest.raises(TypeError, match="results: expected what a pipeline returns"):
            to_pandas(wrong)


def test_without_pandas_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        to_pandas([])
