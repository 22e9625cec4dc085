#!/usr/bin/env python3
"""Many clients against one server: requests a second, latencies, errors, wrong answers, memory.

Every answer is compared with the one that the same photo got before the load began.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 120.0


class Caller:
    """One client with one connection."""

    def __init__(self, url: str, way: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=PATIENCE_S, trust_env=False)
        self._call = self._plain if way == "http" else self._gradio

    def call(self, photo: bytes) -> tuple[int, Any]:
        """HTTP status and answer; on a broken connection status 0."""
        try:
            return self._call(photo)
        except (httpx.HTTPError, ValueError) as error:
            return 0, type(error).__name__

    def _plain(self, photo: bytes) -> tuple[int, Any]:
        answer = self._client.post("/api/v1/predict", files={"picture": photo})
        return answer.status_code, answer.json()

    def _gradio(self, photo: bytes) -> tuple[int, Any]:
        image = {"url": "data:image/jpeg;base64," + base64.b64encode(photo).decode()}
        answer = self._client.post("/gradio_api/call/predict", json={"data": [image]})
        if answer.status_code != 200:
            return answer.status_code, answer.json()
        event = answer.json()["event_id"]
        text = self._client.get(f"/gradio_api/call/predict/{event}").text
        kind, _, data = text.strip().split("\n\n")[-1].partition("\n")
        values = json.loads(data.removeprefix("data: "))
        if kind != "event: complete":
            return 503 if "busy" in str(values) else 500, values
        return 200, values[0]


@dataclass
class Tally:
    """What the clients saw; seconds."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0


def comparable(answer: Any) -> str:
    """An answer without what may differ from call to call."""
    return json.dumps({k: v for k, v in answer.items() if k != "timing_ms"}, sort_keys=True)


def run(
    url: str, way: str, photos: list[bytes], clients: int, requests: int, seconds: float
) -> dict[str, Any]:
    """Let the clients call until the requests, or without such the time, are used up."""
    caller, expected = Caller(url, way), []
    for photo in photos:
        status, answer = caller.call(photo)
        if status != 200:
            raise SystemExit(f"the server refused a photo before the load began: {answer}")
        expected.append(comparable(answer))
    start = time.perf_counter()
    until = start + (PATIENCE_S * requests or seconds)
    turns = iter(range(requests or sys.maxsize))
    tally, lock = Tally(), threading.Lock()

    def client(_: int) -> None:
        own = Caller(url, way)
        while time.perf_counter() < until:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            which, began = turn % len(photos), time.perf_counter()
            status, answer = own.call(photos[which])
            took = time.perf_counter() - began
            with lock:
                if status == 200:
                    tally.answered.append(took)
                    tally.wrong += comparable(answer) != expected[which]
                elif status == 503:
                    tally.refused.append(took)
                else:
                    tally.errors[f"{status}: {str(answer)[:80]}"] += 1
            if status == 503:
                time.sleep(0.1)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return summary(tally, time.perf_counter() - start)


def milliseconds(times: list[float]) -> dict[str, float] | None:
    """Percentiles in milliseconds."""
    if not times:
        return None
    values = np.percentile(np.array(times) * 1000, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "max"), np.round(values, 1).tolist(), strict=True))


def summary(tally: Tally, took: float) -> dict[str, Any]:
    """The result as JSON-ready values."""
    return {
        "seconds": round(took, 1),
        "answered": len(tally.answered),
        "requests_per_second": round(len(tally.answered) / took, 2),
        "latency_ms": milliseconds(tally.answered),
        "refused": len(tally.refused),
        "refusal_ms": milliseconds(tally.refused),
        "errors": dict(tally.errors),
        "wrong": tally.wrong,
    }


def usage(process: psutil.Process) -> tuple[int, float]:
    """Resident bytes and CPU seconds so far."""
    times = process.cpu_times()
    return process.memory_info().rss, times.user + times.system


@contextmanager
def own_server(checkout: Path = ROOT) -> Iterator[tuple[str, psutil.Process]]:
    """Start the app.py of a checkout on a free port and stop it afterwards."""
    environment = {**os.environ, "GRADIO_SERVER_PORT": "0"}
    command = [sys.executable, "app.py"]
    with subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            words = process.stdout.readline().split()
            if not words:
                raise SystemExit("the server did not start")
            yield words[-1], psutil.Process(process.pid)
        finally:
            process.terminate()


def measured(args: argparse.Namespace, url: str, process: psutil.Process | None) -> dict[str, Any]:
    """The result of one load, after a smaller one to warm up."""
    photos = [path.read_bytes() for path in args.photos]
    run(url, args.way, photos, args.clients, max(1, args.warm_up), 0)
    before = usage(process) if process else None
    result = run(url, args.way, photos, args.clients, args.requests, args.seconds)
    compared: dict[str, Any] = {"memory_mb": None, "cpu_ms_per_answer": None}
    if process and before:
        after = usage(process)
        # The CPU time, refusals included, says what an idle machine could do.
        compared = {
            "memory_mb": {"before": before[0] >> 20, "after": after[0] >> 20},
            "cpu_ms_per_answer": round(
                (after[1] - before[1]) * 1000 / max(1, result["answered"]), 1
            ),
        }
    head = {"way": args.way, "clients": args.clients, "photos": len(photos)}
    return {**head, **result, **compared}


def written(result: dict[str, Any], output: Path | None) -> None:
    """Print a result as JSON, and write it to a file if one is given."""
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Run the command line; 1 when an answer was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG files")
    parser.add_argument("--url", help="a running server; without it, app.py is started")
    parser.add_argument("--pid", type=int, help="process of --url, to measure its memory")
    parser.add_argument("--way", choices=("http", "gradio"), default="http")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=0, help="0: as many as --seconds allow")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=int, default=200, metavar="N", help="requests before")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    if args.url:
        result = measured(args, args.url, psutil.Process(args.pid) if args.pid else None)
    else:
        with own_server() as (url, process):
            result = measured(args, url, process)
    written(result, args.output)
    return 1 if result["wrong"] or result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
