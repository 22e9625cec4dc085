"""Uncompressed tar archives in WebDataset's layout: files of one sample share a name."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from faceattr.audit.places import FOLDER, Member, Ref, as_text, open_binary
from faceattr.errors import AuditError
from faceattr.images import ENDINGS


def _opened(stream: Any, file: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except (tarfile.TarError, EOFError) as error:
        name = PurePosixPath(file).name
        raise AuditError(f"{name!r} is no uncompressed tar archive: {error}") from error


def _samples(file: str) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The files of an archive by the part of their name before the first dot (WebDataset)."""
    key, members = "", dict[str, tarfile.TarInfo]()
    with open_binary(file) as stream, _opened(stream, file) as archive:
        while (info := archive.next()) is not None:
            # What was read is kept otherwise, and grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            if not info.isfile() or PurePosixPath(info.name).name.startswith("."):
                continue
            folder, _, base = info.name.rpartition("/")
            stem, _, ending = base.partition(".")
            this = f"{folder}/{stem}" if folder else stem
            if members and this != key:
                yield key, members
                members = {}
            key = this
            members[ending.lower()] = info
    if members:
        yield key, members


def _values(
    file: str, members: Mapping[str, tarfile.TarInfo], wanted: frozenset[str]
) -> dict[str, Any]:
    """Values beside an image: `.json` field by field, others such as `.cls` by their ending."""
    values: dict[str, Any] = {}
    if not wanted:
        return values
    with open_binary(file) as stream:
        for ending, info in members.items():
            if f".{ending}" in ENDINGS or (ending != "json" and ending not in wanted):
                continue
            stream.seek(info.offset_data)
            content = stream.read(info.size).decode("utf-8", "replace")
            if ending == "json":
                found = json.loads(content)
                values |= {k: as_text(v) for k, v in found.items() if k in wanted}
            else:
                values[ending] = content.strip()
    return values


def tar_refs(files: Sequence[str], base: str, wanted: frozenset[str]) -> Iterator[Ref]:
    """One reference an image.

    Args:
        files: paths or addresses of the archives.
        base: what their ids do without.
        wanted: values from beside the images: fields of `.json`, others by their ending.

    Raises:
        AuditError: for a damaged archive.
    """
    for file in files:
        shown = file[len(base) :].lstrip("/") or PurePosixPath(file).name
        for key, members in _samples(file):
            images = [e for e in members if f".{e.rpartition('.')[2]}" in ENDINGS]
            values = {FOLDER: PurePosixPath(key).parent.name}
            values |= _values(file, members, wanted - {FOLDER})
            for ending in images:
                info = members[ending]
                place = Member(file, info.offset_data, info.size)
                yield Ref(f"{shown}#{info.name}", info.name, place, values)
