"""Rows of FairFace, streamed through the datasets library."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import httpx2
import numpy as np
import pyarrow as pa
from datasets import IterableDataset, load_dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from numpy.typing import NDArray
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from faceattr import labels

if TYPE_CHECKING:
    from train.fit.parallel import Group

log = logging.getLogger("train")
HUB_ID = "HuggingFaceM4/FairFace"
MARGIN = "0.25"
HOLDOUT_EVERY = 20
HOLDOUT_UP_TO = 40_000
_READ_ROWS = 256
OPEN_ATTEMPTS = 5
OPEN_WAIT_S = 1.0
"""Seconds before a shard is opened again; doubled each time."""
_CAN_PASS = (OSError, httpx2.HTTPError)
"""What a network or a disk may raise now and not the next time."""

Part = Literal["train", "holdout", "validation"]


class DataError(RuntimeError):
    """The data set cannot be read or does not look like FairFace; the message says where."""


class RowError(DataError):
    """One row's picture does not decode.

    Attributes:
        file: name of the row.
    """

    def __init__(self, file: str, size: int) -> None:
        super().__init__(f"row {file!r} holds no readable picture ({size} bytes)")
        self.file = file


class Row(NamedTuple):
    """One row of the data set.

    `image` holds the encoded bytes as streamed; a cache may put a decoded RGB chip there.
    `targets` are class positions in the order of `labels.TASKS`, mapped by name.
    """

    file: str
    image: bytes | NDArray[np.uint8]
    targets: tuple[int, ...]
    service_test: bool


def in_holdout(file: str) -> bool:
    """Whether a training row belongs to the fixed holdout of 2,000 rows.

    FairFace numbers its training pictures 1.jpg to 86744.jpg. Every twentieth of the first
    40,000 is held out for selection (checkpoint, temperature, hyperparameters), whatever the
    source holds beyond them, so all runs hold out the same rows.

    Raises:
        DataError: for a file name that is not a number.
    """
    stem = file.rpartition("/")[2].partition(".")[0]
    if not stem.isdigit():
        raise DataError(f"expected FairFace's numbered pictures such as '12.jpg', came {file!r}")
    number = int(stem)
    return number <= HOLDOUT_UP_TO and number % HOLDOUT_EVERY == 0


@dataclass(frozen=True)
class Source:
    """Which data to stream.

    Attributes:
        path: Hub id, or a local folder of the same layout.
        config: crop margin of the pictures, "0.25" or "1.25".
        revision: branch, tag or commit of the Hub data set; `pinned()` makes it a commit.
    """

    path: str = HUB_ID
    config: str = MARGIN
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `path` is a folder here rather than a Hub id."""
        return Path(self.path).is_dir()

    def pinned(self) -> Source:
        """The same source at a fixed commit: the Hub's newest one unless `revision` is given.

        The commit is written into checkpoints and reports, and a run that goes on after the
        data set has changed is refused.

        Raises:
            DataError: when the Hub cannot say which commit that is.
        """
        if self.is_local:
            return replace(self, revision=None)
        try:
            commit = HfApi().dataset_info(self.path, revision=self.revision).sha
        except (HfHubHTTPError, HFValidationError, OSError, httpx2.HTTPError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"{self.path!r} is no folder here, and the Hub gave no commit of a data set of "
                f"that name: {reason}; check the name, the revision and the connection"
            ) from error
        return replace(self, revision=commit)

    def stream(self, split: str, columns: list[str] | None = None) -> IterableDataset:
        """Open a split for streaming.

        Raises:
            DataError: when it cannot be opened.
        """
        options = {} if columns is None else {"columns": columns}
        try:
            return load_dataset(
                self.path,
                self.config,
                split=split,
                streaming=True,
                revision=self.revision,
                **options,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot open split {split!r} of {self.path!r}: {error}; expected the Hub id "
                f"{HUB_ID!r} or a folder with the same layout"
            ) from error

    def describe(self, split: str, rows: int) -> dict[str, str | int | None]:
        """Facts for reports; a local folder is named by its last part only."""
        return {
            "id": Path(self.path).name if self.is_local else self.path,
            "config": self.config,
            "split": split,
            "revision": self.revision,
            "rows": rows,
        }


