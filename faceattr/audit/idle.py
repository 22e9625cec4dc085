"""Options of an audit that would change nothing: each is refused, with the reason."""

from __future__ import annotations

import os
from collections.abc import Collection as Several

from faceattr.arguments import refuse_idle
from faceattr.audit.places import is_remote, is_web
from faceattr.audit.sources import Collection, SourceOptions
from faceattr.audit.work import Settings
from faceattr.detection import MIN_FACE
from faceattr.errors import ArgumentError


def check_finding(settings: Settings) -> None:
    """Refuse options of finding faces where every image is one, or that the detector lacks.

    Raises:
        ArgumentError: naming the option.
    """
    if settings.detector == "haar" and settings.detect == "thorough":
        raise ArgumentError("--detect thorough: YuNet only; leave out --detector haar")
    if settings.crops:
        reason = "with --crops, where each image is one face; leave out one"
        refuse_idle(_finding(settings), reason)


def _finding(settings: Settings) -> dict[str, bool]:
    return {
        f"--detector {settings.detector}": settings.detector not in ("auto", "none"),
        "--detect thorough": settings.detect == "thorough",
        "--min-face": settings.min_face > MIN_FACE,
    }


def _of_data_sets(options: SourceOptions) -> dict[str, bool]:
    return {
        "--split": options.split is not None,
        "--config": options.config is not None,
        "--data-revision": options.revision is not None,
    }


def check_source(
    source: str | os.PathLike[str], collection: Collection, options: SourceOptions
) -> None:
    """Refuse options of reading that this kind of source does without.

    Args:
        source: as it was given.
        collection: what it was found to be.
        options: how it was to be read.

    Raises:
        ArgumentError: naming the option.
    """
    text, kind = os.fspath(source), collection.kind
    if kind != "data set":
        refuse_idle(_of_data_sets(options), f"with {_named(kind)}: only data sets have one")
    elif os.path.isdir(text):
        given = {"--data-revision": options.revision is not None}
        refuse_idle(given, "with a folder: only data sets on the Hub have one")
    if kind not in ("csv", "parquet", "data set"):
        given = {"--image-column": options.image_column is not None}
        refuse_idle(given, f"with {_named(kind)}: only tables and data sets have columns")
    if collection.root is None:
        given = {"--root": options.root is not None}
        refuse_idle(
            given, f"with {_named(kind)}: it stands before relative paths of a list or table"
        )
    if kind in ("folder", "files", "tar") and not (is_remote(text) and is_web(text)):
        refuse_idle({"--http": options.http}, f"with {_named(kind)}, which names no web address")


def _named(kind: str) -> str:
    return {
        "folder": "a folder of images",
        "files": "image files",
        "list": "a list of paths",
        "csv": "a table of text",
        "parquet": "a Parquet table",
        "tar": "archives",
    }.get(kind, f"a {kind}")


def check_earlier(
    settings: Settings,
    options: SourceOptions,
    *,
    used: Several[str | None],
    sample: int | None,
    engine: bool,
    restart: bool,
) -> None:
    """Refuse options of reading and classifying images where an earlier audit is the source.

    Args:
        settings: what rows would depend on; where the calibration table lies stays in use.
        options: how a source would be read.
        used: columns that the report is asked for.
        sample: images to draw.
        engine: whether the engine was chosen.
        restart: whether earlier work is thrown away.

    Raises:
        ArgumentError: naming the option.
    """
    given = {
        **_of_data_sets(options),
        "--image-column": options.image_column is not None,
        "--root": options.root is not None,
        "--http": options.http,
        "--crops": settings.crops,
        "--sample": sample is not None,
        "--keep": bool(set(settings.columns) - set(used)),
        **_finding(settings),
        f"--backend {settings.backend}": settings.backend != "auto",
        "--mirror": settings.mirror,
        "--engine or --workers": engine,
        "--restart": restart,
    }
    refuse_idle(
        given,
        "with an earlier audit, whose images are not read again; leave it out, or give the images "
        "as SOURCE",
    )
