"""Faces to label by hand: the sheet, the page, and what comes back."""

import base64
import csv
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import picture

from faceattr.audit.collect import collect
from faceattr.audit.labelled import LabelSample
from faceattr.audit.labelling import check_sheet, forget_crops, read_sheet, write_sheet
from faceattr.audit.sources import SourceOptions, open_collection
from faceattr.audit.work import Settings
from faceattr.errors import AuditError

CROPS = Settings(crops=True, backend="onnx")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(5)
    (root / "in").mkdir()
    for name in ("a", "b</script>", "c,d"):
        (root / "in" / f"{name}.jpg".replace("/", "_")).write_bytes(picture(rng, 40))
    found = collect(root / "in", root / "out", CROPS, SourceOptions(), quiet=True)
    return root, found


def write(audited, *rows):
    root, found = audited
    refs = open_collection(root / "in", SourceOptions()).refs
    sample = LabelSample(np.array(rows), np.array([0.5, 1.0]))
    return write_sheet(found.faces, sample, root / "out", refs, CROPS)


@pytest.fixture
def sheet(audited):
    return audited[0] / "out", write(audited, 0, 2)


def data_of(page):
    return json.loads(base64.b64decode(re.search(r'atob\("([^"]+)"\)', page.read_text())[1]))


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_sheet_names_faces_and_weights_and_leaves_the_labels_open(sheet, audited):
    folder, _ = sheet
    rows = rows_of(folder / "label-sheet.csv")
    faces = pq.read_table(audited[1].faces)
    assert [row["id"] for row in rows] == [faces["id"][n].as_py() for n in (0, 2)]
    assert [float(row["inclusion"]) for row in rows] == [0.5, 1.0]
    assert {row[task] for row in rows for task in ("gender", "age", "race")} == {""}


def test_the_page_shows_crops_and_no_answer_of_the_model(sheet):
    folder, page = sheet
    text = page.read_text()
    data = data_of(page)
    assert [row["row"] for row in data["rows"]] == [0, 2]
    assert set(data["rows"][0]) == {"row", "image", "id", "face", "inclusion"}
    assert sorted(p.name for p in (folder / "label-crops").iterdir()) == ["0.jpg", "2.jpg"]
    assert "http" not in text.replace("http-equiv", "")


def test_a_browser_keeps_labels_for_one_sheet_alone(sheet, audited):
    first = data_of(sheet[1])["key"]
    assert data_of(write(audited, 0, 1))["key"] != first == data_of(write(audited, 0, 2))["key"]
    assert '"faceattr-labels:" + data.key;' in sheet[1].read_text()


def test_forgetting_deletes_the_crops_and_the_page_but_not_the_labels(sheet):
    folder, page = sheet
    assert forget_crops(folder) == 2
    assert not page.exists() and not (folder / "label-crops").exists()
    assert (folder / "label-sheet.csv").exists()
    assert forget_crops(folder) == 0


def test_crops_that_stay_are_not_said_to_be_deleted(sheet, tmp_path, monkeypatch):
    crops = sheet[0] / "label-crops"
    shutil.move(crops, tmp_path / "elsewhere")
    crops.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="not all deleted: 'label-crops' is a link; delete them"):
        forget_crops(sheet[0])
    crops.unlink()
    shutil.move(tmp_path / "elsewhere", crops)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(AuditError, match="not all deleted: not permitted"):
        forget_crops(sheet[0])


def refuse(*_, ignore_errors=False):
    if not ignore_errors:
        raise PermissionError("not permitted")


def test_a_filled_in_sheet_is_read_by_class_names(sheet):
    folder, _ = sheet
    path = folder / "label-sheet.csv"
    text = path.read_text().splitlines()
    filled = "\n".join(
        [text[0], text[1][:-2] + "Female,70+,unclear", text[2][:-2] + "male,,Latino"]
    )
    path.write_text(filled + "\n")
    labels = read_sheet(path)
    assert labels.rows.tolist() == [0, 2]
    told = {name: codes.tolist() for name, codes in labels.true.items()}
    assert told == {"gender": [1, 0], "age": [8, -1], "race": [-1, 2]}
    assert labels.unclear == {"gender": 0, "age": 0, "race": 1}


def test_labels_of_other_faces_are_refused(sheet, audited):
    folder, _ = sheet
    path = folder / "label-sheet.csv"
    text = path.read_text().replace(",,,\n", ",Male,,\n")
    path.write_text(text)
    check_sheet(read_sheet(path), audited[1].faces)
    path.write_text(text.replace("a.jpg", "z.jpg"))
    with pytest.raises(AuditError, match="row 0 has the id 'a.jpg', the sheet 'z.jpg'"):
        check_sheet(read_sheet(path), audited[1].faces)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("row,inclusion,gender\n0,1,Woman\n", "line 2 of the labels.*'Woman' is not a class"),
        ("row,inclusion,gender\n0,1,\n", "holds no label yet"),
        ("gender\nMale\n", "lacks the columns"),
        ("row,inclusion,gender\nx,1,Male\n", "hold numbers"),
        ("row,inclusion,gender\n-1,1,Male\n", "hold numbers.*row -1 cannot be"),
        (f"row,inclusion,gender\n{10**30},1,Male\n", "hold numbers"),
        ("row,gender,inclusion\n1,Male\n", "hold numbers"),
    ],
)
def test_a_sheet_that_does_not_fit_is_refused_in_words(content, message, tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text(content)
    with pytest.raises(AuditError, match=message):
        read_sheet(path)


def test_an_image_that_is_named_like_a_formula_is_text_in_the_sheet(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "=1+1.jpg").write_bytes(picture(np.random.default_rng(5), 40))
    found = collect(tmp_path / "in", tmp_path / "out", CROPS, SourceOptions(), quiet=True)
    refs = open_collection(tmp_path / "in", SourceOptions()).refs
    sample = LabelSample(np.array([0]), np.array([1.0]))
    page = write_sheet(found.faces, sample, tmp_path / "out", refs, CROPS)
    sheet = tmp_path / "out" / "label-sheet.csv"
    assert rows_of(sheet)[0]["id"] == data_of(page)["rows"][0]["id"] == "'=1+1.jpg"
    for text in (sheet.read_text(), sheet.read_text().replace("'", "")):
        sheet.write_text(text.replace(",,,\n", ",Male,,\n"))
        check_sheet(read_sheet(sheet), found.faces)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_sheet_that_a_spreadsheet_saved_is_read(delimiter, tmp_path):
    path = tmp_path / "sheet.csv"
    lines = ["row", "id", "inclusion", "gender"], ["3", "é.jpg", "0.25", "Male"], [""] * 4
    text = "".join(delimiter.join(line) + "\r\n" for line in lines) + "a note\r\n"
    decimal = "." if delimiter == "," else ","
    path.write_bytes(text.replace("0.25", f"0{decimal}25").encode("utf-8-sig"))
    labels = read_sheet(path)
    assert (labels.rows.tolist(), labels.inclusion.tolist()) == ([3], [0.25])
    assert labels.faces == {"id": ["é.jpg"]}
