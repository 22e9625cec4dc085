"""Rows of FairFace, streamed once through the datasets library and kept on disk as they came.

A split's encoded images lie one after the other in one file that is mapped into memory; an index
beside it holds labels and places. Later runs check the file's SHA-256 and read from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import httpx2
import numpy as np
import pyarrow as pa
from datasets import IterableDataset, load_dataset
from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from numpy.typing import NDArray
from tqdm import tqdm

from faceattr import labels

log = logging.getLogger("train")
HUB_ID = "HuggingFaceM4/FairFace"
MARGIN = "0.25"
HOLDOUT_EVERY = 20
HOLDOUT_UP_TO = 40_000
MAX_SKIPPED = 10
STORE_VARIABLE = "FACEATTR_ROWS"
_STORED = 2
"""Version of the stored files' layout."""
_READ_ROWS = 256

Part = Literal["train", "holdout", "validation"]


class DataError(RuntimeError):
    """The data set cannot be read or does not look like FairFace; the message says where."""


class Row(NamedTuple):
    """One row: its name, encoded image, class positions in `labels.TASKS` order, and mark."""

    file: str
    image: bytes
    targets: tuple[int, ...]
    service_test: bool


def in_holdout(file: str) -> bool:
    """Whether a training row belongs to the fixed holdout of 2,000 rows.

    FairFace numbers its training images 1.jpg to 86744.jpg. Every twentieth of the first
    40,000 is held out for selection (checkpoint, temperature, hyperparameters), whatever the
    source holds beyond them, so all runs hold out the same rows.

    Raises:
        DataError: for a file name that is not a number.
    """
    stem = file.rpartition("/")[2].partition(".")[0]
    if not stem.isdigit():
        raise DataError(f"expected FairFace's numbered images such as '12.jpg', came {file!r}")
    number = int(stem)
    return number <= HOLDOUT_UP_TO and number % HOLDOUT_EVERY == 0


@dataclass(frozen=True)
class Source:
    """Which data to read.

    Attributes:
        path: Hub id, or a local folder of the same layout.
        config: crop margin of the images, "0.25" or "1.25".
        revision: branch, tag or commit of the Hub data set; `pinned()` makes it a commit.
        max_skipped: most rows of a split whose image does not decode that one goes on without.
    """

    path: str = HUB_ID
    config: str = MARGIN
    revision: str | None = None
    max_skipped: int = MAX_SKIPPED

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
            if self.revision is not None:
                raise DataError(
                    f"{self.path!r} is a folder, which has no revision {self.revision!r}; give a "
                    "Hub id, or leave the revision out"
                )
            return self
        is_file = Path(self.path).exists()
        if is_file or self.path.startswith(("/", ".", "~")):
            raise DataError(
                f"expected a folder of Parquet files, came {self.path!r}, which is "
                f"{'a file' if is_file else 'not there'}; check the path"
            )
        try:
            commit = HfApi().dataset_info(self.path, revision=self.revision).sha
        except (HfHubHTTPError, HFValidationError, OSError, httpx2.HTTPError) as error:
            raise DataError(
                f"{self.path!r} is no folder here, and the Hub gave no commit of a data set of "
                f"that name: {_reason(error)}; check the name, the revision and the connection"
            ) from error
        return replace(self, revision=commit)

    def stream(self, split: str, columns: list[str] | None = None) -> IterableDataset:
        """Open a split for streaming.

        Raises:
            DataError: when it cannot be opened.
        """
        options: dict[str, Any] = {"split": split, "revision": self.revision}
        if columns is not None:
            options["columns"] = columns
        try:
            return load_dataset(self.path, self.config, streaming=True, **options)
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

    def key(self, split: str) -> str:
        """Name of a split's stored files; of a local folder by its files' sizes and times."""
        files: list[tuple[str, int, int]] = []
        path = self.path
        if self.is_local:
            folder = Path(self.path).resolve()
            found = sorted(p for p in folder.rglob("*") if p.suffix == ".parquet")
            stats = [(p.relative_to(folder).as_posix(), p.stat()) for p in found]
            files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
            path = str(folder)
        facts = [_STORED, path, self.config, self.revision, split, files]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return f"{split}-{digest[:16]}"


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def store_folder() -> Path:
    """Where rows are kept: `FACEATTR_ROWS`, or a folder of the user's cache."""
    if configured := os.environ.get(STORE_VARIABLE):
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "faceattr" / "rows"


