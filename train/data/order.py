"""Which row of an epoch comes when, and which process reads it.

An epoch runs in lanes of whole shards, each shuffled by itself, and every batch takes from all of
them in proportion to their lengths. Order and batches follow from seed, epoch and the rows by shard
alone, so a run resumes by going to its place again, and N processes form the batches of one.

The processes share each batch by lanes, and one opens a lane only when it needs a row of it.
`datasets.distributed.split_dataset_by_node` lets batches depend on the number of processes, and
reads everything everywhere unless that number divides the shards'. Here, where it does not, the
lanes at the edge of a share are read by two processes, and with fewer shards than processes by
more; each decodes its own rows only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.data.source import DataError, Row, Rows
from train.fit.parallel import Group

LANES = 16
"""At most, whatever the number of shards: each holds a file open."""


class Chunk(NamedTuple):
    """The rows of a batch, by lane.

    Attributes:
        rows: of the whole batch; None for those of lanes that this process does not read.
        part: places of this process's own.
    """

    rows: list[Row | None]
    part: range


def epoch_chunks(
    rows: Rows,
    seed: int,
    epoch: int,
    buffer_size: int,
    batch_size: int,
    *,
    skip: int = 0,
    group: Group = Group(),  # noqa: B008 - frozen
    whole: bool = False,
) -> Iterator[Chunk]:
    """An epoch's full batches; the rows of a short last one are dropped.

    Args:
        rows: of the data set.
        seed: of the run.
        epoch: counted from 0.
        buffer_size: rows held for shuffling, in all lanes together.
        batch_size: of all processes together.
        skip: batches to leave out at the start.
        group: the processes that share each batch.
        whole: read the rows of the other processes too.

    Raises:
        DataError: when a shard cannot be read or holds another number of rows than was counted.
    """
    count = min(LANES, rows.shards)
    shards = [Group(lane, count).part(rows.shards) for lane in range(count)]
    turns = _turns([sum(rows.counts[index] for index in part) for part in shards])
    before = np.bincount(turns[: skip * batch_size], minlength=count)
    lanes: dict[int, _Lane] = {}
    for start in range(skip * batch_size, len(turns) - batch_size + 1, batch_size):
        batch = np.sort(turns[start : start + batch_size])
        part = shared(batch, count, group)
        chunk: list[Row | None] = [None] * batch_size
        for lane in np.unique(batch if whole else batch[part.start : part.stop]).tolist():
            if lane not in lanes:
                rng = np.random.default_rng((seed, epoch, lane))
                lanes[lane] = _Lane(rows, shards[lane], buffer_size // count, rng)
            low, high = np.searchsorted(batch, (lane, lane + 1))
            chunk[low:high] = lanes[lane].take(before[lane], high - low)
        before += np.bincount(batch, minlength=count)
        yield Chunk(chunk, part)
    for used in lanes.values():
        used.finish()


def shared(batch: NDArray[np.int64], lanes: int, group: Group) -> range:
    """This process's places in a batch: of its own lanes wherever these can be dealt evenly.

    Args:
        batch: lane of each row, ascending.
        lanes: how many there are.
        group: the processes.
    """
    sizes = np.bincount(batch, minlength=lanes)
    within = np.arange(len(batch)) - np.searchsorted(batch, batch)
    cuts = np.searchsorted(
        batch + (within + 0.5) / sizes[batch], np.arange(group.size + 1) * lanes / group.size
    )
    # A small batch may leave a process without rows of its lanes.
    if np.diff(cuts).min() == 0:
        return group.part(len(batch))
    return range(int(cuts[group.rank]), int(cuts[group.rank + 1]))


def _turns(lengths: Sequence[int]) -> NDArray[np.int64]:
    """The lane that each row of an epoch comes from, all spread evenly over it."""
    lanes = np.repeat(np.arange(len(lengths)), lengths)
    places = np.concatenate([(np.arange(length) + 0.5) / length for length in lengths])
    return lanes[np.argsort(places, kind="stable")]


class _Lane:
    """The rows of some shards, shuffled; opened when first asked."""

    def __init__(
        self, rows: Rows, shards: range, buffer_size: int, rng: np.random.Generator
    ) -> None:
        order = rng.permutation(np.array(shards)).tolist()
        stored = (row for index in order for row in _counted(rows, index))
        self._rows = shuffle_buffered(stored, max(1, buffer_size), rng)
        self._taken = 0

    def take(self, start: int, count: int) -> list[Row]:
        """`count` rows from the `start`-th on, which is none before those taken."""
        found = list(islice(self._rows, start - self._taken, start - self._taken + count))
        self._taken = start + count
        return found

    def finish(self) -> None:
        """Read to the end, so that a wrong number of rows comes to light."""
        deque(self._rows, maxlen=0)


def _counted(rows: Rows, index: int) -> Iterator[Row]:
    """The rows of a shard, which must be as many as were counted."""
    found = 0
    for row in rows.shard(index):
        found += 1
        yield row
    if found != rows.counts[index]:
        raise DataError(
            f"shard {index + 1} of {rows.shards} of {rows.source.path!r}, split {rows.split!r}, "
            f"gave {found} rows of the part {rows.part!r} where {rows.counts[index]} were "
            "expected; does the data set number its pictures from 1.jpg on, in order?"
        )


def shuffle_buffered(
    rows: Iterable[Row], buffer_size: int, rng: np.random.Generator
) -> Iterator[Row]:
    """Yield each row once, drawn at random from a buffer of the next `buffer_size` rows."""
    buffer: list[Row] = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        slot = int(rng.integers(buffer_size))
        yield buffer[slot]
        buffer[slot] = row
    for slot in rng.permutation(len(buffer)):
        yield buffer[int(slot)]
