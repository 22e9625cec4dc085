"""Results as text: pictures as `data:` URLs, faces as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceattr.audit.faces import face_values
from faceattr.audit.words import cell

if TYPE_CHECKING:
    from page.service import Found


def data_url(image: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """A `data:` URL of an RGB picture: PNG, or JPEG without colour subsampling."""
    buffer = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    return _url(buffer.getvalue(), "image/png" if lossless else "image/jpeg")


def text_url(text: str, kind: str) -> str:
    """A `data:` URL of text, e.g. of kind "text/csv"."""
    return _url(text.encode("utf-8"), f"{kind};charset=utf-8")


def _url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same columns as CSV with a header; empty without any."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def to_csv(found: Found) -> str:
    """One row a face, as the audit's table has it, with the probability of each answer."""
    rows = [
        face_values(number, face, *found.picture.size)
        | {f"{answer.task}_probability": answer.probability for answer in face.attributes}
        for number, face in enumerate(found.faces, start=1)
    ]
    return csv_text(rows)
