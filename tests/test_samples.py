from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import HUB_CLASSES

from faceattr import labels
from train.data.batches import MemoryRows, decode_row
from train.data.order import epoch_chunks, shuffle_buffered
from train.data.source import (
    HOLDOUT_UP_TO,
    DataError,
    Rows,
    Source,
    _mapped,
    count_rows,
    in_holdout,
    shard_rows,
)


@pytest.fixture
def source(tiny_fairface):
    return Source(str(tiny_fairface))


def test_holdout_has_two_thousand_rows_of_the_whole_training_split():
    assert sum(in_holdout(f"{n}.jpg") for n in range(1, 86_745)) == 2_000
    assert not in_holdout(f"{HOLDOUT_UP_TO + 20}.jpg")


def test_a_file_name_that_is_no_number_is_refused():
    with pytest.raises(DataError, match=r"numbered pictures.*'face\.jpg'"):
        in_holdout("face.jpg")


def test_parts_divide_the_training_split(source):
    train = [row.file for row in Rows(source, "train").in_order()]
    holdout = [row.file for row in Rows(source, "holdout").in_order()]
    assert holdout == [f"{n}.jpg" for n in range(20, 121, 20)]
    assert sorted(train + holdout) == sorted(f"{n}.jpg" for n in range(1, 121))
    assert [count_rows(source, p) for p in ("train", "holdout", "validation")] == [114, 6, 30]
    assert [shard_rows(source, p) for p in ("train", "holdout")] == [(57, 57), (3, 3)]


def test_labels_are_mapped_by_name(source, tiny_fairface):
    stored = pq.read_table(sorted((tiny_fairface / "0.25").glob("validation-*")))
    for row, raw in zip(Rows(source, "validation").in_order(), stored.to_pylist(), strict=True):
        for target, task in zip(row.targets, labels.TASKS, strict=True):
            assert task.classes[target] == HUB_CLASSES[task.name][raw[task.name]]
        assert row.image == raw["image"]["bytes"]
        assert row.service_test == raw["service_test"]


def test_a_buffer_of_all_rows_shuffles_evenly():
    rng = np.random.default_rng(0)
    places = np.array([list(shuffle_buffered(range(10), 10, rng)).index(0) for _ in range(5_000)])
    assert np.abs(np.bincount(places, minlength=10) / 5_000 - 0.1).max() < 0.02


def test_memory_gives_the_streams_order_and_pixels(source):
    stream, memory = Rows(source, "train"), MemoryRows(source, "train", 12)
    for epoch in (0, 1):
        orders = [epoch_chunks(rows, 1, epoch, 16, 6) for rows in (stream, memory)]
        for streamed, kept in zip(*orders, strict=True):
            for one, other in zip(streamed.rows, kept.rows, strict=True):
                assert (one.file, one.targets) == (other.file, other.targets)
                assert np.array_equal(decode_row(one, 12), other.image)
                assert other.image.shape == (12, 12, 3)


def test_a_row_that_does_not_decode_is_named(source):
    row = next(Rows(source, "train").in_order())._replace(image=b"not a picture")
    with pytest.raises(DataError, match=r"'1\.jpg'.*13 bytes"):
        decode_row(row)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot open split 'train'"):
        Source(str(tmp_path)).stream("train")


def test_a_hub_data_set_is_pinned_to_its_commit(monkeypatch):
    asked = []

    def dataset_info(self, repo_id, revision=None):
        asked.append((repo_id, revision))
        return SimpleNamespace(sha="c" * 40)

    monkeypatch.setattr("train.data.source.HfApi.dataset_info", dataset_info)
    pinned = Source("user/faces").pinned()
    assert pinned.revision == "c" * 40
    assert asked == [("user/faces", None)]
    assert pinned.describe("train", 5)["revision"] == "c" * 40


def test_a_local_folder_has_no_revision(source):
    assert source.pinned() == source
    assert "/" not in str(source.describe("train", 5)["id"])


def test_a_name_that_is_nowhere_is_refused():
    with pytest.raises(DataError, match="no folder here"):
        Source("not/a/data/set").pinned()


def test_real_rows_agree_with_the_label_files(fairface_dir):
    expected = (fairface_dir / "labels" / "validation.csv").read_text().splitlines()[1:4]
    for row, line in zip(
        Rows(Source(str(fairface_dir)), "validation").in_order(), expected, strict=False
    ):
        file, age, gender, race, test = line.split(",")
        names = [t.classes[i] for t, i in zip(labels.TASKS, row.targets, strict=True)]
        assert (file, names, test) == (
            f"val/{row.file}",
            [gender, age, race],
            str(row.service_test),
        )
        assert decode_row(row).shape == (224, 224, 3)


@pytest.mark.parametrize("absent", [-1, None])
def test_a_row_without_a_label_is_refused(absent):
    assert _mapped(labels.GENDER, (1, 0), [0, 1]) == [1, 0]
    with pytest.raises(DataError, match=f"no gender label: came {absent}"):
        _mapped(labels.GENDER, (1, 0), [0, absent])
