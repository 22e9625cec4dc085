"""The tables of a collection as arrays: what the statistics work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceattr import labels
from faceattr.audit.work import SOURCE_PREFIX
from faceattr.errors import AuditError

FLAGS = ("small", "blurred", "cut")
NONE_GROUP = "(none)"
"""Name of the group of images without a value."""
_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Collected:
    """Everything that was found in M images with N faces.

    Attributes:
        images: M.
        failed: images that could not be read, by kind of error.
        messages: an example of each kind: id and message.
        faces_of: faces of each image, shape (M,); -1 for an image that could not be read.
        image: number of each face's image, 0 to M-1, shape (N,), ascending.
        probabilities: by task, float32 (N, classes).
        unsure: by task, shape (N,).
        flags: by name of `FLAGS`, shape (N,).
        groups: names of the groups by which the collection is split; empty without a split.
        group: number of each image's group, shape (M,).
        columns: of the source, text by face, N values each.
        has_images: whether images without a face are known.
    """

    images: int
    failed: Mapping[str, int]
    messages: Mapping[str, tuple[str, str]]
    faces_of: NDArray[np.int64]
    image: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.float32]]
    unsure: Mapping[str, NDArray[np.bool_]]
    flags: Mapping[str, NDArray[np.bool_]]
    groups: tuple[str, ...] = ()
    group: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    columns: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    has_images: bool = True

    @property
    def faces(self) -> int:
        """N."""
        return len(self.image)

    @property
    def without_face(self) -> int:
        """Images that were read and in which no face was found."""
        return int((self.faces_of == 0).sum())

    def face_group(self) -> NDArray[np.int64]:
        """Number of each face's group, shape (N,)."""
        return self.group[self.image]


def read_collected(
    faces: Path, images: Path | None, *, by: str | None = None, columns: Sequence[str] = ()
) -> Collected:
    """Read the tables of an audit.

    Args:
        faces: one row a face; of foreign tables the probability columns are enough.
        images: one row an image; None where there is no such table: then every image that is
            known has a face.
        by: column of the source that splits the collection.
        columns: of the source that are wanted by face.

    Raises:
        AuditError: for a table that lacks a column.
    """
    found = _Faces(faces, columns if images is not None or by is None else [*columns, by])
    if images is None:
        return _without_images(found, by)
    wanted = ["id", "faces", "error", "message", *([SOURCE_PREFIX + by] if by else [])]
    table = _open(images)
    _require(table.schema_arrow, wanted, images, by)
    counts, values = [], []
    failed: Counter[str] = Counter()
    messages: dict[str, tuple[str, str]] = {}
    for batch in table.iter_batches(_ROWS, columns=wanted):
        number = batch["faces"].to_numpy(zero_copy_only=False).astype(np.int64)
        for position in np.flatnonzero(batch["error"].is_valid().to_numpy(zero_copy_only=False)):
            place = int(position)
            kind = str(batch["error"][place].as_py())
            number[place] = -1
            failed[kind] += 1
            example = (str(batch["id"][place].as_py()), str(batch["message"][place].as_py()))
            messages.setdefault(kind, example)
        counts.append(number)
        if by:
            values += batch[SOURCE_PREFIX + by].to_pylist()
    faces_of = np.concatenate(counts) if counts else np.empty(0, np.int64)
    groups, group = _grouped(values) if by else ((), np.empty(0, np.int64))
    return Collected(
        images=len(faces_of),
        failed=dict(sorted(failed.items())),
        messages=messages,
        faces_of=faces_of,
        groups=groups,
        group=group,
        **found.fields(),
    )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise AuditError(f"{str(path)!r} is no readable Parquet table: {error}") from error


def _require(schema: pa.Schema, wanted: Sequence[str], path: Path, by: str | None) -> None:
    missing = [name for name in wanted if name not in schema.names]
    if by is not None and SOURCE_PREFIX + by in missing:
        kept = [n.removeprefix(SOURCE_PREFIX) for n in schema.names if n.startswith(SOURCE_PREFIX)]
        raise AuditError(
            f"{path.name!r} holds no column {by!r} of the source; it holds "
            f"{', '.join(map(repr, kept)) or 'none'}. Columns come in with --keep or --by when "
            "images are read"
        )
    if missing:
        raise AuditError(f"{path.name!r} lacks the columns {missing}; is it from an audit?")


class _Faces:
    """The table of faces, read a batch at a time."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        table = _open(path)
        self.columns: dict[str, list[str | None]] = {name: [] for name in columns}
        classes = {t.name: [f"{t.name}:{name}" for name in t.classes] for t in labels.TASKS}
        needed = [name for names in classes.values() for name in names]
        _require(table.schema_arrow, needed, path, None)
        for name in columns:
            _require(table.schema_arrow, [SOURCE_PREFIX + name], path, name)
        optional = ["image", *FLAGS, *(f"{task.name}_unsure" for task in labels.TASKS)]
        self._there = [name for name in optional if name in table.schema_arrow.names]
        self.values: dict[str, list[NDArray[Any]]] = {}
        wanted = [*needed, *self._there, *(SOURCE_PREFIX + name for name in columns)]
        for batch in table.iter_batches(_ROWS, columns=wanted):
            for task, names in classes.items():
                shares = [batch[name].to_numpy(zero_copy_only=False) for name in names]
                self.values.setdefault(task, []).append(np.stack(shares, 1).astype(np.float32))
            for name in self._there:
                some = batch[name].to_numpy(zero_copy_only=False)
                self.values.setdefault(name, []).append(some)
            for name in columns:
                self.columns[name] += map(_text, batch[SOURCE_PREFIX + name].to_pylist())
        self.rows = table.metadata.num_rows

    def fields(self) -> dict[str, Any]:
        """Arguments of `Collected`."""
        off = np.zeros(self.rows, np.bool_)
        return {
            "image": self._joined("image", np.arange(self.rows)).astype(np.int64),
            "probabilities": {
                task.name: self._joined(task.name, np.empty((0, len(task.classes)), np.float32))
                for task in labels.TASKS
            },
            "unsure": {
                task.name: self._joined(f"{task.name}_unsure", off).astype(np.bool_)
                for task in labels.TASKS
            },
            "flags": {name: self._joined(name, off).astype(np.bool_) for name in FLAGS},
            "columns": self.columns,
        }

    def _joined(self, name: str, default: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(self.values[name]) if name in self.values else default


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _grouped(values: Sequence[str | None]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sorted names of the groups, and each value's place among them."""
    named = [NONE_GROUP if value is None or value == "" else value for value in values]
    groups = tuple(sorted(set(named)))
    place = {name: number for number, name in enumerate(groups)}
    return groups, np.array([place[name] for name in named], np.int64)


def _without_images(found: _Faces, by: str | None) -> Collected:
    """What is known from faces alone: images are numbered anew, without gaps."""
    fields = found.fields()
    known, fields["image"] = np.unique(fields["image"], return_inverse=True)
    faces_of = np.bincount(fields["image"], minlength=len(known)).astype(np.int64)
    groups: tuple[str, ...] = ()
    group = np.empty(0, np.int64)
    if by is not None:
        groups, of_face = _grouped(found.columns[by])
        group = np.zeros(len(known), np.int64)
        group[fields["image"]] = of_face
    return Collected(
        images=len(known),
        failed={},
        messages={},
        faces_of=faces_of,
        groups=groups,
        group=group,
        has_images=False,
        **fields,
    )
