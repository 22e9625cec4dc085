"""Parquet files as sources: which column holds images, and references to their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from faceattr.audit.places import Cell, Ref, shown_below


def hub_features(schema: pa.Schema) -> Mapping[str, Any]:
    """What the `datasets` library wrote of the columns; empty where it wrote nothing."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored)["info"]["features"] if stored else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, Mapping) else {}


IMAGE_COLUMNS = (
    "image",
    "img",
    "image_path",
    "image_url",
    "file_name",
    "filename",
    "file",
    "path",
    "filepath",
    "file_path",
    "url",
    "jpg",
    "jpeg",
    "png",
    "bytes",
    "content",
)
"""Names by which a column of images is known, in lower case, the likeliest first."""


def image_column_of(names: Sequence[str]) -> str | None:
    """The column whose name says that it holds images; None where none does."""
    by_name = {name.lower(): name for name in reversed(names)}
    return next((by_name[name] for name in IMAGE_COLUMNS if name in by_name), None)


def image_column(schema: pa.Schema, features: Mapping[str, Any]) -> str | None:
    """The column that holds images by its feature or its type; None where none does."""
    for name, feature in features.items():
        if isinstance(feature, Mapping) and feature.get("_type") == "Image":
            return name
    for item in schema:
        if pa.types.is_struct(item.type) and item.type.get_field_index("bytes") >= 0:
            return str(item.name)
    return None


def parquet_refs(files: Sequence[str], counts: Sequence[int]) -> Iterator[Ref]:
    """One reference a row; ids are the file's name, from where names differ, and the row."""
    folders = [os.path.dirname(file).replace(os.sep, "/") for file in files]
    base = os.path.commonprefix([f"{folder}/" for folder in folders]).rpartition("/")[0]
    for file, count in zip(files, counts, strict=True):
        shown = shown_below(base, file) if base else os.path.basename(file)
        for row in range(count):
            yield Ref(f"{shown}#{row}", "", Cell(file, row), {})
