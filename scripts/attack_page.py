#!/usr/bin/env python3
"""Attack an own server on the loopback interface, and measure what others notice of it.

For each attack a fresh server: the longest wait of `/health`, memory above idle at its peak and
afterwards, and what became of another visitor's uploads meanwhile. Exit status 1 when an aim is
missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.load_test import Caller, multipart, own_server  # noqa: E402

HEALTH_S, PEAK_MB = 0.5, 500
"""The aims: longest wait of `/health`, and memory above idle."""
AFTER_S = 8.0
"""Seconds that are watched after an attack."""
HEAD_S = 40.0
"""Seconds that half-sent heads may stay open before the attack gives up."""
Attack = Callable[[str], Counter[str]]


def send(url: str, path: str, body: bytes, kind: str = "application/json") -> str:
    """The status of one POST, or the type of the error."""
    parts = urlparse(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def calls(path: str, body: bytes, times: int, together: int = 1) -> Attack:
    """Send one body of JSON so many times."""

    def attack(url: str) -> Counter[str]:
        with ThreadPoolExecutor(together) as pool:
            return Counter(pool.map(lambda _: send(url, path, body), range(times)))

    return attack


def forms(files: int, size: int, times: int, together: int = 1) -> Attack:
    """Upload files that no request will use."""
    edge = "x" * 24
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="p"\r\n\r\n'
    body = (head.encode() + bytes(size) + b"\r\n") * files + f"--{edge}--\r\n".encode()
    kind = f"multipart/form-data; boundary={edge}"

    def attack(url: str) -> Counter[str]:
        with ThreadPoolExecutor(together) as pool:
            sent = pool.map(lambda _: send(url, "/gradio_api/upload", body, kind), range(times))
            return Counter(sent)

    return attack


def half_heads(count: int) -> Attack:
    """Open connections and send half a head on each; how many the server closes, and when."""

    def attack(url: str) -> Counter[str]:
        parts = urlparse(url)
        start = time.monotonic()
        opened = [
            socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(count)
        ]
        for connection in opened:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            connection.settimeout(0.02)
        open_ones, answers = opened, Counter[str]()
        while open_ones and time.monotonic() - start < HEAD_S:
            still = []
            for connection in open_ones:
                try:
                    connection.sendall(b"x")
                    connection.recv(100)
                except TimeoutError:
                    still.append(connection)
                    continue
                except OSError:
                    pass
                tens = 10 * (int(time.monotonic() - start) // 10 + 1)
                answers[f"closed within {tens} s"] += 1
            open_ones = still
        answers[f"open after {HEAD_S:g} s"] = len(open_ones)
        for connection in opened:
            connection.close()
        return +answers

    return attack


def endless_head(url: str) -> Counter[str]:
    """One head of 200 MB."""
    parts = urlparse(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as stream:
        try:
            stream.sendall(b"GET /health HTTP/1.1\r\n")
            for number in range(200):
                stream.sendall(b"X-%d: " % number + b"a" * 1_000_000 + b"\r\n")
        except OSError as error:
            return Counter([type(error).__name__])
    return Counter(["taken"])


def nothing(_: str) -> Counter[str]:
    """No attack: what `/health` waits for on this machine anyway."""
    time.sleep(5)
    return Counter()


def attacks() -> dict[str, Attack]:
    """All of them by name."""
    call, batch = "/gradio_api/call/predict", "/gradio_api/call/predict_batch"
    short = json.dumps({"data": [["data:image/png;base64,AAAA"] * 1_000]}).encode()
    commas = json.dumps({"data": [["data:,"] * 200_000]}).encode()
    paths = json.dumps({"data": [[{"path": "x"}] * 200_000]}).encode()
    long = json.dumps({"data": ["x" * 100_000_000]}).encode()
    wide = b'{"data": ["' + "\u00fc\U0001f642".encode() * 16_000_000 + b'"]}'
    nested = b'{"data": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    return {
        "nothing, for comparison": nothing,
        "1,000 data: URLs in 30 kB": calls(call, short, 5),
        "200,000 empty data: URLs": calls(call, commas, 2),
        "200,000 paths in a batch": calls(batch, paths, 2),
        "12 strings of 100 MB, 4 together": calls(call, long, 12, 4),
        "8 strings of 96 MB beyond ASCII, 4 together": calls(call, wide, 8, 4),
        "a million nested lists": calls(call, nested, 4),
        "300 half-sent heads": half_heads(300),
        "a head of 200 MB": endless_head,
        "60 uploads of 16 small files, never used": forms(16, 1_000, 60, 4),
        "12 uploads of 100 MB, 4 together": forms(7, 14_500_000, 12, 4),
    }


class Watch:
    """Samples memory, `/health` and another visitor's uploads until it is stopped."""

    def __init__(self, url: str, process: psutil.Process, photo: bytes) -> None:
        self._url, self._process, self._photo = url, process, photo
        self._end = threading.Event()
        self.idle = self.peak = process.memory_info().rss
        self.waits: list[float] = []
        self.uploads: Counter[str] = Counter()
        parts = (self._memory, self._health, self._visitor)
        self._threads = [threading.Thread(target=part) for part in parts]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._end.wait(0.01):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def _health(self) -> None:
        parts = urlparse(self._url)
        while not self._end.wait(0.02):
            start = time.monotonic()
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
            except OSError:
                pass
            finally:
                self.waits.append(time.monotonic() - start)
                connection.close()

    def _visitor(self) -> None:
        body, headers = multipart(self._photo, "files")
        while not self._end.wait(0.2):
            status = send(self._url, "/gradio_api/upload", body, headers["Content-Type"])
            self.uploads[status] += 1


