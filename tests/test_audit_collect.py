"""From a collection to its tables: every kind of source, damage, kills, a full disk."""

import csv
import inspect
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from synthetic import picture

from faceattr.__main__ import main
from faceattr.audit.collect import Engine, collect
from faceattr.audit.hub_sets import open_data_set
from faceattr.audit.places import Cell, Inline, Reader, ReadError, Ref
from faceattr.audit.run import audit
from faceattr.audit.sources import SourceOptions, open_collection, sampled
from faceattr.audit.store import digest_of
from faceattr.audit.web import AddressError, public_address
from faceattr.audit.work import PART_SIZE, Settings
from faceattr.errors import AuditError
from faceattr.images import FORMATS
from faceattr.labels import TASKS

CROPS = Settings(crops=True, backend="onnx")


@pytest.fixture(scope="module")
def jpegs():
    rng = np.random.default_rng(3)
    return [picture(rng, 40) for _ in range(12)]


@pytest.fixture(scope="module")
def folder(jpegs, tmp_path_factory):
    """Twelve images in two class folders."""
    root = tmp_path_factory.mktemp("images")
    for number, content in enumerate(jpegs):
        path = root / ("first" if number < 7 else "second") / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (root / "notes.txt").write_text("not an image")
    return root


def tables(source, output, settings=CROPS, options=None, **others):
    found = collect(source, output, settings, options or SourceOptions(), quiet=True, **others)
    return pq.read_table(found.images), pq.read_table(found.faces), found


def contents(collection):
    """What the references of a collection hold."""
    found = []
    with Reader(root=collection.root, parquet=collection.parquet) as reader:
        for ref in collection.refs():
            content = reader.read(ref).content
            found.append(content if isinstance(content, bytes) else Path(content).read_bytes())
    return found


def test_a_folder_gives_one_row_an_image_and_one_a_face(folder, tmp_path):
    images, faces, found = tables(folder, tmp_path)
    assert images["image"].to_pylist() == list(range(12))
    assert len(set(images["id"].to_pylist())) == 12
    assert images["error"].null_count == 12 and faces.num_rows == 12
    assert "1 other file left out." in found.facts["notes"]
    assert not any(
        pa.types.is_binary(item.type) or pa.types.is_list(item.type) for item in faces.schema
    )
    for task in TASKS:
        shares = np.stack([faces[f"{task.name}:{name}"].to_numpy() for name in task.classes], 1)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)
        likeliest = [task.classes[i] for i in shares.argmax(1)]
        assert faces[task.name].to_pylist() == likeliest


def test_whatever_the_decoder_reads_is_an_image_of_a_folder_or_an_archive(tmp_path):
    """By the names that the formats are known by to who registers them with Pillow."""
    names = {e for e, kind in Image.registered_extensions().items() if kind in FORMATS}
    names |= {".dib", ".heic", ".heif", ".hif"}
    folder, archive = tmp_path / "images", tmp_path / "images.tar"
    folder.mkdir()
    with tarfile.open(archive, "w") as tar:
        for number, ending in enumerate(sorted(names)):
            path = folder / f"{number:02d}{ending.upper() if number % 2 else ending}"
            path.write_bytes(b"content")
            tar.add(path, path.name.lower())
    for source in (folder, archive):
        assert len(list(open_collection(source, SourceOptions()).refs())) == len(names)


def test_the_folder_of_a_file_is_a_column(folder, tmp_path):
    settings = Settings(crops=True, columns=("folder",))
    images, faces, _ = tables(folder, tmp_path, settings, SourceOptions(columns=("folder",)))
    assert images["source:folder"].to_pylist() == ["first"] * 7 + ["second"] * 5
    assert faces["source:folder"].to_pylist() == images["source:folder"].to_pylist()


def test_the_folder_of_a_file_does_not_depend_on_how_the_source_is_spelled(folder, monkeypatch):
    monkeypatch.chdir(folder / "first")
    for source in (".", "../first", str(folder / "first")):
        refs = open_collection(source, SourceOptions()).refs()
        assert {ref.columns["folder"] for ref in refs} == {"first"}


