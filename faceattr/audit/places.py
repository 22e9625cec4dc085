"""Where an image of a collection lies, and how a worker reads it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from faceattr.audit.web import AddressError, fetch
from faceattr.errors import said_of
from faceattr.limits import OWN_BYTES

_ROWS = 32
"""Rows of a Parquet file that are decoded at a time."""
_BUFFER = 1 << 20
_SHOWN = 300
"""Characters of a path that a message shows."""


FOLDER = "folder"
"""Column that files in folders have: the name of the folder that they lie in."""


class Cell(NamedTuple):
    """A row of a Parquet file."""

    file: str
    row: int


class Member(NamedTuple):
    """A file within an uncompressed tar archive, in bytes from its start."""

    file: str
    offset: int
    size: int


class Inline(NamedTuple):
    """The encoded image itself, or None where the row has none."""

    content: bytes | None


Place: TypeAlias = "str | Cell | Member | Inline"
"""A path, an address or one of the above."""


class Ref(NamedTuple):
    """An image that has not been read yet.

    Attributes:
        id: unique within the collection and the same in every run.
        name: its own name within the source, such as a file's; not unique.
        place: where its bytes are.
        columns: values of the source's columns by name; a `Cell` has them in its file.
    """

    id: str
    name: str
    place: Place
    columns: Mapping[str, Any]


class Loaded(NamedTuple):
    """What was read for a `Ref`: a path or bytes, its columns, and its name."""

    content: str | bytes
    columns: Mapping[str, Any]
    name: str


class ReadError(Exception):
    """An image that cannot be had.

    Attributes:
        kind: "missing", "empty", "refused" or "unreadable".
        columns: what is known of its row.
    """

    def __init__(self, kind: str, message: str, columns: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.columns = columns or {}


@dataclass(frozen=True)
class ParquetColumns:
    """Which columns of Parquet rows are read.

    Attributes:
        image: struct of bytes and path, bytes, or text with a path or an address.
        columns: the others that are wanted.
        names: by column, class names that stand for its whole numbers.
    """

    image: str
    columns: tuple[str, ...] = ()
    names: Mapping[str, tuple[str, ...]] | None = None


def is_remote(place: str) -> bool:
    """Whether a place is an address rather than a path."""
    return "://" in place or place.startswith("data:")


def is_web(place: str) -> bool:
    """Whether an address, or one that it is chained to, is http or https."""
    return any(part.lower().startswith(("http://", "https://")) for part in place.split("::"))


def folder_of(place: str) -> str:
    """Name of the folder that a path or an address lies in."""
    return os.path.basename(os.path.dirname(place))


def shown_below(base: str, place: str) -> str:
    """What ids show of a path or an address: what follows `base`, the same on every system."""
    return place[len(base) :].replace(os.sep, "/").lstrip("/") or os.path.basename(place)


class Reader:
    """Reads images one by one; keeps the last Parquet file and archive open."""

    def __init__(
        self,
        *,
        root: str | None = None,
        http: bool = False,
        parquet: ParquetColumns | None = None,
        max_bytes: int = OWN_BYTES,
    ) -> None:
        """Open nothing yet.

        Args:
            root: folder or address before relative paths.
            http: whether web addresses are fetched.
            parquet: for collections with `Cell` places.
            max_bytes: of one encoded image.
        """
        self._root = root
        self._http = http
        self._parquet = parquet
        self._max_bytes = max_bytes
        self._rows: _ParquetRows | None = None
        self._archive: tuple[str, Any] | None = None

    def __enter__(self) -> Reader:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open."""
        self._rows = None
        if self._archive is not None:
            self._archive[1].close()
            self._archive = None

    def read(self, ref: Ref) -> Loaded:
        """The bytes, or the path of a file here, of one image.

        Raises:
            ReadError: saying why there is none.
        """
        columns = ref.columns
        try:
            if isinstance(ref.place, Cell):
                value, columns = self._cell(ref.place)
                name = value.get("path") if isinstance(value, dict) else None
                return Loaded(self._content(value), columns, name or ref.name)
            if isinstance(ref.place, Member):
                return Loaded(self._member(ref.place), columns, ref.name)
            if isinstance(ref.place, Inline):
                return Loaded(self._content(ref.place.content), columns, ref.name)
            return Loaded(self._path(ref.place), columns, ref.name)
        except ReadError as error:
            error.columns = columns
            raise
        # Each file system of fsspec raises types of its own for what it cannot read.
        except Exception as error:
            raise ReadError("unreadable", f"cannot be read: {said_of(error)}", columns) from error

    def _content(self, value: Any) -> str | bytes:
        """What a cell's value, bytes, text or a struct of both, stands for."""
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None or value == "" or value == b"":
            raise ReadError("empty", "the row holds no image")
        if isinstance(value, str):
            return self._path(value)
        if not isinstance(value, bytes):
            kind = type(value).__name__
            raise ReadError("unreadable", f"expected bytes, a path or an address, came {kind}")
        return value

    def _path(self, place: str) -> str | bytes:
        given, root = place, self._root
        if root is not None and not is_remote(place):
            place = f"{root}/{place}" if is_remote(root) else os.path.join(root, place)
        if not is_remote(place):
            if not os.path.isfile(place):
                below = "" if root is None or os.path.isabs(given) else f" below {root!r}"
                raise ReadError("missing", f"there is no file {given[:_SHOWN]!r}{below}")
            return place
        if is_web(place):
            return self._web(place)
        # Imported here: files on this machine need none of it.
        import fsspec

        with fsspec.open(place, "rb") as stream:
            return self._limited(stream.read(self._max_bytes + 1))

    def _limited(self, content: bytes) -> bytes:
        if len(content) > self._max_bytes:
            raise ReadError("unreadable", f"expected at most {self._max_bytes:,} bytes, came more")
        return content

    def _web(self, place: str) -> bytes:
        if not self._http:
            raise ReadError("refused", "web addresses are fetched only with --http")
        try:
            return fetch(place, self._max_bytes)
        except AddressError as error:
            raise ReadError("refused", str(error)) from error

    def _cell(self, cell: Cell) -> tuple[Any, Mapping[str, Any]]:
        if self._parquet is None:
            raise ReadError("unreadable", "the columns of the Parquet file are not known")
        if self._rows is None or not self._rows.reaches(cell):
            self._rows = None
            self._rows = _ParquetRows(cell, self._parquet)
        return self._rows.take(cell.row)

    def _member(self, member: Member) -> bytes:
        if member.size > self._max_bytes:
            raise ReadError("unreadable", f"expected at most {self._max_bytes:,} bytes, came more")
        if self._archive is None or self._archive[0] != member.file:
            self.__exit__()
            self._archive = (member.file, open_binary(member.file))
        stream = self._archive[1]
        stream.seek(member.offset)
        content: bytes = stream.read(member.size)
        if len(content) < member.size:
            raise ReadError("unreadable", "the archive ends within the image")
        return content


