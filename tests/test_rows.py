"""Rows: streamed once, kept as they came, checked, mapped by name, left out when damaged."""

import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import HUB_CLASSES, write_fairface

from faceattr import labels
from train.data import source as source_module
from train.data.source import HOLDOUT_UP_TO, DataError, Rows, Source, in_holdout


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty place for stored rows."""
    monkeypatch.setenv("FACEATTR_ROWS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def data(tmp_path):
    return write_fairface(tmp_path / "data", train=64, validation=8, side=24)


def change_rows(folder, split, change):
    """Rewrite the first shard of a split with some rows changed."""
    path = sorted((folder / "0.25").glob(f"{split}-*"))[0]
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def test_holdout_has_two_thousand_rows_of_the_whole_training_split():
    assert sum(in_holdout(f"{n}.jpg") for n in range(1, 86_745)) == 2_000
    assert not in_holdout(f"{HOLDOUT_UP_TO + 20}.jpg")


def test_a_file_name_that_is_no_number_is_refused():
    with pytest.raises(DataError, match=r"numbered images.*'face\.jpg'"):
        in_holdout("face.jpg")


def test_parts_divide_the_training_split(tiny_fairface):
    source = Source(str(tiny_fairface))
    train = [row.file for row in Rows(source, "train")]
    holdout = [row.file for row in Rows(source, "holdout")]
    assert holdout == [f"{n}.jpg" for n in range(20, 121, 20)]
    assert sorted(train + holdout) == sorted(f"{n}.jpg" for n in range(1, 121))
    assert len(Rows(source, "validation")) == 30


def test_rows_are_those_of_the_files_with_labels_mapped_by_name(tiny_fairface):
    stored = pq.read_table(sorted((tiny_fairface / "0.25").glob("validation-*")))
    rows = Rows(Source(str(tiny_fairface)), "validation")
    for index, (row, raw) in enumerate(zip(rows, stored.to_pylist(), strict=True)):
        for target, task in zip(row.targets, labels.TASKS, strict=True):
            assert task.classes[target] == HUB_CLASSES[task.name][raw[task.name]]
        assert row.image == raw["image"]["bytes"] == bytes(rows.image(index))
        assert row.service_test == raw["service_test"]
        assert tuple(rows.targets[index]) == row.targets


def test_a_limit_takes_rows_evenly_spread(tiny_fairface):
    rows = Rows(Source(str(tiny_fairface)), "validation", 3)
    assert [row.file for row in rows] == ["1.jpg", "11.jpg", "21.jpg"]
    assert rows.targets.shape == (3, 3)


def test_a_split_is_streamed_once(store, data, monkeypatch):
    first = Rows(Source(str(data)), "train")
    monkeypatch.setattr(source_module, "load_dataset", None)
    again = Rows(Source(str(data)), "holdout")
    assert first.sha256 == again.sha256
    assert len(first) + len(again) == 64


def test_damaged_stored_rows_are_read_again(store, data, caplog):
    rows = list(Rows(Source(str(data)), "train"))
    file = next((store / "train").glob("*.bin"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="train"):
        assert list(Rows(Source(str(data)), "train")) == rows
    assert "not its SHA-256" in caplog.text


def test_a_changed_data_set_is_not_taken_for_the_stored_one(store, data):
    before = Rows(Source(str(data)), "train").sha256
    change_rows(data, "train", lambda rows: rows.pop(0))
    after = Rows(Source(str(data)), "train")
    assert (len(after), after.sha256 == before) == (60, False)
    change_rows(data, "train", lambda rows: rows[0].update(race=1 - min(rows[0]["race"], 1)))
    assert Rows(Source(str(data)), "train").sha256 not in {before, after.sha256}


def test_rows_that_do_not_decode_are_named_and_left_out_in_every_part(store, data, caplog):
    def damage(rows):
        rows[0]["image"]["bytes"] = b"no image"
        rows[3]["image"]["bytes"] = rows[3]["image"]["bytes"][:-40]
        rows[19]["image"]["bytes"] = None

    change_rows(data, "train", damage)
    with caplog.at_level(logging.WARNING, logger="train"):
        train, holdout = (Rows(Source(str(data)), part) for part in ("train", "holdout"))
    assert train.skipped == holdout.skipped == ("1.jpg", "4.jpg", "20.jpg")
    assert not {"1.jpg", "4.jpg"} & {row.file for row in train}
    assert [row.file for row in holdout] == ["40.jpg", "60.jpg"]
    assert "'20.jpg' holds no readable image" in caplog.text
    with pytest.raises(DataError, match=r"3 rows.*2 are allowed: 1\.jpg, 4\.jpg, 20\.jpg"):
        Rows(Source(str(data), max_skipped=2), "train")


def test_a_row_without_a_label_is_named(store, data):
    change_rows(data, "train", lambda rows: rows[4].update(race=None))
    with pytest.raises(DataError, match=r"'5\.jpg' has no race label"):
        Rows(Source(str(data)), "train")


def test_a_shard_that_breaks_off_is_an_error_and_stores_nothing(store, data, monkeypatch):
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 1, raising=False)
    path = sorted((data / "0.25").glob("train-*"))[1]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="'train'"):
        Rows(Source(str(data)), "train")
    path.write_bytes(content)
    assert len(Rows(Source(str(data)), "train")) == 61


@pytest.mark.parametrize(
    ("path", "found"),
    [("/nope", "not there"), ("./no", "not there"), ("~/no", "not there"), (__file__, "a file")],
)
def test_a_path_that_is_no_folder_is_told_without_asking_the_hub(path, found):
    with pytest.raises(DataError, match=f"expected a folder .* which is {found}") as caught:
        Source(path).pinned()
    assert "Hub" not in str(caught.value)


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(DataError, match="is a folder, which has no revision 'main'"):
        Source(str(tmp_path), revision="main").pinned()


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="HuggingFaceM4/FairFace"):
        Rows(Source(str(tmp_path)), "train")


@pytest.mark.parametrize("name", ["race", "service_test"])
def test_columns_must_be_fairfaces(store, data, name):
    for path in (data / "0.25").glob("*"):
        pq.write_table(pq.read_table(path).drop_columns(name), path)
    with pytest.raises(DataError, match=f"no column '{name}'"):
        Rows(Source(str(data)), "train")
