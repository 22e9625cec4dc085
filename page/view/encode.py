"""Results as text: pictures as `data:` URLs, faces as CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceattr import labels
from faceattr.results import FaceResult


def data_url(image: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """A `data:` URL of an RGB picture: PNG, or JPEG without colour subsampling."""
    buffer = io.BytesIO()
    if lossless:
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def text_url(text: str, kind: str) -> str:
    """A `data:` URL of text, e.g. of kind "text/csv"."""
    encoded = base64.b64encode(text.encode("utf-8")).decode()
    return f"data:{kind};charset=utf-8;base64,{encoded}"


def to_csv(faces: Sequence[FaceResult]) -> str:
    """One row a face: number, box, score, and for each task label, flag and all probabilities."""
    header = ["face", "x", "y", "width", "height", "score", "detector"]
    for task in labels.TASKS:
        header += [task.name, f"{task.name}_probability", f"{task.name}_unsure"]
        header += [f"{task.name}:{name}" for name in task.classes]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for number, face in enumerate(faces, start=1):
        values = face.to_dict()
        row = [number, *values["box"].values(), values["score"], values["detector"]]
        for task in labels.TASKS:
            answer = values[task.name]
            row += [answer["label"], answer["probability"], answer["unsure"]]
            row += [answer["probabilities"][name] for name in task.classes]
        writer.writerow(row)
    return stream.getvalue()
