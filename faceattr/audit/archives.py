"""Uncompressed tar archives in WebDataset's layout: files of one sample share a name."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from faceattr.audit.places import FOLDER, Member, Ref, as_text, open_binary, shown_below
from faceattr.errors import AuditError
from faceattr.images import ENDINGS


def _opened(stream: Any, file: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r:")
    except (tarfile.TarError, EOFError) as error:
        name = os.path.basename(file)
        raise AuditError(f"{name!r} is no uncompressed tar archive: {error}") from error


def _infos(stream: Any, file: str) -> Iterator[tarfile.TarInfo]:
    """What an archive holds, to its end; some tools leave out the empty block that marks it.

    Raises:
        AuditError: where it is cut or damaged: `tarfile` takes a header it cannot read for the end.
    """
    archive, last = _opened(stream, file), ""
    try:
        while (info := archive.next()) is not None:
            # What was read is kept otherwise, and grows with the archive.
            archive.members = []  # type: ignore[attr-defined]
            last = info.name
            yield info
    except tarfile.TarError as error:
        raise _damaged(file, last, str(error)) from error
    stream.seek(archive.offset)
    if any(stream.read(tarfile.BLOCKSIZE)):
        raise _damaged(file, last, "no header of a member follows")


def _damaged(file: str, last: str, why: str) -> AuditError:
    return AuditError(
        f"the archive {os.path.basename(file)!r} is damaged or cut behind {last!r} ({why}): what "
        "follows is lost; fetch or make it anew, or leave it out"
    )


def _samples(file: str) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The files of an archive by the part of their name before the first dot (WebDataset)."""
    key, members = "", dict[str, tarfile.TarInfo]()
    with open_binary(file) as stream:
        for info in _infos(stream, file):
            if not info.isfile() or PurePosixPath(info.name).name.startswith("."):
                continue
            folder, _, base = info.name.rpartition("/")
            stem, _, ending = base.partition(".")
            this = f"{folder}/{stem}" if folder else stem
            if members and this != key:
                yield key, members
                members = {}
            key = this
            members[ending] = info
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
        for spelled, info in members.items():
            ending = spelled.lower()
            if f".{ending}" in ENDINGS or (ending != "json" and ending not in wanted):
                continue
            stream.seek(info.offset_data)
            content = stream.read(info.size).decode("utf-8", "replace")
            if ending == "json":
                found = _fields(content, info.name, file)
                values |= {k: as_text(v) for k, v in found.items() if k in wanted}
            else:
                values[ending] = content.strip()
    return values


def _fields(content: str, member: str, file: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        came = f"it is no JSON: {error}"
    else:
        if isinstance(found, dict):
            return found
        came = f"came {type(found).__name__}"
    raise AuditError(
        f"{member!r} in the archive {os.path.basename(file)!r}: expected a JSON object with the "
        f"columns of --keep, --by, --truth or --prediction, {came}; mend it, or leave these out"
    )


def tar_refs(files: Sequence[str], base: str, wanted: frozenset[str]) -> Iterator[Ref]:
    """One reference an image.

    Args:
        files: paths or addresses of the archives.
        base: what their ids do without.
        wanted: values from beside the images: fields of `.json`, others by their ending.

    Raises:
        AuditError: for a damaged archive, and for `.json` that is no object.
    """
    for file in files:
        shown = shown_below(base, file)
        for key, members in _samples(file):
            images = [e for e in members if PurePosixPath(f"x.{e}").suffix.lower() in ENDINGS]
            values = {FOLDER: PurePosixPath(key).parent.name}
            values |= _values(file, members, wanted - {FOLDER})
            for ending in images:
                info = members[ending]
                place = Member(file, info.offset_data, info.size)
                yield Ref(f"{shown}#{info.name}", info.name, place, values)