def _mapping(task: labels.Task, stream: IterableDataset, path: str) -> dict[int | None, int]:
    """Our class positions by the data set's, which orders classes its own way."""
    feature = (stream.features or {}).get(task.name)
    if feature is None:
        raise DataError(f"{path!r} has no column {task.name!r}")
    if (names := getattr(feature, "names", None)) is None:
        raise DataError(f"column {task.name!r} of {path!r} has no class names")
    return dict(enumerate(task.indices(names)))


def decodes(image: bytes | None) -> bool:
    """Whether an encoded image is there, whole and readable."""
    if not image:
        return False
    # libjpeg fills a truncated file up with grey and only warns.
    if image[:2] == b"\xff\xd8" and b"\xff\xd9" not in image[-64:]:
        return False
    return cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) is not None


def _streamed(source: Source, split: str) -> Iterator[tuple[Row, bool]]:
    """All rows of a split in stored order, and whether their image decodes.

    Raises:
        DataError: when the data set cannot be read on, or a row lacks a label.
    """
    stream = source.stream(split).decode(False)
    maps = {task.name: _mapping(task, stream, source.path) for task in labels.TASKS}
    for name in ("image", "service_test"):
        if name not in (stream.features or {}):
            raise DataError(f"{source.path!r} has no column {name!r}")
    done = 0
    try:
        for table in stream.with_format("arrow").iter(batch_size=_READ_ROWS):
            columns = table.to_pydict()
            for index, (image, test) in enumerate(
                zip(columns["image"], columns["service_test"], strict=True)
            ):
                image = image or {}
                file = image.get("path") or f"row {done}"
                targets = []
                for name, mapping in maps.items():
                    if (label := columns[name][index]) not in mapping:
                        raise DataError(f"{file!r} has no {name} label: came {label!r}")
                    targets.append(mapping[label])
                content = image.get("bytes") or b""
                yield Row(file, content, tuple(targets), bool(test)), decodes(content)
                done += 1
    except (OSError, httpx2.HTTPError, pa.ArrowException) as error:
        raise DataError(
            f"split {split!r} of {source.path!r} cannot be read after {done} rows: "
            f"{_reason(error)}; see to the connection or the file, then run the command again"
        ) from error


