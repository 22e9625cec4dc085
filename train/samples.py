"""Rows of FairFace, streamed through the datasets library and shuffled with a seed.

Order is a pure function of (seed, epoch), so a run resumes by going to its place again; no
shuffle buffer has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from datasets import IterableDataset, load_dataset
from numpy.typing import NDArray

from faceattr import labels

HUB_ID = "HuggingFaceM4/FairFace"
MARGIN = "0.25"
HOLDOUT_EVERY = 20
HOLDOUT_UP_TO = 40_000
_READ_ROWS = 256

Part = Literal["train", "holdout", "validation"]


class DataError(RuntimeError):
    """The data set cannot be read or does not look like FairFace; the message says where."""


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
    stem = Path(file).stem
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
        revision: commit of the Hub data set; None for a local folder.
    """

    path: str = HUB_ID
    config: str = MARGIN
    revision: str | None = None

    def stream(self, split: str, columns: list[str] | None = None) -> IterableDataset:
        """Open a split for streaming.

        Raises:
            DataError: when it cannot be opened.
        """
        options = {} if columns is None else {"columns": columns}
        revision = None if Path(self.path).is_dir() else self.revision
        try:
            return load_dataset(
                self.path, self.config, split=split, streaming=True, revision=revision, **options
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot open split {split!r} of {self.path!r}: {error}; expected the Hub id "
                f"{HUB_ID!r} or a folder with the same layout"
            ) from error

    def describe(self, split: str, rows: int) -> dict[str, str | int | None]:
        """Facts for reports; a local folder is named by its last part only."""
        local = Path(self.path).is_dir()
        return {
            "id": Path(self.path).name if local else self.path,
            "config": self.config,
            "split": split,
            "revision": None if local else self.revision,
            "rows": rows,
        }


def count_rows(source: Source, part: Part) -> int:
    """Number of rows of a part, from one small column; pictures are not read."""
    split = "validation" if part == "validation" else "train"
    stream = source.stream(split, columns=["service_test"]).with_format("arrow")
    total = sum(table.num_rows for table in stream.iter(batch_size=10_000))
    if part == "validation":
        return total
    held = min(total, HOLDOUT_UP_TO) // HOLDOUT_EVERY
    return held if part == "holdout" else total - held


class Rows:
    """One part of the data set, shard by shard."""

    def __init__(self, source: Source, part: Part) -> None:
        self.source = source
        self.part = part
        self.split = "validation" if part == "validation" else "train"
        self._stream = source.stream(self.split).decode(False)
        self._maps = []
        for task in labels.TASKS:
            feature = (self._stream.features or {}).get(task.name)
            if not hasattr(feature, "names"):
                raise DataError(f"column {task.name!r} of {source.path!r} has no class names")
            self._maps.append(task.indices(feature.names))

    @property
    def shards(self) -> int:
        """Number of files the split is stored in."""
        return int(self._stream.num_shards)

    def shard(self, index: int) -> Iterator[Row]:
        """Rows of one shard in stored order, of this part only."""
        shard = self._stream.shard(num_shards=self.shards, index=index).with_format("arrow")
        for table in shard.iter(batch_size=_READ_ROWS):
            yield from self._rows(table.to_pydict())

    def _rows(self, columns: dict[str, list[object]]) -> Iterator[Row]:
        targets = [
            [mapping[value] for value in columns[task.name]]  # type: ignore[index]
            for task, mapping in zip(labels.TASKS, self._maps, strict=True)
        ]
        values = zip(columns["image"], zip(*targets, strict=True), strict=True)
        for (image, target), test in zip(values, columns["service_test"], strict=True):
            file, data = image["path"], image["bytes"]  # type: ignore[index]
            if self.part == "validation" or in_holdout(file) == (self.part == "holdout"):
                yield Row(file, data, target, bool(test))

    def in_order(self) -> Iterator[Row]:
        """All rows in stored order."""
        for index in range(self.shards):
            yield from self.shard(index)

    def shuffled(self, seed: int, epoch: int, buffer_size: int) -> Iterator[Row]:
        """All rows, shards permuted and rows drawn from a buffer; fixed by (seed, epoch)."""
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(self.shards)
        rows = (row for index in order for row in self.shard(int(index)))
        return shuffle_buffered(rows, buffer_size, rng)


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
