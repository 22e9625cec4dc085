"""Data sets of the Hub, or folders in its layout, through the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from faceattr.audit.folders import is_of_audit
from faceattr.audit.places import Inline, Ref, as_text
from faceattr.audit.sources import Collection, SourceOptions, parquet_collection
from faceattr.errors import AuditError


def open_data_set(path: str, options: SourceOptions) -> Collection:
    """A split of a data set.

    Parquet files are then read row by row where the network runs; other formats are streamed by
    `datasets` in this process.

    Raises:
        AuditError: when the data set cannot be had, or a split or column has to be named.
    """
    # Imported here: only data sets need it, and it takes two seconds.
    import datasets

    # Streams would sleep for that long whenever they end.
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    here = Path(path).is_dir()
    try:
        builder = datasets.load_dataset_builder(
            path, options.config, revision=None if here else options.revision
        )
        if not (files := _data_files(builder)) and here:
            # An audit's crops, which outnumber the tables, were taken for the data set.
            builder = datasets.load_dataset_builder("parquet", data_dir=path)
            files = _data_files(builder, ".parquet")
    # The library raises nearly any type for what it cannot find, read or reach.
    except Exception as error:
        raise AuditError(f"the data set {path!r} cannot be opened: {error}") from error
    split = _split(options.split, list(files) or list(builder.info.splits or ()), path)
    features = builder.info.features.to_dict() if builder.info.features else {}
    name = f"{Path(path).resolve().name if here else path}, split {split}"
    listed = files.get(split, [])
    if listed and all(file.endswith(".parquet") for file in listed):
        features = features or _stored_features(listed[0])
        return parquet_collection(name, "data set", listed, features, options, _commit(listed[0]))
    return _streamed(builder, split, name, options)


def _stored_features(file: str) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    from faceattr.audit.places import open_binary
    from faceattr.audit.tables import hub_features

    with open_binary(file) as stream:
        return hub_features(pq.read_schema(stream))


def _data_files(builder: Any, ending: str = "") -> dict[str, list[str]]:
    """Files with an ending by split, without those of an audit that lies in the folder."""
    found = builder.config.data_files
    files = {
        str(split): [
            file for file in map(str, listed) if file.endswith(ending) and not is_of_audit(file, "")
        ]
        for split, listed in (found.items() if isinstance(found, Mapping) else ())
    }
    return {split: listed for split, listed in files.items() if listed}


def _commit(file: str) -> str | None:
    found = re.search(r"@([0-9a-f]{40})/", file)
    return found.group(1) if found else None


def _split(wanted: str | None, known: list[str], path: str) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted in known:
        return wanted
    came = "none was given" if wanted is None else f"came {wanted!r}"
    raise AuditError(
        f"expected --split as one of {', '.join(map(repr, known))} of the data set {path!r}, {came}"
    )


def _streamed(builder: Any, split: str, name: str, options: SourceOptions) -> Collection:
    """Rows of a data set in another format than Parquet."""
    import datasets

    stream = builder.as_streaming_dataset(split=split)
    # Formats without a schema, such as JSON lines, say their columns in their first row only.
    features = stream.features or dict.fromkeys(next(iter(stream), {}))
    column = options.image_column or next(
        (key for key, kind in features.items() if isinstance(kind, datasets.Image)), None
    )
    missing = [key for key in options.columns if key not in features]
    if column is None or column not in features or missing:
        raise AuditError(
            f"expected a column of images{f' and {missing}' if missing else ''} in the data set "
            f"{name!r}; it has {', '.join(map(repr, features))}; give --image-column"
        )
    if isinstance(features[column], datasets.Image):
        stream = stream.cast_column(column, datasets.Image(decode=False))
    classes = {
        k: list(kind.names) for k, kind in features.items() if isinstance(kind, datasets.ClassLabel)
    }

    def refs() -> Iterator[Ref]:
        for number, row in enumerate(stream):
            value = row[column]
            found = value if isinstance(value, Mapping) else {"bytes": value}
            values = {key: _value(row[key], classes.get(key)) for key in options.columns}
            place = found["bytes"] if found.get("bytes") is not None else found.get("path")
            if not isinstance(place, str):
                place = Inline(place)
            yield Ref(f"#{number}", str(found.get("path") or ""), place, values)

    total = builder.info.splits[split].num_examples if builder.info.splits else None
    return Collection(name, "data set", refs, lambda: total)


def _value(value: Any, names: list[str] | None) -> str | None:
    if names is not None and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return as_text(value)
