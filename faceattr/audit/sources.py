"""Anything that holds a collection of images → references to them, in an order that never changes.

Nothing here reads an image; `places.Reader` does, where the network runs.
"""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from faceattr.audit.archives import tar_refs
from faceattr.audit.folders import matching, walk
from faceattr.audit.places import (
    FOLDER,
    Inline,
    ParquetColumns,
    Ref,
    folder_of,
    is_remote,
    is_web,
    open_binary,
)
from faceattr.audit.tables import hub_features, image_column, image_column_of, parquet_refs
from faceattr.audit.words import counted
from faceattr.errors import AuditError
from faceattr.images import ENDINGS

TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst", ".list")
COMPRESSED = (".tar.gz", ".tgz", ".zip", ".tar.zst")
FILE_ENDINGS = (*TABLES, *LISTS, *COMPRESSED, ".parquet", ".tar", *sorted(ENDINGS))
"""What a source ends in, in lower case, that can only be a file: no data set is asked for."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        image_column: of a table; None to find it.
        split: of a data set.
        config: of a data set with several.
        revision: commit, tag or branch of a data set on the Hub.
        root: folder or address before the relative paths of a table or list; None for the
            folder that the table lies in.
        http: whether web addresses are fetched.
        columns: of the source that are wanted beside the image.
    """

    image_column: str | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    root: str | None = None
    http: bool = False
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collection:
    """References to images.

    Attributes:
        name: what reports call it.
        kind: "folder", "files", "list", "csv", "parquet", "data set" or "tar".
        refs: gives them, always in the same order.
        count: counts them; None where that needs reading everything.
        root: for `places.Reader`.
        parquet: for `places.Reader`.
        revision: commit of a data set on the Hub.
        notes: what a reader of the report should know of how the source was read.
    """

    name: str
    kind: str
    refs: Callable[[], Iterator[Ref]]
    count: Callable[[], int | None]
    root: str | None = None
    parquet: ParquetColumns | None = None
    revision: str | None = None
    notes: tuple[str, ...] = field(default=())


def open_collection(source: str | os.PathLike[str], options: SourceOptions) -> Collection:
    """Find out what a source is, and check that the wanted columns are there.

    Raises:
        AuditError: saying what was expected.
    """
    text = os.fspath(source)
    if is_web(text) and not options.http:
        raise AuditError(f"{text!r} is a web address; give --http to fetch from the web")
    if is_remote(text):
        return _remote(text, options)
    if glob.has_magic(text) and not os.path.exists(text):
        return _files(text, matching(text), options)
    path = Path(text)
    if path.is_dir():
        return _folder(path, options)
    if path.is_file():
        return _file(text, options)
    if _is_hub_id(text) and not text.lower().endswith(FILE_ENDINGS):
        from faceattr.audit.hub_sets import open_data_set

        return open_data_set(text, options)
    raise AuditError(
        f"no such file or folder: {text!r}, and it is no Hub id of the form 'user/name'; check "
        "the path"
    )


def sampled(collection: Collection, size: int, seed: int) -> Collection:
    """A simple random sample without repetition, in the collection's order.

    Raises:
        AuditError: when the sample is empty.
    """
    if size < 1:
        raise AuditError(f"expected a sample of at least one image, came {size}")
    total = collection.count()
    if total is None:
        total = sum(1 for _ in collection.refs())
    if size >= total:
        return collection
    chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False))

    def refs() -> Iterator[Ref]:
        wanted = iter(chosen.tolist())
        next_one = next(wanted, None)
        for position, ref in enumerate(collection.refs()):
            if position == next_one:
                yield ref
                next_one = next(wanted, None)
                if next_one is None:
                    return

    note = f"A sample of {size:,} of {total:,} images, drawn with seed {seed}."
    return Collection(
        collection.name,
        collection.kind,
        refs,
        lambda: size,
        collection.root,
        collection.parquet,
        collection.revision,
        (*collection.notes, note),
    )


