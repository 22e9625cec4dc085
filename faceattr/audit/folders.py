"""Files below a folder, without what an audit wrote there."""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from faceattr.audit.labelling import CROPS_NAME, PAGE_NAME, SHEET_NAME
from faceattr.audit.store import (
    FACES_NAME,
    IMAGES_NAME,
    LIST_NAME,
    PARTS_NAME,
    REPORT_NAME,
    RUN_NAME,
)
from faceattr.errors import AuditError, said_of

_OWN = frozenset(
    (RUN_NAME, IMAGES_NAME, FACES_NAME, PARTS_NAME, LIST_NAME, CROPS_NAME, PAGE_NAME, SHEET_NAME)
    + tuple(f"{REPORT_NAME}.{ending}" for ending in ("html", "json", "md"))
)
"""Names of files and folders that an audit writes into its output."""


def holds_audit(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is the output of an audit, be it finished or not."""
    try:
        values = json.loads(Path(folder, RUN_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"settings", "complete"} <= values.keys()


def walk(folder: str) -> Iterator[str]:
    """Files below a folder in order of name: no audit's, no hidden ones, no links to folders.

    Raises:
        AuditError: for a folder that cannot be read: left out it would change every share.
    """
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise AuditError(
            f"the folder {folder!r} cannot be read: {said_of(error)}; make it readable, or move it "
            "out of SOURCE"
        ) from error
    ran = any(entry.name == RUN_NAME for entry in listed) and holds_audit(folder)
    for entry in listed:
        if entry.name.startswith(".") or (ran and entry.name in _OWN):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        elif entry.is_file():
            yield entry.path


def is_of_audit(file: str, below: str) -> bool:
    """Whether an audit wrote a file, as `walk` of a folder above it would find out.

    Args:
        file: its path.
        below: folder that the path begins with; an audit further up does not count.
    """
    parts = Path(file).parts
    return any(
        parts[place] in _OWN and holds_audit(Path(*parts[:place]))
        for place in range(len(Path(below).parts), len(parts))
    )


def matching(pattern: str) -> list[str]:
    """Files here that a glob finds, in order, without those of audits below where it begins."""
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
    below = os.path.join("", *plain)
    return [
        file for file in sorted(glob.glob(pattern, recursive=True)) if not is_of_audit(file, below)
    ]