def sources_of(kind, folder, jpegs, tmp_path):
    """The same twelve images as another kind of source."""
    files = sorted(folder.rglob("*.jpg"))
    if kind == "glob":
        return str(folder / "**" / "*.jpg"), SourceOptions()
    if kind == "list":
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{file}\n" for file in files))
        return path, SourceOptions()
    if kind == "csv":
        path = folder.parent / "table.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["number", "file"])
            writer.writerows((n, f.relative_to(folder.parent)) for n, f in enumerate(files))
        return path, SourceOptions(columns=("number",))
    if kind == "parquet":
        path = tmp_path / "table.parquet"
        table = pa.table({"picture": pa.array(jpegs, pa.binary()), "number": range(12)})
        pq.write_table(table, path, row_group_size=5)
        return path, SourceOptions(image_column="picture", columns=("number",))
    if kind == "tar":
        path = tmp_path / "shard.tar"
        with tarfile.open(path, "w") as archive:
            for number, content in enumerate(jpegs):
                for name, data in (("jpg", content), ("cls", str(number).encode())):
                    info = tarfile.TarInfo(f"{number:04d}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path, SourceOptions(columns=("cls",))
    assert kind == "fsspec"
    return f"file://{folder}", SourceOptions()


@pytest.mark.parametrize("kind", ["glob", "list", "csv", "parquet", "tar", "fsspec"])
def test_every_kind_of_source_gives_the_same_images(kind, folder, jpegs, tmp_path):
    source, options = sources_of(kind, folder, jpegs, tmp_path)
    collection = open_collection(source, options)
    assert collection.count() == 12
    assert contents(collection) == jpegs
    assert [ref.id for ref in collection.refs()] == [ref.id for ref in collection.refs()]


def test_a_data_set_in_the_hubs_layout_finds_its_image_column_and_names_classes(
    tiny_fairface, tmp_path
):
    options = SourceOptions(config="0.25", split="validation", columns=("race",))
    images, faces, found = tables(
        tiny_fairface, tmp_path, Settings(crops=True, columns=("race",)), options
    )
    assert images.num_rows == faces.num_rows == 30
    assert images["name"].to_pylist()[:2] == ["1.jpg", "2.jpg"]
    assert set(images["source:race"].to_pylist()) <= {
        "East Asian",
        "Indian",
        "Black",
        "White",
        "Middle Eastern",
        "Latino_Hispanic",
        "Southeast Asian",
    }
    assert found.facts["kind"] == "data set"


def test_a_data_set_without_a_column_of_images_asks_for_it(tmp_path):
    path = tmp_path / "set"
    path.mkdir()
    pq.write_table(pa.table({"a": [1]}), path / "train.parquet")
    with pytest.raises(AuditError, match="which column.*it has 'a'"):
        open_collection(path, SourceOptions())


def test_the_split_has_to_be_named_where_there_are_several(tiny_fairface):
    with pytest.raises(AuditError, match="--split as one of 'train', 'validation'"):
        open_collection(tiny_fairface, SourceOptions())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no such file or folder: 'nowhere'"),
        ("empty", "holds no image, Parquet table or archive"),
        ("http://example.org/a.jpg", "give --http"),
        ("photo.xyz", "is no source"),
        ("list.txt", "is empty"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_in_words(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.xyz").touch()
    (tmp_path / "list.txt").touch()
    with pytest.raises(AuditError, match=message):
        open_collection(source, SourceOptions())


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("path,label\na.jpg,1\n")
    with pytest.raises(AuditError, match="no column 'group'; it has 'path', 'label'"):
        open_collection(path, SourceOptions(columns=("group",)))
    with pytest.raises(AuditError, match="no column 'picture'"):
        open_collection(path, SourceOptions(image_column="picture"))


def test_damaged_missing_and_empty_images_become_rows_and_end_nothing(jpegs, tmp_path):
    path = tmp_path / "table.parquet"
    rows = [
        {"bytes": jpegs[0], "path": "good.jpg"},
        {"bytes": jpegs[1][:100], "path": "cut.jpg"},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": "empty.jpg"},
        {"bytes": None, "path": "nowhere.jpg"},
        {"bytes": b"no image at all", "path": "text.jpg"},
        {"bytes": None, "path": "http://127.0.0.1/a.jpg"},
        {"bytes": jpegs[2], "path": "good too.jpg"},
    ]
    pq.write_table(pa.table({"image": rows}), path)
    images, faces, _ = tables(path, tmp_path / "out")
    assert images["error"].to_pylist() == [
        None,
        "undecodable",
        "empty",
        "empty",
        "missing",
        "undecodable",
        "refused",
        None,
    ]
    assert faces["image"].to_pylist() == [0, 7]
    assert all(images["message"][i].as_py() for i in range(1, 7))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--min-face", "nan", "min_face: expected a number of pixels from 24 on, came nan"),
        ("--seed", "-1", "seed: expected a whole number from 0 on, came -1"),
        ("--workers", "0", "workers: expected a whole number from 1 on, came 0"),
        ("--sample", "0", "sample: expected a whole number from 1 on, came 0"),
    ],
)
def test_options_of_an_audit_are_checked_before_the_work(folder, capsys, option, value, said):
    output = folder.parent / "refused"
    assert main(["audit", str(folder), "--output", str(output), option, value]) == 2
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_help_says_what_every_argument_of_an_audit_is():
    text = inspect.getdoc(audit)
    listed = text.partition("Args:\n")[2].partition("Raises:\n")[0]
    found = [line.partition(":")[0].strip() for line in listed.splitlines() if line[4:5].strip()]
    assert found == list(inspect.signature(audit).parameters)


def test_a_sample_is_seeded_and_keeps_the_order(folder):
    whole = [ref.id for ref in open_collection(folder, SourceOptions()).refs()]

    def draw(seed, size=5):
        collection = sampled(open_collection(folder, SourceOptions()), size, seed)
        return [ref.id for ref in collection.refs()]

    assert draw(1) == draw(1) and len(draw(1)) == 5
    assert draw(1) != draw(2)
    assert draw(1) == [name for name in whole if name in draw(1)]
    assert draw(1, 100) == whole


def test_a_finished_audit_is_not_done_again_and_another_one_is_refused(folder, tmp_path):
    first, _, _ = tables(folder, tmp_path)
    before = (tmp_path / "images.parquet").stat().st_mtime_ns
    again, _, found = tables(folder, tmp_path)
    assert again.equals(first) and found.rate is None and found.facts["kind"] == "folder"
    assert (tmp_path / "images.parquet").stat().st_mtime_ns == before
    with pytest.raises(AuditError, match=r"other settings \(--mirror: here True, there False\)"):
        tables(folder, tmp_path, Settings(crops=True, backend="onnx", mirror=True))
    with pytest.raises(AuditError, match="--data-revision: here 'abc', there none"):
        tables(folder, tmp_path, options=SourceOptions(revision="abc"))
    tables(folder, tmp_path, Settings(crops=True, backend="onnx", mirror=True), restart=True)


RUN = """
import sys
from pathlib import Path
from faceattr.audit import collect as module, work
# A few images a part, so that a kill falls between parts.
module.PART_SIZE = 8
from faceattr.audit.sources import SourceOptions
from faceattr.audit.work import Settings
module.collect(sys.argv[1], Path(sys.argv[2]), Settings(crops=True, backend="onnx"),
    SourceOptions(), engine=module.Engine(workers=2), quiet=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_the_tables_are_the_same_bytes(jpegs, tmp_path):
    source = tmp_path / "table.parquet"
    pq.write_table(pa.table({"image": [jpegs[n % 12] for n in range(400)]}), source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, str(source)]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True)
    target = tmp_path / "killed"
    kills, counts = 0, []
    while not (target / "faces.parquet").exists():
        run = subprocess.Popen([*command, str(target)], env=environment)
        wanted = (counts[-1] if counts else 0) + 5
        while run.poll() is None and len(list(target.glob("parts/0*"))) < wanted and kills < 5:
            time.sleep(0.01)
        if run.poll() is None and kills < 5:
            os.kill(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        counts.append(len(list(target.glob("parts/0*"))))
    assert kills == 5
    for name in ("images.parquet", "faces.parquet"):
        assert (target / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_that_ends_the_process_becomes_a_row(jpegs, tmp_path, monkeypatch):
    # The worker imports this module at its start: reading the third image kills it.
    (tmp_path / "sitecustomize.py").write_text(
        "import faceattr.audit.places as places, os\n"
        "read = places.Reader.read\n"
        "def deadly(self, ref):\n"
        "    if ref.id.endswith('#2'):\n"
        "        os._exit(9)\n"
        "    return read(self, ref)\n"
        "places.Reader.read = deadly\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "table.parquet"
    pq.write_table(pa.table({"image": jpegs[:6]}), source)
    images, faces, _ = tables(source, tmp_path / "out", engine=Engine(workers=1))
    assert images["error"].to_pylist() == [None, None, "crashed", None, None, None]
    assert faces.num_rows == 5


def test_a_full_disk_says_so_and_the_same_command_goes_on(folder, tmp_path):
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from faceattr.audit.collect import collect, Engine\n"
        "from faceattr.audit.sources import SourceOptions\n"
        "from faceattr.audit.work import Settings\n"
        "from faceattr.errors import AuditError\n"
        "import signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try:\n"
        "    collect(sys.argv[1], Path(sys.argv[2]), Settings(crops=True, backend='onnx'),\n"
        "        SourceOptions(), engine=Engine(workers=1), quiet=True)\n"
        "except AuditError as error:\n"
        "    sys.exit(str(error))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "File too large" in run.stderr and "give the same command again" in run.stderr
    assert not list(tmp_path.glob("*.parquet"))
    images, _, _ = tables(folder, tmp_path)
    assert images.num_rows == 12


def test_what_the_rows_of_a_list_or_table_say_tells_parts_apart(tmp_path):
    def digest(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content)
        return digest_of(list(open_collection(path, SourceOptions(**options)).refs()))

    first = digest("list.txt", b"a.jpg\nb.jpg\n")
    assert digest("list.txt", b"a.jpg\nb.jpg") == first != digest("list.txt", b"b.jpg\na.jpg\n")
    rows = (b"path,label\na.jpg,1\n", b"path,label\na.jpg,2\n", b"path,label\nb.jpg,1\n")
    assert len({digest("table.csv", row, columns=("label",)) for row in rows}) == 3
    place = "hf://datasets/user/name@{}/rows.parquet"
    commits = [[Ref("rows#0", "", Cell(place.format(c * 40), 0), {})] for c in "ab"]
    assert digest_of(commits[0]) != digest_of(commits[1])
    inline = [[Ref("#0", "", Inline(content), {})] for content in (b"a", b"b", None)]
    assert len(set(map(digest_of, inline))) == 3


def test_a_collection_that_changed_in_between_is_noticed(jpegs, tmp_path):
    source = tmp_path / "images"
    source.mkdir()
    for number in range(PART_SIZE + 4):
        (source / f"{number:04d}.jpg").write_bytes(jpegs[number % 12])
    tables(source, tmp_path / "out")
    parts = tmp_path / "out" / "parts"
    assert list(parts.iterdir()) == []
    # As if it had been killed after its first part.
    (parts / "000000000-01234567.parquet").touch()
    (tmp_path / "out" / "images.parquet").unlink()
    with pytest.raises(AuditError, match="collection has changed"):
        tables(source, tmp_path / "out")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "localhost"])
def test_private_addresses_are_not_asked(host):
    with pytest.raises(AddressError, match="private network"):
        public_address(host, 80)


def test_web_addresses_are_fetched_only_when_asked_for():
    ref = Ref("a", "", "https://example.org/a.jpg", {})
    with pytest.raises(ReadError, match="only with --http") as caught:
        Reader().read(ref)
    assert caught.value.kind == "refused"
    with pytest.raises(ReadError, match="only with --http"):
        Reader().read(Ref("a", "", "simplecache::https://example.org/a.jpg", {}))
    with pytest.raises(ReadError, match="private network"):
        Reader(http=True).read(Ref("a", "", "http://127.0.0.1:1/a.jpg", {}))


def test_a_row_without_an_image_is_empty():
    with pytest.raises(ReadError) as caught:
        Reader().read(Ref("a", "", Inline(None), {}))
    assert caught.value.kind == "empty"


def test_faces_of_photos_are_counted_and_small_ones_flagged(tmp_path, photos_dir):
    images, faces, _ = tables(photos_dir, tmp_path, Settings(backend="onnx"))
    assert images["faces"].to_pylist() == [
        faces["image"].to_pylist().count(number) for number in range(images.num_rows)
    ]
    assert faces.num_rows > 30
    assert faces["small"].to_pylist() == [width < 50 for width in faces["width"].to_pylist()]


def test_a_data_set_of_files_is_streamed_with_its_class_names(folder, jpegs):
    collection = open_data_set(str(folder), SourceOptions(columns=("label",)))
    assert contents(collection) == jpegs
    assert {ref.columns["label"] for ref in collection.refs()} == {"first", "second"}


def test_what_is_not_a_number_is_no_value(jpegs, tmp_path):
    table = pa.table({"image": jpegs[:2], "said": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "rows.parquet")
    columns = SourceOptions(columns=("said",))
    settings = Settings(crops=True, backend="onnx", columns=("said",))
    images, _, _ = tables(tmp_path / "rows.parquet", tmp_path / "out", settings, columns)
    assert images["source:said"].to_pylist() == ["1.0", None]
