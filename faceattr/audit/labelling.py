"""Labels by hand for some faces: a seeded sheet, a page to fill it in with, and reading it back."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from faceattr import labels
from faceattr.audit.labelled import Labelled, LabelSample
from faceattr.audit.places import Reader, ReadError, Ref
from faceattr.audit.words import cell
from faceattr.audit.work import Settings
from faceattr.errors import AuditError, FaceAttrError, LabelError, said_of
from faceattr.images import open_image

SHEET_NAME = "label-sheet.csv"
PAGE_NAME = "label-sheet.html"
CROPS_NAME = "label-crops"
SHEET_COLUMNS = ("row", "image", "id", "face", "inclusion", *(task.name for task in labels.TASKS))
_IDENTIFY = ("id", "face", "image")
_OTHER_FACES = (
    "the labels are of other faces than those of this audit: {}; give the sheet that "
    "--label-sample wrote for these tables, with its rows as they were"
)
UNCLEAR = "unclear"
"""What a labeller writes where a face cannot be judged; such rows are left out and counted."""


@dataclass(frozen=True, eq=False)
class Labels(Labelled):
    """Labels by hand as a sheet has them.

    Attributes:
        unclear: by task, how many faces nobody could judge; they are left out.
        faces: which face the sheet says that each row is, by column of the table of faces.
    """

    unclear: Mapping[str, int] = field(default_factory=dict)
    faces: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready counts."""
        told = {name: int((codes >= 0).sum()) for name, codes in self.true.items()}
        return {"rows": max(told.values()), "told": told, "unclear": dict(self.unclear)}


def write_sheet(
    faces: Path,
    sample: LabelSample,
    output: Path,
    refs: Callable[[], Iterator[Ref]],
    settings: Settings,
) -> Path:
    """Write the CSV and the page of crops.

    Args:
        faces: the table of faces.
        sample: which rows of it.
        output: the audit's folder.
        refs: the collection's images.
        settings: with which they were read.

    Returns:
        The page.

    Raises:
        AuditError: when the folder cannot be written.
    """
    table = pq.read_table(faces, columns=["image", "id", "face", "x", "y", "width", "height"])
    picked = table.take(sample.rows).to_pylist()
    entries = [
        {"row": int(row), "inclusion": float(share), **values, "id": cell(values["id"])}
        for row, share, values in zip(sample.rows, sample.inclusion, picked, strict=True)
    ]
    folder = output / CROPS_NAME
    try:
        _delete(folder)
        folder.mkdir()
        _write_crops(entries, folder, refs, settings)
        (output / SHEET_NAME).write_text(_csv(entries), encoding="utf-8")
        page = output / PAGE_NAME
        page.write_text(_page(entries, _digest(faces)), encoding="utf-8")
    except OSError as error:
        raise AuditError(
            f"the sheet of labels cannot be written: {error.strerror or error}"
        ) from error
    return page


def keep_labels(output: Path) -> None:
    """Refuse to write a sheet over one that is filled in: its labels cost hours.

    Raises:
        AuditError: where the sheet of a folder holds labels.
    """
    path = output / SHEET_NAME
    if not path.is_file():
        return
    try:
        rows, names = _rows(path)
        tasks = [task.name for task in labels.TASKS if task.name in names]
        is_empty = not any(row[name].strip() for row in rows for name in tasks)
    except (OSError, UnicodeDecodeError, csv.Error):
        is_empty = False
    if not is_empty:
        raise AuditError(
            f"{str(path)!r} may hold labels, which a new sheet would replace: leave --label-sample "
            "out to use them (--labels), or move the file away first"
        )


def _delete(folder: Path) -> None:
    """Delete a folder; nothing where there is none, an `OSError` where it stays."""
    if folder.is_symlink():
        raise OSError(f"{folder.name!r} is a link")
    if folder.exists():
        shutil.rmtree(folder)


