#!/usr/bin/env python3
"""Would requests that arrive together go faster through the network as one batch?

Photos go through the whole pipeline from as many threads as the page has workers: once as the page
does it, each request alone, and once with their faces collected for --wait milliseconds and
answered together; and with more workers, and more threads inside ONNX Runtime. All ways take turns
within one run, so that other load on the machine meets all of them; compare their ratios:

    python -m scripts.measure_batching PHOTO... --output docs/results/batching.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.backends import onnx as onnx_backend
from faceattr.pipeline import FacePipeline

WAYS: dict[str, tuple[int, int, bool]] = {
    "2 workers, 2 threads": (2, 2, False),
    "2 workers, 2 threads, together": (2, 2, True),
    "2 workers, 1 thread": (2, 1, False),
    "2 workers, 1 thread, together": (2, 1, True),
    "1 worker, 2 threads": (1, 2, False),
    "4 workers, 1 thread": (4, 1, False),
    "4 workers, 1 thread, together": (4, 1, True),
    "8 workers, 2 threads, together": (8, 2, True),
}
"""Workers, threads inside ONNX Runtime, whether faces are collected; first the page on 2 cores."""


@dataclass(eq=False)
class _Call:
    pixels: NDArray[np.uint8]
    done: threading.Event = field(default_factory=threading.Event)
    values: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class Together:
    """A classifier that answers calls which come within `wait` seconds in one batch."""

    def __init__(self, classifier: Any, wait: float) -> None:
        self.config, self.name = classifier.config, classifier.name
        self._classifier = classifier
        self._wait = wait
        self._calls: list[_Call] = []
        self._lock = threading.Lock()

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """As `OnnxClassifier.probabilities`."""
        call = _Call(pixels)
        with self._lock:
            self._calls.append(call)
            first = len(self._calls) == 1
        if first:
            time.sleep(self._wait)
            with self._lock:
                calls, self._calls = self._calls, []
            values = self._classifier.probabilities(np.concatenate([c.pixels for c in calls]))
            start = 0
            for other in calls:
                stop = start + len(other.pixels)
                other.values = {name: rows[start:stop] for name, rows in values.items()}
                start = stop
                other.done.set()
        call.done.wait()
        return call.values


def make(threads: int, wait: float | None, detector: str) -> FacePipeline:
    """The page's pipeline with so many threads inside ONNX Runtime, collecting faces or not."""
    usual = onnx_backend._threads
    onnx_backend._threads = lambda: threads
    try:
        pipeline = FacePipeline.from_pretrained(detector=detector, backend="onnx")
    finally:
        onnx_backend._threads = usual
    if wait is not None:
        pipeline.classifier = Together(pipeline.classifier, wait)
    return pipeline


def timed(pipeline: FacePipeline, workers: int, photos: list[bytes]) -> tuple[float, float]:
    """Processor milliseconds a photo, and photos a second."""
    start, spent = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(pipeline, photos))
    taken, spent = time.perf_counter() - start, time.process_time() - spent
    return spent * 1000 / len(photos), len(photos) / taken


def measure(photos: list[bytes], rounds: int, wait: float, detector: str) -> dict[str, Any]:
    """Medians over the rounds; in each, every way takes its turn."""
    ways = {
        name: (make(threads, wait if together else None, detector), workers)
        for name, (workers, threads, together) in WAYS.items()
    }
    for pipeline, workers in ways.values():
        timed(pipeline, workers, photos[:workers])
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(rounds):
        # Each round begins elsewhere, so that no way always follows the same one.
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            found[name].append(timed(*ways[name], photos))
    first = found[next(iter(found))]
    return {
        name: {
            "cpu_ms": round(statistics.median(cpu for cpu, _ in values), 2),
            "cpu_ratio": _ratio([cpu for cpu, _ in values], [cpu for cpu, _ in first]),
            "speed_ratio": _ratio([rate for _, rate in values], [rate for _, rate in first]),
        }
        for name, values in found.items()
    }


def _ratio(values: list[float], base: list[float]) -> float:
    """Median over the rounds of the ratio within each."""
    return round(statistics.median(a / b for a, b in zip(values, base, strict=True)), 3)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG files, one face each at best")
    parser.add_argument("--requests", type=int, default=32, help="photos a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--wait", type=float, default=2.0, help="milliseconds")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    files = itertools.islice(itertools.cycle(args.photos), args.requests)
    photos = [path.read_bytes() for path in files]
    result = {
        "requests": args.requests,
        "rounds": args.rounds,
        "wait_ms": args.wait,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
        "ways": measure(photos, args.rounds, args.wait / 1000, args.detector),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