def measured(checkout: Path, attack: Attack, photo: bytes) -> dict[str, Any]:
    """One attack on a server of its own."""
    with own_server(checkout) as (url, process):
        for way in ("http", "gradio"):
            status, answer = Caller(url, way).call(photo)
            if status != 200:
                raise SystemExit(f"the server refused a photo before the attack: {answer}")
        with Watch(url, process, photo) as watch:
            start = time.monotonic()
            answers = attack(url)
            took = time.monotonic() - start
            time.sleep(AFTER_S)
        left = process.memory_info().rss
    refused = sum(count for status, count in watch.uploads.items() if status != "200")
    return {
        "answers": dict(answers),
        "seconds": round(took, 2),
        "health_wait_s": {
            "median": round(sorted(watch.waits)[len(watch.waits) // 2], 3),
            "longest": round(max(watch.waits), 3),
        },
        "memory_mb_above_idle": {
            "peak": round((watch.peak - watch.idle) / 1e6),
            f"{AFTER_S:g} s after": round((left - watch.idle) / 1e6),
        },
        "uploads_of_another": {"sent": sum(watch.uploads.values()), "refused": refused},
    }


def under_load(checkout: Path, chosen: dict[str, Attack], args: argparse.Namespace) -> Any:
    """The attacks in turn while clients of `load_test.py` want right answers."""
    with own_server(checkout) as (url, process):
        command = [sys.executable, str(ROOT / "scripts" / "load_test.py"), *map(str, args.photos)]
        command += ["--url", url, "--pid", str(process.pid), "--clients", str(args.clients)]
        command += ["--requests", str(args.clients * args.each)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
            turns: Counter[str] = Counter()
            with Watch(url, process, args.photos[0].read_bytes()) as watch:
                while clients.poll() is None:
                    for name, attack in chosen.items():
                        attack(url)
                        time.sleep(1)
                        turns[name] += 1
                        if clients.poll() is not None:
                            break
            assert clients.stdout
            load = json.loads(clients.stdout.read())
    return {
        "attacks": dict(turns),
        "health_longest_s": round(max(watch.waits), 3),
        "uploads_of_another": dict(watch.uploads),
        "memory_mb_above_idle": round((watch.peak - watch.idle) / 1e6),
        "load": load,
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG files of one face")
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="folder of the app.py to attack"
    )
    parser.add_argument("--only", metavar="WORDS", help="attacks whose name has these words")
    parser.add_argument("--clients", type=int, default=16, help="for the load meanwhile")
    parser.add_argument("--each", type=int, default=0, help="requests a client; 0 for no load")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    photo = args.photos[0].read_bytes()
    chosen = {name: a for name, a in attacks().items() if (args.only or "") in name}
    result: dict[str, Any] = {"aims": {"health_s": HEALTH_S, "peak_mb": PEAK_MB}, "attacks": {}}
    for name, attack in chosen.items():
        result["attacks"][name] = found = measured(args.checkout, attack, photo)
        print(name, json.dumps(found), file=sys.stderr, flush=True)
        time.sleep(1)
    result["load_of_the_machine"] = [round(load, 1) for load in psutil.getloadavg()]
    if args.each:
        result["under_load"] = under_load(args.checkout, chosen, args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    held = all(
        found["health_wait_s"]["longest"] <= HEALTH_S
        and found["memory_mb_above_idle"]["peak"] <= PEAK_MB
        and not found["uploads_of_another"]["refused"]
        for found in result["attacks"].values()
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