def _store(source: Source, split: str, target: Path) -> None:
    """Stream a split into `target.bin` and `target.json`, the index last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".new")
    digest, offsets, skipped = hashlib.sha256(), [0], []
    kept: list[Row] = []
    log.info("reading split %r of %s once, into %s", split, source.path, target.parent)
    with (
        temporary.open("wb") as out,
        tqdm(unit="row", desc=split, disable=not sys.stderr.isatty()) as bar,
    ):
        for row, readable in _streamed(source, split):
            bar.update()
            if not readable:
                skipped.append(row.file)
                log.warning("row %r holds no readable image; it is left out", row.file)
                continue
            out.write(row.image)
            digest.update(row.image)
            offsets.append(offsets[-1] + len(row.image))
            kept.append(row._replace(image=b""))
        out.flush()
        os.fsync(out.fileno())
    index = {
        "layout": _STORED,
        "sha256": digest.hexdigest(),
        "skipped": skipped,
        "files": [row.file for row in kept],
        "offsets": offsets,
        "targets": [row.targets for row in kept],
        "service_test": [row.service_test for row in kept],
    }
    temporary.replace(target.with_suffix(".bin"))
    temporary.write_text(json.dumps(index))
    temporary.replace(target.with_suffix(".json"))


class Rows:
    """One part of the data set, in stored order, from the file on disk.

    Attributes:
        source: the data set.
        part: which of its parts.
        skipped: names of the split's rows that were left out since they do not decode.
        targets: class positions `(rows, tasks)` in `labels.TASKS` order.
        sha256: of the split's stored images, their names and labels.
    """

    def __init__(self, source: Source, part: Part, limit: int | None = None) -> None:
        """Open a part; streams the split first where it is not stored yet.

        Args:
            source: the data set.
            part: training rows, the holdout taken from them, or validation rows.
            limit: take only so many rows, evenly spread over the part.

        Raises:
            DataError: when the data cannot be read, or more rows than `source.max_skipped` of the
                split do not decode.
        """
        self.source, self.part = source, part
        self.split = "validation" if part == "validation" else "train"
        target = store_folder() / self.split / source.key(self.split)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            index = _read_index(target)
            if index is None:
                _store(source, self.split, target)
                index = _read_index(target)
        if index is None:
            raise DataError(f"{target}.bin changed while it was read; run the command again")
        self.skipped: tuple[str, ...] = tuple(index["skipped"])
        if len(self.skipped) > source.max_skipped:
            raise DataError(
                f"{len(self.skipped)} rows of split {self.split!r} do not decode, "
                f"{source.max_skipped} are allowed: {', '.join(self.skipped)}; see to the data, or "
                "allow more with --max-skipped"
            )
        facts = [index[name] for name in ("sha256", "files", "targets")]
        self.sha256 = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self._files: list[str] = index["files"]
        self._offsets = np.array(index["offsets"])
        self._marks: list[bool] = index["service_test"]
        chosen = [
            place
            for place, file in enumerate(self._files)
            if part == "validation" or in_holdout(file) == (part == "holdout")
        ]
        if limit is not None and limit < len(chosen):
            chosen = [chosen[i * len(chosen) // limit] for i in range(limit)]
        self._places = np.array(chosen, dtype=np.int64)
        every = np.array(index["targets"], dtype=np.int64).reshape(-1, len(labels.TASKS))
        self.targets: NDArray[np.int64] = every[self._places]
        self._path = target.with_suffix(".bin")
        self._mapped: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: a worker process maps it anew."""
        return {**self.__dict__, "_mapped": None}

    def __len__(self) -> int:
        """Rows of this part."""
        return len(self._places)

    def __iter__(self) -> Iterator[Row]:
        """All rows in order."""
        return map(self.__getitem__, range(len(self)))

    def image(self, index: int) -> memoryview:
        """The encoded image of a row."""
        if self._mapped is None:
            with self._path.open("rb") as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        place = self._places[index]
        return memoryview(self._mapped)[self._offsets[place] : self._offsets[place + 1]]

    def __getitem__(self, index: int) -> Row:
        """A row."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = self._places[index]
        targets = tuple(self.targets[index].tolist())
        return Row(self._files[place], bytes(self.image(index)), targets, self._marks[place])


def _read_index(target: Path) -> dict[str, Any] | None:
    """The index of a stored split; None where there is none or the images are not its own."""
    try:
        index: dict[str, Any] = json.loads(target.with_suffix(".json").read_text())
        digest = sha256(target.with_suffix(".bin"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s.json is damaged; the split is read again", target)
        return None
    if index["sha256"] != digest:
        log.warning("%s.bin is damaged: not its SHA-256; the split is read again", target)
        return None
    return index


def add_data_arguments(
    parser: argparse.ArgumentParser, *, positional: bool = False, device: bool = True
) -> None:
    """Options that choose the data set, `DATA` or `--data DATA`, and the device where used."""
    default = Source()
    if positional:
        parser.add_argument("data", metavar="DATA", help="Hub id or folder, e.g. " + default.path)
    else:
        parser.add_argument("--data", default=default.path, help="Hub id or folder (%(default)s)")
    parser.add_argument("--data-config", default=default.config, help="margin (%(default)s)")
    parser.add_argument("--data-revision", help="commit of a Hub data set")
    words = "rows of a split whose image does not decode that may be left out (%(default)s)"
    parser.add_argument(
        "--max-skipped", type=int, default=default.max_skipped, metavar="N", help=words
    )
    if device:
        parser.add_argument("--device", help="cpu or cuda; by default a GPU where there is one")


def source_of(args: argparse.Namespace) -> Source:
    """The data set that `add_data_arguments` describes, at a fixed commit."""
    if args.max_skipped < 0:
        raise ValueError(f"--max-skipped must not be below 0, came {args.max_skipped}")
    return Source(
        args.data, args.data_config, args.data_revision, max_skipped=args.max_skipped
    ).pinned()
