"""What the command says of options that would change nothing, and of what it cannot use."""

import io
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import picture

from faceattr.__main__ import main
from faceattr.hub import BUNDLED_NAMES


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Three images of one face each."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("crops")
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(picture(rng, 60))
    return folder


@pytest.fixture(scope="module")
def earlier(crops, tmp_path_factory):
    """An audit of them."""
    output = tmp_path_factory.mktemp("earlier") / "audit"
    command = ["audit", str(crops), "--output", str(output), "--crops", "--workers", "1"]
    assert main([*command, "--quiet"]) == 0
    return output


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs an audit that must not start; what it says."""

    def run(source, *options):
        output = tmp_path / "new" / "audit"
        assert main(["audit", str(source), "--output", str(output), *options]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "option",
    [
        "--sample 3",
        "--crops",
        "--detector haar",
        "--min-face 99",
        "--mirror",
        "--root .",
        "--split test",
        "--keep folder",
        "--workers 2",
        "--restart",
    ],
)
def test_an_earlier_audit_refuses_what_only_reading_images_would_need(earlier, refused, option):
    said = refused(earlier, *option.split())
    assert option.split()[0] in said and "has no effect with an earlier audit" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--split test", "--split: has no effect with a folder of images"),
        ("--root /else", "--root: has no effect with a folder of images"),
        ("--http", "--http: has no effect with a folder of images"),
        ("--image-column file", "--image-column: has no effect with a folder of images"),
        ("--ray-address auto", "--ray-address: has no effect with the local engine"),
        ("--crops --detector haar", "--detector haar: has no effect with --crops"),
        ("--crops --min-face 99", "--min-face: has no effect with --crops"),
        ("--crops --detect thorough", "--detect thorough: has no effect with --crops"),
    ],
)
def test_a_folder_refuses_what_it_has_no_use_for(crops, refused, options, said):
    assert said in refused(crops, *options.split())


def test_weights_named_with_an_earlier_audit_must_be_those_that_answered(earlier, tmp_path, capsys):
    again = ["audit", str(earlier), "--output", str(tmp_path / "again"), "--model"]
    assert main([*again, BUNDLED_NAMES[0]]) == 0
    assert "Nothing is corrected" not in capsys.readouterr().out
    assert main([*again, BUNDLED_NAMES[1]]) == 2
    assert "other weights than those that answered; leave --model out" in capsys.readouterr().err


def test_a_table_of_faces_alone_is_corrected_once_its_weights_are_named(earlier, tmp_path, capsys):
    alone = tmp_path / "alone.parquet"
    alone.write_bytes((earlier / "faces.parquet").read_bytes())
    command = ["audit", str(alone), "--output", str(tmp_path / "again")]
    assert main(command) == 0
    assert "Which weights answered is not known" in capsys.readouterr().out
    assert main([*command, "--model", BUNDLED_NAMES[0]]) == 0
    assert "Nothing is corrected" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_start_without_an_image_leaves_nothing(tmp_path, refused, monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert "standard input is empty; expected a path or an address a line" in refused("-")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no image" in refused(empty)
    (tmp_path / "empty.txt").write_bytes(content)
    assert "is empty" in refused(tmp_path / "empty.txt")
    assert not (tmp_path / "new").exists()


def test_a_start_that_fails_keeps_what_lay_in_the_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "empty").mkdir()
    assert main(["audit", str(tmp_path / "empty"), "--output", str(tmp_path / "mine")]) == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_restart_with_a_source_that_is_not_there_throws_nothing_away(earlier, tmp_path):
    command = ["audit", str(tmp_path / "gone"), "--output", str(earlier), "--restart"]
    assert main(command) == 2
    assert (earlier / "faces.parquet").is_file() and (earlier / "run.json").is_file()


def test_the_table_of_images_of_an_audit_is_known_for_what_it_is(earlier, refused):
    said = refused(earlier / "images.parquet")
    assert "an earlier audit's table of images; give its folder or faces.parquet" in said


def test_a_row_that_fails_names_what_was_looked_for_and_none_read_is_no_result(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("file\nphotos/gone.jpg\n/else/where.jpg\n")
    output = tmp_path / "audit"
    command = ["audit", str(tmp_path / "list.csv"), "--output", str(output), "--root", "/nowhere"]
    assert main([*command, "--workers", "1"]) == 2
    said = capsys.readouterr()
    first = "there is no file 'photos/gone.jpg' below '/nowhere'"
    assert f"2 × missing, for example list.csv#0: {first}" in said.out
    assert "No image could be read." in said.out and "no image could be read" in said.err
    assert "No face was found, so there are no shares." in said.out and "wide" not in said.out
    messages = pq.read_table(output / "images.parquet")["message"].to_pylist()
    assert messages == [first, "there is no file '/else/where.jpg'"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(["White"]), "expected a JSON object of shares by task and class"),
        (json.dumps({"sex": {"Male": 1}}), "came {'sex': {'Male': 1}}"),
        (None, "No such file or directory"),
    ],
)
def test_a_reference_that_is_none_is_told_in_words(crops, tmp_path, refused, content, said):
    path = tmp_path / "reference.json"
    if content is not None:
        path.write_text(content)
    found = refused(crops, "--reference", str(path))
    assert said in found and "Errno" not in found and "sequence" not in found
