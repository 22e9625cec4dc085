#!/usr/bin/env python3
"""Many clients against one server: requests a second, latencies, errors, wrong answers, memory.

Every answer is compared with the one that the same photo got before the load began.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]


def multipart(content: bytes, field: str = "picture") -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form with one image."""
    edge = "x" * 24
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{field}"; filename="p"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={edge}"}


class Caller:
    """One client with one connection."""

    def __init__(self, url: str, way: str) -> None:
        parts = urlparse(url)
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
        self._way = way

    def call(self, photo: bytes) -> tuple[int, Any]:
        """HTTP status and answer; on a broken connection status 0."""
        try:
            return self._plain(photo) if self._way == "http" else self._gradio(photo)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            return 0, type(error).__name__

    def _send(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _plain(self, photo: bytes) -> tuple[int, Any]:
        status, text = self._send("POST", "/api/v1/predict", *multipart(photo))
        return status, json.loads(text)

    def _gradio(self, photo: bytes) -> tuple[int, Any]:
        address = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
        body = json.dumps({"data": [{"url": address}]})
        headers = {"Content-Type": "application/json"}
        status, text = self._send("POST", "/gradio_api/call/predict", body, headers)
        if status != 200:
            return status, json.loads(text)
        event = json.loads(text)["event_id"]
        status, text = self._send("GET", f"/gradio_api/call/predict/{event}", None, {})
        kind, _, data = text.decode().strip().split("\n\n")[-1].partition("\n")
        values = json.loads(data.removeprefix("data: "))
        if kind != "event: complete":
            return 503 if "busy" in str(values) else 500, values
        return status, values[0]


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
    url: str, way: str, photos: list[bytes], clients: int, requests: int | None, seconds: float
) -> dict[str, Any]:
    """Let the clients call until the requests, or the time, are used up."""
    caller = Caller(url, way)
    expected = []
    for photo in photos:
        status, answer = caller.call(photo)
        if status != 200:
            raise SystemExit(f"the server refused a photo before the load began: {answer}")
        expected.append(comparable(answer))
    tally, lock, left = Tally(), threading.Lock(), [requests if requests else 10**9]
    end = time.perf_counter() + (seconds if not requests else 10**9)

    def client(number: int) -> None:
        own = Caller(url, way)
        turn = number
        while time.perf_counter() < end:
            with lock:
                if left[0] <= 0:
                    return
                left[0] -= 1
            turn += 1
            start = time.perf_counter()
            status, answer = own.call(photos[turn % len(photos)])
            took = time.perf_counter() - start
            with lock:
                if status == 200:
                    tally.answered.append(took)
                    tally.wrong += comparable(answer) != expected[turn % len(photos)]
                elif status == 503:
                    tally.refused.append(took)
                else:
                    tally.errors[f"{status}: {str(answer)[:80]}"] += 1
            if status == 503:
                time.sleep(0.1)

    start = time.perf_counter()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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


def usage(process: psutil.Process | None) -> tuple[int, float] | None:
    """Resident bytes and CPU seconds so far."""
    if process is None:
        return None
    times = process.cpu_times()
    return process.memory_info().rss, times.user + times.system


def compared(
    before: tuple[int, float] | None, after: tuple[int, float] | None, answered: int
) -> dict[str, Any]:
    """Memory of the server before and after, and CPU time for an answer, refusals included.

    The CPU time says what an idle machine could do where other programs disturb the measurement.
    """
    if before is None or after is None:
        return {"memory_mb": None, "cpu_ms_per_answer": None}
    return {
        "memory_mb": {"before": before[0] >> 20, "after": after[0] >> 20},
        "cpu_ms_per_answer": round((after[1] - before[1]) * 1000 / max(1, answered), 1),
    }


@contextmanager
def own_server(checkout: Path = ROOT) -> Iterator[tuple[str, psutil.Process]]:
    """Start the app.py of a checkout on a free port and stop it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "app.py"], cwd=checkout, env=environment) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(3_000):
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with status {process.returncode}")
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()


def main() -> int:
    """Run the command line; 1 when an answer was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG files")
    parser.add_argument("--url", help="a running server; without it, app.py is started")
    parser.add_argument("--pid", type=int, help="process of --url, to measure its memory")
    parser.add_argument("--way", choices=("http", "gradio"), default="http")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, help="stop after so many (default: by time)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm-up", type=int, default=200, metavar="N", help="requests before")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    photos = [path.read_bytes() for path in args.photos]

    def measured(url: str, process: psutil.Process | None) -> dict[str, Any]:
        run(url, args.way, photos, args.clients, max(1, args.warm_up), 0)
        before = usage(process)
        result = run(url, args.way, photos, args.clients, args.requests, args.seconds)
        head = {"way": args.way, "clients": args.clients, "photos": len(photos)}
        return {**head, **result, **compared(before, usage(process), result["answered"])}

    if args.url:
        result = measured(args.url, psutil.Process(args.pid) if args.pid else None)
    else:
        with own_server() as (url, process):
            result = measured(url, process)
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 1 if result["wrong"] or result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
