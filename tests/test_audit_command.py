"""`faceattr audit` as its user gives it: what is refused, what is kept, what is read again."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import picture

from faceattr.__main__ import main
from faceattr.audit.sources import SourceOptions, open_collection

READ = ("--crops", "--backend", "onnx", "--workers", "1", "--quiet")
FACES = 50


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Fifty images, their audit, and a sheet to label all of them."""
    root = tmp_path_factory.mktemp("command")
    rng = np.random.default_rng(11)
    (root / "photos" / "class").mkdir(parents=True)
    for number in range(FACES):
        (root / "photos" / "class" / f"{number:02d}.jpg").write_bytes(picture(rng, 40))
    words = ["--output", str(root / "audit"), *READ, "--label-sample", str(FACES)]
    assert main(["audit", str(root / "photos"), *words]) == 0
    return root


@pytest.fixture
def here(begun, tmp_path, monkeypatch):
    """A copy of it, which is the working folder."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(*words):
    return main(["audit", *words, *READ])


def again(*words):
    """From the tables of an audit alone."""
    return main(["audit", *words, "--quiet"])


def names(source, **options):
    return [ref.id for ref in open_collection(source, SourceOptions(**options)).refs()]


def filled(path):
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "gender": "Male"} for row in rows)


def test_crops_are_forgotten_only_when_their_labels_were_used(here, capsys):
    crops = here / "audit" / "label-crops"
    sheet = here / "audit" / "label-sheet.csv"
    assert len(list(crops.iterdir())) == FACES
    for labels, said in (("nope.csv", "cannot be read"), (str(sheet), "holds no label yet")):
        assert again("audit", "--output", "audit", "--labels", labels, "--forget") == 2
        assert said in capsys.readouterr().err
        assert len(list(crops.iterdir())) == FACES
        assert (here / "audit" / "label-sheet.html").is_file()
    assert main(["audit", "--output", "audit", "--labels", str(sheet), "--forget"]) == 2
    assert crops.is_dir() and "expected a SOURCE" in capsys.readouterr().err
    filled(sheet)
    assert again("audit", "--output", "audit", "--labels", str(sheet), "--forget") == 0
    assert not crops.exists() and sheet.is_file()
    report = json.loads((here / "audit" / "report.json").read_text())
    assert report["labels"]["told"]["gender"] == FACES


def test_a_restart_leaves_no_crop_and_no_report_of_the_work_it_throws_away(here, monkeypatch):
    monkeypatch.setattr("faceattr.audit.collect._run", lambda *_: pytest.fail("run"))
    with pytest.raises(BaseException, match="run"):
        audit("photos", "--output", "audit", "--restart")
    left = sorted(path.name for path in (here / "audit").iterdir())
    assert left == [".lock", "label-sheet.csv", "parts", "run.json"]


def test_a_sheet_is_not_written_and_forgotten_at_once(here, capsys):
    words = ("--output", "audit", "--label-sample", "9", "--forget")
    assert audit("photos", *words) == 2
    assert "--label-sample writes the crops that --forget deletes" in capsys.readouterr().err
    assert (here / "audit" / "label-crops").is_dir()


def test_a_sheet_that_is_filled_in_is_not_written_over(here, capsys):
    sheet = here / "audit" / "label-sheet.csv"
    filled(sheet)
    labels = sheet.read_bytes()
    for content in (labels, labels.replace(b"class", "clässe".encode("latin-1"))):
        sheet.write_bytes(content)
        assert audit("photos", "--output", "audit", "--label-sample", "9") == 2
        assert "may hold labels, which a new sheet would replace" in capsys.readouterr().err
        assert sheet.read_bytes() == content


def test_what_an_audit_wrote_is_no_part_of_the_folder_it_lies_in(here, monkeypatch):
    whole = names("photos")
    shutil.move("audit", "photos/audit")
    assert names("photos") == names(f"{here}/photos/") == whole and len(whole) == FACES
    assert open_collection("photos", SourceOptions()).notes == ()
    assert names("photos/**/*.jpg") == [f"photos/{name}" for name in whole]
    assert len(names("photos/audit/label-crops/*.jpg")) == FACES
    monkeypatch.chdir("photos")
    assert names(".") == whole
    # Killed before its tables were made; and images of the collection's own beside the audit.
    for name in ("images.parquet", "faces.parquet"):
        os.replace(f"audit/{name}", f"audit/parts/{name}")
    shutil.copy("class/00.jpg", "audit/own.jpg")
    assert names(".") == ["audit/own.jpg", *whole]


def test_a_data_set_that_an_audit_lies_in_is_read_without_its_tables(here):
    (here / "set").mkdir()
    content = (here / "photos" / "class" / "00.jpg").read_bytes()
    pq.write_table(pa.table({"image": [{"bytes": content, "path": "a.jpg"}]}), "set/rows.parquet")
    expected = names("set")
    shutil.move("audit", "set/audit")
    assert names("set") == expected and len(expected) == 1


@pytest.mark.parametrize("spelling", ["photos", "photos/", "./photos", "{here}/photos"])
def test_the_spelling_of_a_source_does_not_count(spelling, here, capsys):
    # As audits were kept that knew the spelling only.
    run = json.loads((here / "audit" / "run.json").read_text())
    del run["located"]
    run["settings"]["source"] = "photos"
    (here / "audit" / "run.json").write_text(json.dumps(run))
    before = (here / "audit" / "faces.parquet").stat().st_mtime_ns
    assert audit(spelling.format(here=here), "--output", "audit") == 0, capsys.readouterr().err
    assert (here / "audit" / "faces.parquet").stat().st_mtime_ns == before


def test_another_source_is_refused_with_both(here, capsys):
    shutil.copytree("photos", "others")
    assert audit("others", "--output", "audit") == 2
    assert "SOURCE: here 'others', there '" in capsys.readouterr().err


def test_a_source_is_known_again_from_another_folder(here, monkeypatch, capsys):
    (here / "photos" / "few").mkdir()
    for number in range(3):
        shutil.copy(f"photos/class/{number:02d}.jpg", "photos/few")
    assert audit("photos/few", "--output", "few") == 0
    monkeypatch.chdir("photos")
    assert audit("few", "--output", "../few") == 0, capsys.readouterr().err


def test_other_columns_than_the_tables_hold_are_refused_by_option(here, capsys):
    assert audit("photos", "--output", "audit", "--by", "folder") == 2
    said = capsys.readouterr().err
    assert "--keep, --by, --truth and --prediction: here 'folder', there none" in said
    assert "when it is read" in said and "another --output" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("table.csv", "--truth", "t", "--prediction", "t"),
            "both name 't'; expected two different columns",
        ),
        (
            ("table.csv", "--merge", "age:a=0-2,3-9", "--merge", "age: b=0-2,3-9"),
            "expected one --merge for each task, came a second one for 'age'",
        ),
        (("photos/nope.csv",), "no such file or folder: 'photos/nope.csv'"),
        (("photos/nope.tar.gz",), "no such file or folder"),
        (("photos/nope.JPG",), "no such file or folder"),
        (("./photos",), "no such file or folder"),
        (("../nowhere/photos",), "no such file or folder"),
        (("~/nowhere",), "no such file or folder"),
    ],
)
def test_what_cannot_be_is_said_at_once(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: pytest.fail("asked"))
    assert audit(*words, "--output", "out") == 2
    assert said in capsys.readouterr().err


def test_own_bins_of_two_tasks_are_two_tables(here):
    words = ("--merge", "age:child=0-2,3-9,10-19", "--merge", "race:asian=East Asian,Indian")
    assert again("audit", "--output", "audit", *words) == 0
    report = json.loads((here / "audit" / "report.json").read_text())
    own = [table["name"] for table in report["tasks"] if "own bins" in table["name"]]
    assert own == ["age (own bins)", "race (own bins)"]


def test_one_column_may_split_the_faces_and_hold_the_truth(here):
    faces = pq.read_table("audit/faces.parquet")
    for name in ("said", "true"):
        column = pa.array(["a", "b"] * (FACES // 2))
        faces = faces.append_column(f"source:{name}", column)
    (here / "foreign").mkdir()
    pq.write_table(faces, "foreign/faces.parquet")
    shutil.copy("audit/run.json", "foreign")
    words = ("--by", "true", "--truth", "true", "--prediction", "said")
    assert again("foreign/faces.parquet", "--output", "out", *words) == 0
    report = json.loads((here / "out" / "report.json").read_text())
    assert [row["faces"] for row in report["by"]["tables"][0]["rows"]] == [FACES / 2, FACES / 2]
    assert report["other_system"]["rates"][0]["faces"] == FACES