def forget_crops(output: Path) -> int:
    """Delete the crops and the page that shows them; returns how many crops there were.

    The CSV, which holds no image, stays.

    Raises:
        AuditError: where something stays.
    """
    folder = output / CROPS_NAME
    count = len(list(folder.glob("*.jpg"))) if folder.is_dir() else 0
    try:
        _delete(folder)
        (output / PAGE_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise AuditError(
            f"the crops in {str(folder)!r} are not all deleted: {error.strerror or error}; delete "
            "them by hand"
        ) from error
    return count


def _write_crops(
    entries: Sequence[Mapping[str, Any]],
    folder: Path,
    refs: Callable[[], Iterator[Ref]],
    settings: Settings,
) -> None:
    """One JPEG a face: its box with a margin, as an annotator of FairFace saw faces."""
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_image.setdefault(entry["image"], []).append(entry)
    with Reader(root=settings.root, http=settings.http, parquet=settings.parquet) as reader:
        for number, ref in enumerate(refs()):
            wanted = by_image.pop(number, None)
            if wanted is None:
                continue
            image = _image(reader, ref)
            if image is None:
                continue
            for entry in wanted:
                _crop(image, entry, settings.crops).save(folder / f"{entry['row']}.jpg", quality=92)
            if not by_image:
                return


def _image(reader: Reader, ref: Ref) -> Image.Image | None:
    """An image that was read before; None where that is not possible any more."""
    try:
        content = reader.read(ref).content
        source = Path(content) if isinstance(content, str) else content
        return Image.fromarray(open_image(source).decode())
    except (ReadError, FaceAttrError):
        return None


def _crop(image: Image.Image, entry: Mapping[str, Any], whole: bool) -> Image.Image:
    if whole:
        found = image
    else:
        margin = 0.25 * max(entry["width"], entry["height"])
        x, y = entry["x"], entry["y"]
        box = (
            max(0, x - margin),
            max(0, y - margin),
            min(image.width, x + entry["width"] + margin),
            min(image.height, y + entry["height"] + margin),
        )
        found = image.crop(tuple(round(value) for value in box))
    found.thumbnail((448, 448))
    return found


def _csv(entries: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, SHEET_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        writer.writerow({**entry, **{task.name: "" for task in labels.TASKS}})
    return stream.getvalue()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while content := stream.read(1 << 20):
            digest.update(content)
    return digest.hexdigest()


def _page(entries: Sequence[Mapping[str, Any]], audit: str) -> str:
    """The page: the model's answers are not on it, they would sway the labeller.

    Args:
        entries: faces.
        audit: digest of the table that they are of; with them it is what a browser keeps the
            labels under, so that those of another sheet are not shown.
    """
    tasks = [
        {
            "name": task.name,
            "classes": [
                {"name": name, "shown": task.display_name(name)}
                for name in (*task.classes, UNCLEAR)
            ],
        }
        for task in labels.TASKS
    ]
    rows = [
        {key: entry[key] for key in ("row", "image", "id", "face", "inclusion")}
        for entry in entries
    ]
    key = hashlib.sha256(json.dumps([audit, rows]).encode("utf-8")).hexdigest()
    values = {"tasks": tasks, "rows": rows, "columns": SHEET_COLUMNS, "crops": CROPS_NAME}
    data = json.dumps({**values, "key": key})
    template = (files("faceattr.audit") / "templates" / "labels.html").read_text(encoding="utf-8")
    # An id may hold whatever a file name can; "</script>" must not end the script.
    return template.replace("__DATA__", base64.b64encode(data.encode("utf-8")).decode("ascii"))


def read_sheet(path: Path) -> Labels:
    """Read a sheet that was filled in.

    Raises:
        AuditError: for a file that is no sheet, or a name that is no class.
    """
    try:
        rows, names = _rows(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AuditError(f"the labels {str(path)!r} cannot be read: {said_of(error)}") from error
    if missing := [name for name in ("row", "inclusion") if name not in names]:
        raise AuditError(
            f"{str(path)!r} lacks the columns {missing}; expected a sheet that "
            "`faceattr audit --label-sample` wrote"
        )
    true: dict[str, NDArray[np.int64]] = {}
    unclear: dict[str, int] = {}
    for task in labels.TASKS:
        found = [row.get(task.name, "").strip() for row in rows]
        unclear[task.name] = sum(value.lower() == UNCLEAR for value in found)
        codes = [_class(task, value, line) for line, value in enumerate(found, start=2)]
        true[task.name] = np.array(codes, np.int64)
    kept = np.any([codes >= 0 for codes in true.values()], axis=0)
    if not kept.any():
        raise AuditError(f"{str(path)!r} holds no label yet; fill in its columns first")
    used = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]
    try:
        places = np.array([int(row["row"]) for row in used], np.int64)
        shares = [float(row["inclusion"].replace(",", ".")) for row in used]
        if places.min() < 0:
            raise ValueError(f"row {places.min()} cannot be")
    except (ValueError, OverflowError) as error:
        raise AuditError(
            f"{str(path)!r}: the columns 'row' and 'inclusion' hold numbers ({error}); give the "
            "sheet with its rows as they were"
        ) from error
    told = {name: codes[kept] for name, codes in true.items()}
    faces = {name: [row[name].strip() for row in used] for name in _IDENTIFY if name in names}
    return Labels(places, np.array(shares), told, unclear, faces)


def _rows(path: Path) -> tuple[list[dict[str, str]], Sequence[str]]:
    """Rows and columns of a sheet; what a row lacks is empty.

    Spreadsheets save with a mark of byte order, and where numbers have a decimal comma between
    semicolons.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        delimiter = max(",;\t", key=header.count)
        reader = csv.DictReader(stream, delimiter=delimiter, restval="")
        return list(reader), reader.fieldnames or []


def check_sheet(labelled: Labels, faces: Path) -> None:
    """Refuse labels of other faces than those of a table, as far as the sheet names them.

    Args:
        labelled: of `read_sheet`.
        faces: the table of faces.

    Raises:
        AuditError: naming the first row that differs.
    """
    known = pq.read_schema(faces).names
    columns = [name for name in labelled.faces if name in known]
    if not columns:
        return
    table = pq.read_table(faces, columns=columns)
    if labelled.rows.max() >= table.num_rows:
        raise AuditError(_OTHER_FACES.format(f"it has {table.num_rows:,} faces"))
    for name in columns:
        found = [str(value).strip() for value in table[name].take(labelled.rows).to_pylist()]
        for row, here, said in zip(labelled.rows, found, labelled.faces[name], strict=True):
            if said not in (here, cell(here)):
                raise AuditError(
                    _OTHER_FACES.format(f"row {row} has the {name} {here!r}, the sheet {said!r}")
                )


def _class(task: labels.Task, value: str, line: int) -> int:
    if not value or value.lower() == UNCLEAR:
        return -1
    try:
        return task.index(value)
    except LabelError as error:
        raise AuditError(f"line {line} of the labels: {error}") from error