class _ParquetRows:
    """Goes forward through a row group, a few rows in memory."""

    def __init__(self, cell: Cell, wanted: ParquetColumns) -> None:
        self._file = cell.file
        self._wanted = wanted
        source = cell.file if not is_remote(cell.file) else open_binary(cell.file)
        table = pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        self._group, self._next = group_of(table.metadata, cell.row)
        self._end = self._next + table.metadata.row_group(self._group).num_rows
        names = [wanted.image, *(n for n in wanted.columns if n != wanted.image)]
        self._batches: Iterator[pa.RecordBatch] = table.iter_batches(
            _ROWS, row_groups=[self._group], columns=names
        )
        self._batch: pa.RecordBatch | None = None

    def reaches(self, cell: Cell) -> bool:
        """Whether going on leads to the cell."""
        start = self._next - (self._batch.num_rows if self._batch is not None else 0)
        return cell.file == self._file and start <= cell.row < self._end

    def take(self, row: int) -> tuple[Any, Mapping[str, Any]]:
        """The image's value and the wanted columns of a row."""
        while self._batch is None or row >= self._next:
            self._batch = next(self._batches)
            self._next += self._batch.num_rows
        place = row - (self._next - self._batch.num_rows)
        value = self._batch[self._wanted.image][place].as_py()
        names = self._wanted.names or {}
        columns = {}
        for column in self._wanted.columns:
            found = self._batch[column][place].as_py()
            if column in names and isinstance(found, int):
                found = names[column][found] if 0 <= found < len(names[column]) else None
            columns[column] = found
        return value, columns


def group_of(metadata: Any, row: int) -> tuple[int, int]:
    """The row group that holds a row, and the number of that group's first row."""
    start = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if row < start + count:
            return group, start
        start += count
    raise IndexError(f"the file has {start} rows, row {row} was asked for")


def open_binary(place: str) -> Any:
    """A seekable stream of a file here or at an address of fsspec."""
    if not is_remote(place):
        return Path(place).open("rb")
    import fsspec

    return fsspec.open(place, "rb").open()


def as_text(value: Any) -> str | None:
    """A column's value as text: what tables keep of it; None where there is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None  # Not every writer of tables knows null.
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, default=str, ensure_ascii=False)
