"""Actors of a Ray cluster, through Ray Data; without an address, of a cluster on this machine.

A part goes out as one row and comes back as one row, its table's bytes; the driver keeps them. So
the tables are those of the local engine, resuming is too, and the nodes need no common disk but
for the images.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from faceattr.audit.engine_local import Outcome, Part
from faceattr.audit.places import Ref
from faceattr.audit.store import Store, digest_of
from faceattr.audit.work import SINGLE_THREAD, Settings, Worker
from faceattr.audit.worker import peak_megabytes
from faceattr.errors import AuditError, FaceAttrError, MissingPackageError, how_to_install

WINDOW = 4_096
"""Parts that are given to Ray together: what the driver holds, about a million references."""


class _Actor:
    """A worker within Ray: a column of pickled parts in, columns of answers out."""

    def __init__(self, settings: Settings) -> None:
        self._error: str | None = None
        try:
            self._worker = Worker(settings)
        except FaceAttrError as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        answers = [self._answer(content) for content in batch["part"]]
        return {"answer": answers}

    def _answer(self, content: bytes) -> bytes:
        number, first, refs = pickle.loads(content)
        if self._error is not None:
            return pickle.dumps(("failed", self._error, 0.0))
        try:
            table = self._worker.table(first, [Ref(*ref) for ref in refs])
        except FaceAttrError as error:
            return pickle.dumps(("failed", str(error), 0.0))
        part = (number, digest_of(refs), len(refs), table)
        return pickle.dumps((self._worker.pipeline.info, part, peak_megabytes()))


def run_ray(
    settings: Settings,
    store: Store,
    parts: Iterator[Part],
    workers: int | None,
    done: Callable[[int], None],
    address: str | None = None,
) -> Outcome:
    """Work through parts with the actors of a cluster; arguments and errors as `run_local`.

    Args:
        settings: see `Settings`.
        store: where parts go.
        parts: that are not done yet.
        workers: actors; None for one a CPU of the cluster.
        done: called with a number of images when they are done.
        address: of a running cluster.

    Raises:
        AuditError: what an actor says.
        MissingPackageError: without Ray.
    """
    outcome = Outcome()
    window = list(islice(parts, WINDOW))
    if not window:
        return outcome
    ray = _start(address)
    try:
        actors = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        while window:
            _work(ray, window, settings, store, actors, done, outcome)
            window = list(islice(parts, WINDOW))
    finally:
        ray.shutdown()
    return outcome


def _start(address: str | None) -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(
            f"the engine 'ray' needs Ray; run {how_to_install('ray')}"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    variables = dict(SINGLE_THREAD)
    if address is None:
        variables["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        ray.init(
            address or "local",
            runtime_env={"env_vars": variables},
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    # Ray raises plain exceptions, too, where it does not start in time.
    except Exception as error:
        raise AuditError(f"no Ray cluster could be reached or started: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _work(
    ray: Any,
    window: list[Part],
    settings: Settings,
    store: Store,
    actors: int,
    done: Callable[[int], None],
    outcome: Outcome,
) -> None:
    """Have one window of parts done."""
    rows = [{"part": pickle.dumps(tuple(part))} for part in window]
    actors = min(actors, len(rows))
    answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        fn_constructor_args=(settings,),
    )
    for row in answers.iter_rows():
        info, part, peak = pickle.loads(row["answer"])
        if info == "failed":
            raise AuditError(str(part))
        number, digest, images, table = part
        store.save(number, digest, table)
        outcome.info = info
        outcome.peak_megabytes = max(outcome.peak_megabytes, peak)
        done(images)
