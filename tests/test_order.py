"""The order of rows, and that every process reads its own share of them only."""

from collections import Counter

import numpy as np
import pytest

from train.data import order
from train.data.order import _turns, epoch_chunks, shared
from train.data.source import DataError, Row, Rows
from train.fit.parallel import Group


class Numbered(Rows):
    """Rows without pictures, named by shard and place; remembers how many it gave of each shard."""

    def __init__(self, counts, surplus=0):
        self.counts, self.read, self.surplus = counts, Counter(), surplus
        self.split, self.part = "train", "train"

    @property
    def source(self):
        return self

    path = "numbered"

    @property
    def shards(self):
        return len(self.counts)

    def shard(self, index):
        for place in range(self.counts[index] + self.surplus):
            self.read[index] += 1
            yield Row(f"{index}/{place}", b"", (0, 0, 0), False)


def names(chunk):
    return [row and row.file for row in chunk.rows]


def chunks_of(counts, batch_size, **options):
    return list(
        epoch_chunks(Numbered(counts), 3, options.pop("epoch", 0), 40, batch_size, **options)
    )


@pytest.mark.parametrize("counts", [(57, 57), (100, 7, 30), (13,) * 40, (5,)])
def test_each_epoch_has_each_row_once_in_its_own_repeatable_order(counts):
    orders = [
        [name for chunk in chunks_of(counts, 1, epoch=epoch) for name in names(chunk)]
        for epoch in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    expected = [f"{shard}/{place}" for shard, count in enumerate(counts) for place in range(count)]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(expected)


def test_batches_are_full_and_the_first_may_be_skipped():
    whole = chunks_of((50, 57), 8)
    assert [len(chunk.rows) for chunk in whole] == [8] * 13
    for skip in (1, 7, 13):
        assert chunks_of((50, 57), 8, skip=skip) == whole[skip:]


@pytest.mark.parametrize("counts", [(57, 57), (100, 7, 30), (20,) * 8, (60, 61, 70, 50, 20), (90,)])
@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("batch_size", [8, 12, 32])
def test_processes_share_the_batches_of_one(counts, size, batch_size):
    alone = chunks_of(counts, batch_size)
    parts = [chunks_of(counts, batch_size, group=Group(rank, size)) for rank in range(size)]
    for number, whole in enumerate(alone):
        chunks = [part[number] for part in parts]
        assert [place for chunk in chunks for place in chunk.part] == list(range(batch_size))
        for chunk in chunks:
            own = slice(chunk.part.start, chunk.part.stop)
            assert len(chunk.part) > 0
            assert names(chunk)[own] == names(whole)[own]
    resumed = chunks_of(counts, batch_size, group=Group(1, size), skip=2)
    assert resumed == parts[1][2:]


@pytest.mark.parametrize(
    ("shards", "size", "most"), [(8, 2, 4), (8, 4, 2), (8, 3, 4), (2, 2, 1), (2, 4, 1), (40, 2, 20)]
)
def test_a_process_reads_no_shards_but_those_of_its_share(shards, size, most):
    for rank in range(size):
        rows = Numbered((32,) * shards)
        for chunk in epoch_chunks(rows, 0, 0, 64, 32, group=Group(rank, size)):
            assert len(chunk.part) == pytest.approx(32 / size, abs=2)
        assert len(rows.read) <= most


def test_all_rows_are_read_where_they_are_mixed():
    rows = Numbered((16, 16))
    for chunk in epoch_chunks(rows, 0, 0, 8, 8, group=Group(1, 2), whole=True):
        assert None not in chunk.rows
        assert chunk.part == range(4, 8)


def test_every_lane_is_spread_evenly_over_an_epoch():
    turns = _turns([300, 100])
    for start in range(0, 400, 40):
        assert np.bincount(turns[start : start + 40]).tolist() == [30, 10]


def test_a_batch_without_rows_of_a_process_is_dealt_evenly():
    assert [list(shared(np.array([0, 0, 0, 0]), 2, Group(rank, 2))) for rank in (0, 1)] == [
        [0, 1],
        [2, 3],
    ]


@pytest.mark.parametrize("surplus", [-1, 1])
def test_another_number_of_rows_than_counted_is_an_error(surplus):
    rows = Numbered((20, 20), surplus)
    with pytest.raises(DataError, match=r"gave (19|21) rows of the part 'train' where 20 were"):
        list(epoch_chunks(rows, 0, 0, 4, 8))


@pytest.mark.parametrize("counts", [(57, 57), (3, 0, 9, 1), (10,) * 8, (4,)])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_shares_are_everything_once_in_order(counts, size):
    every = [row.file for row in Numbered(counts).in_order()]
    shares = [Numbered(counts) for _ in range(size)]
    found = [row.file for rank, rows in enumerate(shares) for row in rows.share(Group(rank, size))]
    assert found == every
    if size <= len(counts):
        assert all(len(rows.read) <= -(-len(counts) // size) + 1 for rows in shares)


def test_there_are_never_more_lanes_than_files_may_be_open(monkeypatch):
    monkeypatch.setattr(order, "LANES", 2)
    whole = chunks_of((10,) * 5, 10)
    assert len({name.split("/")[0] for name in names(whole[0])}) <= 4
