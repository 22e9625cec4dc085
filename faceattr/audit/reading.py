"""The tables of an audit → arrays, a batch of rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceattr import labels
from faceattr.audit.collected import FLAGS, Collected, grouped
from faceattr.audit.faces import SOURCE_PREFIX
from faceattr.errors import AuditError, said_of

_ROWS = 65_536


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
    groups, group = grouped(values) if by else ((), np.empty(0, np.int64))
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
        raise AuditError(f"{str(path)!r} is no readable Parquet table: {said_of(error)}") from error


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
        columns = tuple(dict.fromkeys(columns))
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


def _without_images(found: _Faces, by: str | None) -> Collected:
    """What is known from faces alone: images are numbered anew, without gaps."""
    fields = found.fields()
    known, fields["image"] = np.unique(fields["image"], return_inverse=True)
    faces_of = np.bincount(fields["image"], minlength=len(known)).astype(np.int64)
    groups: tuple[str, ...] = ()
    group = np.empty(0, np.int64)
    if by is not None:
        groups, of_face = grouped(found.columns[by])
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