def _is_hub_id(text: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _file(text: str, options: SourceOptions) -> Collection:
    """A single file, here or at an address: a table, a list, an archive or an image."""
    ending = _ending(text)
    if ending in TABLES:
        return _csv(text, options)
    if ending == ".parquet":
        return _parquet([text], options)
    if ending == ".tar":
        return _tars(text, [text], options)
    if ending in LISTS:
        return _list(text, options)
    if ending in ENDINGS:
        return _files(text, [text], options)
    if text.lower().endswith(COMPRESSED):
        raise AuditError(f"{text!r} is compressed: unpack it, or make a plain .tar of it")
    raise AuditError(
        f"{text!r} is no source: expected a folder, a glob, a list (.txt), a table (.csv, .tsv, "
        ".parquet), an archive (.tar), an image, or a data set"
    )


def _check_columns(wanted: Sequence[str], known: Sequence[str], what: str) -> None:
    if missing := [name for name in wanted if name not in known]:
        raise AuditError(
            f"{what} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, known))}"
        )


def _folder(path: Path, options: SourceOptions) -> Collection:
    """A folder of images, a data set in the Hub's layout, or one of archives."""
    images, others, tars, tables = 0, 0, [], []
    for file in walk(str(path)):
        ending = _ending(file)
        if ending == ".parquet" and not file.endswith("metadata.parquet"):
            from faceattr.audit.hub_sets import open_data_set

            return open_data_set(str(path), options)
        if ending == ".tar":
            tars.append(file)
        elif ending in ENDINGS:
            images += 1
        else:
            others += 1
            if ending in (*TABLES, *LISTS):
                tables.append(file)
    if tars and not images:
        return _tars(str(path), tars, options)
    if not images:
        raise AuditError(
            f"the folder {str(path)!r} holds no image, Parquet table or archive"
            + (f" ({counted(others, 'file')} of other kinds)" if others else "")
            + (f"; give a table or list itself as SOURCE: {tables[0]!r}" if tables else "")
            + f"; images end in {', '.join(sorted(ENDINGS))}"
        )
    _check_columns(options.columns, [FOLDER], "a folder")
    whole = path.resolve().name

    def refs() -> Iterator[Ref]:
        for file in walk(str(path)):
            if _ending(file) in ENDINGS:
                below = Path(file).relative_to(path)
                name = below.as_posix()
                yield Ref(name, name, file, {FOLDER: below.parent.name or whole})

    notes = (f"{counted(others, 'other file')} left out.",) if others else ()
    return Collection(whole, "folder", refs, lambda: images, notes=notes)


def _files(pattern: str, found: Sequence[str], options: SourceOptions) -> Collection:
    """Files that a glob found."""
    tables = [file for file in found if _ending(file) == ".parquet"]
    if tables:
        return _parquet(tables, options, name=pattern)
    tars = [file for file in found if _ending(file) == ".tar"]
    images = [file for file in found if _ending(file) in ENDINGS]
    if tars and not images:
        return _tars(pattern, tars, options)
    if not images:
        raise AuditError(f"{pattern!r} matches no image, table or archive")
    _check_columns(options.columns, [FOLDER], "a set of files")

    def refs() -> Iterator[Ref]:
        for file in images:
            yield Ref(file, file, file, {FOLDER: folder_of(file)})

    return Collection(pattern, "files", refs, lambda: len(images))


def _root_of(text: str, options: SourceOptions) -> str:
    """What stands before the relative paths of a list or table."""
    if options.root is not None:
        return options.root
    return os.path.dirname(text) or "."


def _lines(text: str) -> Iterator[str]:
    with open_binary(text) as stream:
        for line in stream:
            if entry := line.decode("utf-8-sig", "surrogateescape").strip():
                yield entry


def _list(text: str, options: SourceOptions) -> Collection:
    """A text file with a path or an address a line."""
    _check_columns(options.columns, [FOLDER], "a list of paths")
    name = os.path.basename(text)

    def refs() -> Iterator[Ref]:
        for number, line in enumerate(_lines(text)):
            yield Ref(f"{name}#{number}", line, line, {FOLDER: folder_of(line)})

    count = sum(1 for _ in _lines(text))
    if count == 0:
        raise AuditError(f"the list {text!r} is empty; expected a path or an address a line")
    return Collection(name, "list", refs, lambda: count, _root_of(text, options))


def _csv_rows(text: str) -> Iterator[dict[str, Any]]:
    dialect = "excel-tab" if _ending(text) == ".tsv" else "excel"
    # Images may be in the table as data: addresses.
    csv.field_size_limit(1 << 28)
    with open_binary(text) as stream:
        decoded = (line.decode("utf-8-sig" if n == 0 else "utf-8") for n, line in enumerate(stream))
        yield from csv.DictReader(decoded, dialect=dialect)


def _csv(text: str, options: SourceOptions) -> Collection:
    """A table of text with a column of paths or addresses."""
    name = os.path.basename(text)
    try:
        first = next(_csv_rows(text), None)
        count = sum(1 for _ in _csv_rows(text))
    except (csv.Error, UnicodeDecodeError) as error:
        raise AuditError(f"{name} is no CSV table in UTF-8: {error}") from error
    if first is None:
        raise AuditError(f"the table {name!r} has no rows")
    known = [str(column) for column in first if column is not None]
    column = options.image_column or image_column_of(known)
    if column is None:
        raise AuditError(
            f"which column of {name!r} holds the images' paths? give --image-column; it has "
            + ", ".join(map(repr, known))
        )
    _check_columns([column, *options.columns], known, f"the table {name!r}")

    def refs() -> Iterator[Ref]:
        for number, row in enumerate(_csv_rows(text)):
            place = row.get(column) or ""
            shown = place if len(place) < 300 else ""
            values = {key: row.get(key) for key in options.columns}
            yield Ref(f"{name}#{number}", shown, place or Inline(None), values)

    return Collection(name, "csv", refs, lambda: count, _root_of(text, options))


def _parquet(files: Sequence[str], options: SourceOptions, name: str | None = None) -> Collection:
    """Parquet files of one schema."""
    with open_binary(files[0]) as stream:
        schema = pq.read_schema(stream)
    return parquet_collection(
        name or os.path.basename(files[0]), "parquet", files, hub_features(schema), options
    )


def parquet_collection(
    name: str,
    kind: str,
    files: Sequence[str],
    features: Mapping[str, Any],
    options: SourceOptions,
    revision: str | None = None,
) -> Collection:
    """Rows of Parquet files.

    Args:
        name: as `Collection`.
        kind: as `Collection`.
        files: paths or addresses, in order.
        features: of the Hub, by column; may be empty.
        options: see `SourceOptions`.
        revision: as `Collection`.

    Raises:
        AuditError: for a missing column.
    """
    with open_binary(files[0]) as stream:
        schema = pq.read_schema(stream)
    column = options.image_column or image_column(schema, features)
    column = column or image_column_of(schema.names)
    if column is None:
        raise AuditError(
            f"which column of {name!r} holds the images? give --image-column; it has "
            + ", ".join(map(repr, schema.names))
        )
    _check_columns([column, *options.columns], schema.names, f"the table {name!r}")
    names = {
        key: tuple(value["names"])
        for key, value in features.items()
        if isinstance(value, Mapping) and value.get("_type") == "ClassLabel" and "names" in value
    }
    wanted = ParquetColumns(column, options.columns, names)
    counts = _row_counts(files)
    return Collection(
        name,
        kind,
        lambda: parquet_refs(files, counts),
        lambda: sum(counts),
        _root_of(files[0], options),
        wanted,
        revision,
    )


def _row_counts(files: Sequence[str]) -> list[int]:
    counts = []
    for file in files:
        with open_binary(file) as stream:
            counts.append(int(pq.read_metadata(stream).num_rows))
    return counts


def _tars(name: str, files: Sequence[str], options: SourceOptions) -> Collection:
    """Uncompressed tar archives in the layout of WebDataset."""
    base = name if len(files) > 1 or os.path.isdir(name) else os.path.dirname(name)
    if glob.has_magic(base):
        base = "" if is_remote(base) else os.path.commonpath(files)
    wanted = frozenset(options.columns)

    def refs() -> Iterator[Ref]:
        return tar_refs(files, base, wanted)

    first = next(refs(), None)
    if first is None:
        raise AuditError(f"the archives of {name!r} hold no image")
    _check_columns(options.columns, list(first.columns), "the first image's part of the archive")
    return Collection(os.path.basename(name), "tar", refs, lambda: sum(1 for _ in refs()))


def _remote(text: str, options: SourceOptions) -> Collection:
    """An address of fsspec: a file, a glob or a folder."""
    if text.startswith("hf://datasets/") and text.count("/") == 4:
        from faceattr.audit.hub_sets import open_data_set

        return open_data_set(text.removeprefix("hf://datasets/"), options)
    if is_web(text) or text.startswith("data:"):
        return _files(text, [text], options) if _ending(text) in ENDINGS else _web_file(text)
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(text)
        found = system.glob(path) if glob.has_magic(path) else system.find(path)
        addresses = sorted(system.unstrip_protocol(file) for file in found)
    # Each file system of fsspec raises types of its own, also for a missing package.
    except Exception as error:
        raise AuditError(f"{text!r} cannot be listed: {error}") from error
    if addresses == [text] or len(addresses) == 1:
        return _file(addresses[0], options)
    return _files(text, addresses, options)


def _web_file(text: str) -> Collection:
    raise AuditError(
        f"{text!r} is no image: download the table or archive first, or give a list of addresses"
    )
