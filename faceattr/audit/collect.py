"""A collection → its two tables, with either engine, from where an earlier run stopped."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from faceattr import __version__, arguments
from faceattr.audit.engine_local import Outcome, Part, run_local
from faceattr.audit.idle import check_source
from faceattr.audit.labelling import forget_crops
from faceattr.audit.places import Ref
from faceattr.audit.progress import Progress
from faceattr.audit.sources import (
    Collection,
    SourceOptions,
    open_collection,
    sampled,
)
from faceattr.audit.store import LIST_NAME, Store
from faceattr.audit.work import PART_SIZE, Settings
from faceattr.config import ONNX_NAME, WEIGHTS_NAME
from faceattr.errors import AuditError, WeightsError
from faceattr.hub import find_beside, find_weights

STDIN = "-"
"""Source that stands for a list of paths on standard input."""


@dataclass(frozen=True)
class Engine:
    """What runs the workers.

    Attributes:
        name: "local" or "ray".
        workers: processes or actors; None for one a core.
        ray_address: of a running cluster; None to start one on this machine.
    """

    name: str = "local"
    workers: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        """Refuse a number of workers that cannot be, and a cluster that nothing asks."""
        arguments.optional_whole_number("workers", self.workers, 1)
        if self.name != "ray":
            idle = {"--ray-address": self.ray_address is not None}
            arguments.refuse_idle(idle, "with the local engine; give --engine ray too")


@dataclass(frozen=True)
class Tables:
    """The tables of a collection and how they came about.

    Attributes:
        images: path of the table of images.
        faces: path of the table of faces.
        facts: JSON-ready: source, weights, versions, notes.
        rate: images a second of this run; None where nothing was left to do.
        peak_megabytes: largest memory of a worker in this run.
    """

    images: Path
    faces: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    peak_megabytes: float = 0.0


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def weights_facts(settings: Settings) -> dict[str, Any]:
    """Name, revision and digest of the weights that workers will load.

    Raises:
        WeightsError: when they cannot be had.
    """
    try:
        name = WEIGHTS_NAME if settings.backend == "torch" else ONNX_NAME
        files = find_weights(settings.model, revision=settings.revision, file=name)
    except WeightsError:
        files = find_weights(settings.model, revision=settings.revision, file=WEIGHTS_NAME)
    original = find_beside(files, WEIGHTS_NAME)
    return {
        "model": files.name,
        "revision": files.revision,
        "file": files.weights.name,
        "sha256": _digest(files.weights),
        "safetensors_sha256": None if original is None else _digest(original),
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def collect(
    source: str | os.PathLike[str],
    output: Path,
    settings: Settings,
    options: SourceOptions,
    *,
    sample: int | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    restart: bool = False,
    quiet: bool = False,
) -> Tables:
    """Classify every face of a collection.

    Args:
        source: see `open_collection`; "-" for paths on standard input.
        output: folder for the tables.
        settings: what rows depend on.
        options: how the source is read.
        sample: images to draw; None for all.
        seed: of the draw.
        engine: what runs the workers.
        restart: whether an earlier run's work is thrown away.
        quiet: whether no progress is shown.

    Raises:
        AuditError: for a source, an option or an output that cannot be used.
        WeightsError: when the weights cannot be had.
    """
    engine = engine or Engine()
    store = Store(output, settings.columns)
    with store.locked():
        if os.fspath(source) == STDIN:
            if restart or not (store.has_begun and (output / LIST_NAME).is_file()):
                store.write(LIST_NAME, _standard_input())
            source, options = spooled(output, options)
        weights = weights_facts(settings)
        said = _said(source, settings, options, sample, seed, weights)
        if not restart and store.is_complete(said):
            if not quiet:
                sys.stderr.write(f"{output} is complete; its tables are used as they are\n")
            return Tables(store.images, store.faces, store.facts)
        collection = open_collection(source, options)
        check_source(source, collection, options)
        if sample is not None:
            collection = sampled(collection, sample, seed)
        total = _total(collection)
        if restart:
            store.restart()
            forget_crops(output)
        store.begin(said)
        settings = replace(
            settings,
            root=collection.root,
            http=options.http,
            parquet=collection.parquet,
        )
        with Progress(total, quiet=quiet) as progress:
            outcome, parts = _run(collection, store, settings, engine, progress)
            rate = progress.rate
        facts = _facts(collection, weights, settings, outcome)
        store.finish(parts, facts)
        return Tables(store.images, store.faces, facts, rate, outcome.peak_megabytes)


def _run(
    collection: Collection,
    store: Store,
    settings: Settings,
    engine: Engine,
    progress: Progress,
) -> tuple[Outcome, int]:
    """Have all parts done that are not; their whole number beside it."""
    count = itertools.count()

    def missing() -> Iterator[Part]:
        first = 0
        for refs in _in_parts(collection.refs(), PART_SIZE):
            number = next(count)
            if store.has(number, refs):
                progress.kept(len(refs))
            else:
                yield Part(number, first, refs)
            first += len(refs)

    if engine.name == "local":
        outcome = run_local(
            settings, store.folder, missing(), engine.workers or cores(), progress.done
        )
    else:
        # Imported here: the local engine does without Ray.
        from faceattr.audit.engine_ray import run_ray

        outcome = run_ray(
            settings, store, missing(), engine.workers, progress.done, engine.ray_address
        )
    return outcome, next(count)


def _in_parts(refs: Iterator[Ref], size: int) -> Iterator[list[Ref]]:
    """Consecutive references, `size` at a time."""
    for first in refs:
        part = [first]
        for ref in refs:
            part.append(ref)
            if len(part) == size:
                break
        yield part


def _total(collection: Collection) -> int | None:
    """How many images there are, at least one; None where that needs reading everything."""
    total = collection.count()
    if total == 0 or (total is None and next(collection.refs(), None) is None):
        raise AuditError(f"{collection.name!r} holds no image")
    return total


def _standard_input() -> bytes:
    """The list of paths that comes on standard input."""
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise AuditError("standard input is empty; expected a path or an address a line")
    return content


def spooled(output: Path, options: SourceOptions) -> tuple[str, SourceOptions]:
    """The list that came on standard input, as a source."""
    return str(output / LIST_NAME), replace(options, root=options.root or ".")


def _said(
    source: str | os.PathLike[str],
    settings: Settings,
    options: SourceOptions,
    sample: int | None,
    seed: int,
    weights: Mapping[str, Any],
) -> dict[str, Any]:
    """What a second run has to say again to go on with the first one's parts."""
    values = asdict(settings) | asdict(options)
    for name in ("model", "revision", "parquet"):
        del values[name]
    return {
        "source": os.fspath(source),
        **values,
        "data_revision": options.revision,
        "sample": sample,
        "seed": seed if sample is not None else None,
        "weights": weights["sha256"],
        "part_size": PART_SIZE,
        "faceattr": __version__,
    }


def _facts(
    collection: Collection,
    weights: Mapping[str, Any],
    settings: Settings,
    outcome: Outcome,
) -> dict[str, Any]:
    info = outcome.info
    return {
        "source": collection.name,
        "kind": collection.kind,
        "revision": collection.revision,
        "notes": list(collection.notes),
        "weights": dict(weights),
        "detector": "none" if settings.crops else (info.detector if info else settings.detector),
        "backend": info.backend if info else settings.backend,
        "detect": settings.detect,
        "min_face": settings.min_face,
        "mirror": settings.mirror,
        "crops": settings.crops,
        "columns": list(settings.columns),
        "faceattr": __version__,
    }