@lru_cache(maxsize=8)
def shard_rows(source: Source, part: Part) -> tuple[int, ...]:
    """Number of rows of a part by shard, from one small column; pictures are not read.

    Training pictures are taken to be numbered from 1.jpg on, in stored order.
    """
    split = "validation" if part == "validation" else "train"
    stream = source.stream(split, columns=["service_test"])
    counts, before = [], 0
    for index in range(stream.num_shards):
        shard = stream.shard(num_shards=stream.num_shards, index=index).with_format("arrow")
        total = sum(int(table.num_rows) for table in shard.iter(batch_size=10_000))
        low, high = (min(n, HOLDOUT_UP_TO) // HOLDOUT_EVERY for n in (before, before + total))
        held = high - low
        counts.append({"validation": total, "holdout": held, "train": total - held}[part])
        before += total
    return tuple(counts)


def count_rows(source: Source, part: Part) -> int:
    """Number of rows of a part; pictures are not read."""
    return sum(shard_rows(source, part))


def _mapped(task: labels.Task, mapping: tuple[int, ...], values: list[int | None]) -> list[int]:
    """Our class positions for a data set's; datasets stores an absent label as -1."""
    ours: dict[int | None, int] = dict(enumerate(mapping))
    try:
        return [ours[value] for value in values]
    except KeyError as error:
        raise DataError(f"a row has no {task.name} label: came {error.args[0]!r}") from error


class Rows:
    """One part of the data set, shard by shard."""

    def __init__(self, source: Source, part: Part) -> None:
        self.source = source
        self.part = part
        self.split = "validation" if part == "validation" else "train"
        self._stream = source.stream(self.split).decode(False)
        self._maps = []
        for task in labels.TASKS:
            if task.name not in (self._stream.features or {}):
                raise DataError(f"{source.path!r} has no column {task.name!r}")
            names = getattr((self._stream.features or {}).get(task.name), "names", None)
            if names is None:
                raise DataError(f"column {task.name!r} of {source.path!r} has no class names")
            self._maps.append(task.indices(names))

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of rows of this part by shard."""
        return shard_rows(self.source, self.part)

    @property
    def shards(self) -> int:
        """Number of files the split is stored in."""
        return int(self._stream.num_shards)

    def shard(self, index: int) -> Iterator[Row]:
        """Rows of one shard in stored order, of this part only.

        Raises:
            DataError: when the shard cannot be opened or read on; opening is tried
                `OPEN_ATTEMPTS` times.
        """
        done = 0
        try:
            for table in self._tables(index):
                yield from self._rows(table.to_pydict())
                done += table.num_rows
        except (*_CAN_PASS, pa.ArrowException) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"shard {index + 1} of {self.shards} of {self.source.path!r}, split "
                f"{self.split!r}, cannot be read after {done} rows: {reason}; see to the "
                "connection or the file, then go on (fit: with --resume)"
            ) from error

    def _tables(self, index: int) -> Iterator[pa.Table]:
        """Tables of one shard; opening it is retried with growing waits."""

        def opened() -> tuple[pa.Table | None, Iterator[pa.Table]]:
            shard = self._stream.shard(num_shards=self.shards, index=index)
            tables = iter(shard.with_format("arrow").iter(batch_size=_READ_ROWS))
            return next(tables, None), tables

        def say(state: RetryCallState) -> None:
            reason = type(state.outcome.exception()).__name__ if state.outcome else "?"
            log.warning("shard %d did not open (%s); trying again", index + 1, reason)

        retrying = Retrying(
            retry=retry_if_exception_type(_CAN_PASS),
            stop=stop_after_attempt(OPEN_ATTEMPTS),
            wait=wait_exponential(multiplier=OPEN_WAIT_S),
            before_sleep=say,
            reraise=True,
        )
        first, rest = retrying(opened)
        if first is not None:
            yield first
            yield from rest

    def _rows(self, columns: dict[str, list[Any]]) -> Iterator[Row]:
        targets = [
            _mapped(task, mapping, columns[task.name])
            for task, mapping in zip(labels.TASKS, self._maps, strict=True)
        ]
        values = zip(columns["image"], zip(*targets, strict=True), strict=True)
        for (image, target), test in zip(values, columns["service_test"], strict=True):
            file, data = image["path"], image["bytes"]
            if self.part == "validation" or in_holdout(file) == (self.part == "holdout"):
                yield Row(file, data, target, bool(test))

    def in_order(self) -> Iterator[Row]:
        """All rows in stored order."""
        for index in range(self.shards):
            yield from self.shard(index)

    def share(self, group: Group) -> Iterator[Row]:
        """One process's rows in stored order; those of all, by rank, are `in_order`.

        Only the shards of the share are read; one at its edge is read up to where the share ends.
        """
        for index in range(self.shards):
            # In parts of a shard, of which there are as many as processes.
            low = max(0, group.rank * self.shards - index * group.size)
            high = min(group.size, (group.rank + 1) * self.shards - index * group.size)
            if low >= high:
                continue
            rows, whole = self.counts[index], high == group.size
            start = low * rows // group.size
            yield from islice(
                self.shard(index), start, None if whole else high * rows // group.size
            )


def class_counts(rows: Iterable[Row]) -> dict[str, list[int]]:
    """Rows of each class by task, in the order of `faceattr.labels`."""
    counts = {task.name: [0] * len(task.classes) for task in labels.TASKS}
    for row in rows:
        for task, target in zip(labels.TASKS, row.targets, strict=True):
            counts[task.name][target] += 1
    return counts


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that choose the data set and the device."""
    default = Source()
    parser.add_argument("--data", default=default.path, help="Hub id or folder (%(default)s)")
    parser.add_argument("--data-config", default=default.config, help="margin (%(default)s)")
    parser.add_argument(
        "--data-revision", default=default.revision, help="commit of a Hub data set"
    )
    parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")


def source_of(args: argparse.Namespace) -> Source:
    """The data set that `add_data_arguments` describes, at a fixed commit."""
    return Source(args.data, args.data_config, args.data_revision).pinned()
