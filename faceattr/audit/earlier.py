"""The tables of an earlier audit, of which a report is made anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceattr.audit.collect import Tables
from faceattr.audit.store import FACES_NAME, IMAGES_NAME, RUN_NAME, read_run
from faceattr.errors import AuditError, said_of
from faceattr.labels import TASKS

UNKNOWN = "unknown"
"""Name of weights that no file names."""


def find_earlier(source: str | os.PathLike[str], output: Path) -> Tables | None:
    """The tables of an earlier audit, where the source is one.

    Args:
        source: as it was given.
        output: folder of the report.

    Raises:
        AuditError: for tables that cannot be used, and images that the output lies among.
    """
    path = Path(source)
    if path.is_dir():
        faces = path / FACES_NAME
        if not (faces.is_file() and (path / RUN_NAME).is_file()):
            _check_apart(path, output)
            return None
    else:
        faces = path
    if faces.suffix != ".parquet" or not faces.is_file():
        return None
    try:
        names = pq.read_schema(faces).names
    except (OSError, pa.ArrowInvalid) as error:
        raise AuditError(
            f"{str(faces)!r} is no readable Parquet table: {said_of(error)}"
        ) from error
    if {"image", "id", "image_width", "faces", "error", "message"} <= set(names):
        raise AuditError(
            f"{str(faces)!r} is an earlier audit's table of images; give its folder or "
            f"{FACES_NAME}, which lies beside it"
        )
    if any(f"{task.name}:{task.classes[0]}" not in names for task in TASKS):
        return None
    if output.resolve() == faces.parent.resolve():
        # Only the report is written anew; the tables stay.
        output.mkdir(exist_ok=True)
    return Tables(faces.with_name(IMAGES_NAME), faces, _facts_of(faces))


def _check_apart(images: Path, output: Path) -> None:
    """Refuse to write among the images: from then on their folder would be taken for an audit."""
    if images.resolve() == output.resolve():
        raise AuditError(
            f"--output {str(output)!r} is SOURCE itself; give a folder of its own, such as "
            f"{str(output / 'audit')!r}"
        )


def _facts_of(faces: Path) -> dict[str, Any]:
    facts = (read_run(faces.parent) or {}).get("facts", {})
    return {
        "source": faces.name,
        "kind": "faces",
        "revision": None,
        "notes": [],
        "weights": {"model": UNKNOWN, "revision": None, "sha256": "", "file": ""},
        "detector": "unknown",
        "backend": "unknown",
        "mirror": False,
        "crops": False,
        "columns": [],
        "faceattr": "unknown",
        **facts,
    }
