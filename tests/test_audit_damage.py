"""Names, archives and folders that are not as they should be: told or kept, never dropped."""

import io
import ntpath
import os
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import picture

from faceattr.__main__ import main
from faceattr.audit import folders
from faceattr.audit.collect import collect, weights_facts
from faceattr.audit.places import folder_of, shown_below
from faceattr.audit.sources import SourceOptions, open_collection
from faceattr.audit.work import Settings, Worker
from faceattr.errors import AuditError, DetectorError

CROPS = Settings(crops=True, backend="onnx")


@pytest.fixture(scope="module")
def jpeg():
    return picture(np.random.default_rng(3), 40)


def refused(capsys, *words):
    assert main(["audit", *map(str, words)]) == 2
    return capsys.readouterr().err


def archive(path, names, content=b"content"):
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def names(source, *columns):
    return [ref.id for ref in open_collection(source, SourceOptions(columns=columns)).refs()]


def test_a_file_name_that_is_no_utf_8_is_shown_with_escapes(jpeg, tmp_path, capsys):
    source = os.fsencode(tmp_path / "photos") + b"\xe9"
    os.mkdir(source)
    for name in (b"good.jpg", b"caf\xe9.jpg"):
        with open(os.path.join(source, name), "wb") as stream:
            stream.write(jpeg)
    output = tmp_path / "audit"
    words = ("--output", str(output), "--crops", "--backend", "onnx", "--workers", "1")
    for _ in range(2):  # Its name in run.json is the folder's again.
        assert main(["audit", os.fsdecode(source), *words, "--quiet"]) == 0
    ids = pq.read_table(output / "images.parquet")["id"].to_pylist()
    assert ids == ["caf\\udce9.jpg", "good.jpg"]
    # Markdown shows one of two backslashes.
    assert r"photos\\udce9" in (output / "report.md").read_text()


@pytest.mark.parametrize("cut", [1024 + 100, 2048 + 3, 1536 + 7])
def test_an_archive_that_ends_within_a_member_is_refused(tmp_path, cut):
    """Members take two blocks of 512 bytes: within a header, the content and the padding."""
    path = archive(tmp_path / "shard.tar", ["0.jpg", "1.jpg", "2.jpg"])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AuditError, match=r"'shard.tar' is damaged or cut behind '[01].jpg'"):
        names(path)


def test_an_archive_with_a_damaged_header_is_refused_and_one_without_an_end_is_not(tmp_path):
    path = archive(tmp_path / "shard.tar", [f"{number}.jpg" for number in range(5)])
    whole = path.read_bytes()
    path.write_bytes(whole[: 5 * 1024])
    assert len(names(path)) == 5
    path.write_bytes(whole[:2050] + b"\xff" + whole[2051:])
    with pytest.raises(AuditError, match="behind '1.jpg'"):
        names(path)


@pytest.mark.parametrize("content", [b'{"cls": ', b'["cls"]'])
def test_columns_of_an_archive_that_are_no_json_object_are_named(tmp_path, content):
    path = archive(tmp_path / "shard.tar", ["0.jpg", "0.json"], content)
    assert len(names(path)) == 1
    with pytest.raises(AuditError, match=r"'0.json' in the archive 'shard.tar': expected a JSON"):
        names(path, "cls")


def test_what_the_detector_lacks_is_no_damage_of_images(tmp_path, capsys):
    said = refused(
        capsys, tmp_path, "--output", tmp_path / "a", "--detector", "haar", "--detect", "thorough"
    )
    assert "--detect thorough: YuNet only" in said
    with pytest.raises(DetectorError, match="thorough"):
        Worker(Settings(detector="haar", detect="thorough", backend="onnx"))


def test_an_output_that_cannot_be_one_is_refused(jpeg, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg)
    said = refused(capsys, tmp_path / "photos", "--output", tmp_path / "photos")
    assert "is SOURCE itself; give a folder of its own" in said
    assert os.listdir(tmp_path / "photos") == ["a.jpg"]
    collect(tmp_path / "photos", tmp_path / "audit", CROPS, SourceOptions(), quiet=True)
    (tmp_path / "f.txt").write_text("mine")
    assert "give a folder" in refused(capsys, tmp_path / "audit", "--output", tmp_path / "f.txt")
    (tmp_path / "audit" / "run.json").write_text('{"facts": ')
    said = refused(capsys, tmp_path / "audit", "--output", tmp_path / "new")
    assert "run.json in" in said and "--restart" in said


def test_a_folder_that_cannot_be_read_or_holds_only_a_table_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("file\na.jpg\n")
    with pytest.raises(AuditError, match=r"give a table or list itself as SOURCE: '.*table.csv'"):
        open_collection(tmp_path, SourceOptions())

    def locked(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(folders.os, "scandir", locked)
    with pytest.raises(AuditError, match="cannot be read: Permission denied; make it readable"):
        open_collection(tmp_path, SourceOptions())


def test_folders_and_ids_of_windows_paths(monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr(os, "path", ntpath)
        windows.setattr(os, "sep", "\\")
        found = folder_of("C:\\photos\\class\\1.jpg"), folder_of("s3://bucket/class/1.jpg")
        shown = shown_below("C:\\shards", "C:\\shards\\first\\0.tar")
    assert found == ("class", "class") and shown == "first/0.tar"


def test_the_digest_is_of_the_file_that_answers(tmp_path):
    files = [weights_facts(Settings(backend=name))["file"] for name in ("onnx", "torch")]
    assert files == ["model.onnx", "model.safetensors"]


def test_images_of_an_archive_whose_names_differ_in_case_are_all_there(tmp_path):
    path = archive(tmp_path / "a.tar", ["x/a.JPG", "x/a.jpg", "x/a.CLS"], b"7")
    refs = list(open_collection(path, SourceOptions(columns=("cls",))).refs())
    assert [ref.name for ref in refs] == ["x/a.JPG", "x/a.jpg"]
    assert {ref.columns["cls"] for ref in refs} == {"7"}
