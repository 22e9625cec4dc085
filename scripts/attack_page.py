#!/usr/bin/env python3
"""Attack an own server on the loopback interface, and measure what others notice of it.

For each attack a fresh server: the longest wait of `/health`, memory above idle at its peak and
afterwards, and what became of another visitor's uploads meanwhile. With --each, then all attacks
in turn on one server while clients want right answers. Exit status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.load_test import Caller, own_server, written  # noqa: E402

HEALTH_S, PEAK_MB = 0.5, 500
"""The aims: longest wait of `/health`, and memory above idle."""
AFTER_S = 8.0
"""Seconds that are watched after an attack."""
HEAD_S = 40.0
"""Seconds that half-sent heads may stay open before the attack gives up."""
Attack = Callable[[str], dict[str, Any]]


class Post:
    """A request with a body that is made once, so that sending it costs an attacker little."""

    def __init__(self, path: str, **content: Any) -> None:
        request = httpx.Request("POST", "http://x", **content)
        self._path, self._body = path, request.read()
        self._headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}

    def send(self, url: str) -> str:
        """The status, or the type of the error."""
        connection = http.client.HTTPConnection(urlparse(url).netloc, timeout=120)
        try:
            connection.request("POST", self._path, self._body, self._headers)
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()


def sent(times: int, together: int, path: str, **content: Any) -> Attack:
    """Send one body so many times; how often each status came."""
    post = Post(path, **content)

    def attack(url: str) -> dict[str, Any]:
        with ThreadPoolExecutor(together) as pool:
            return dict(Counter(pool.map(lambda _: post.send(url), range(times))))

    return attack


def connected(url: str) -> socket.socket:
    """A connection to the server."""
    parts = urlparse(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)


def half_heads(count: int) -> Attack:
    """Open connections, send half a head on each and a letter now and then: when each is closed."""

    def attack(url: str) -> dict[str, Any]:
        start, closed = time.monotonic(), []
        with selectors.DefaultSelector() as waiting:
            for stream in [connected(url) for _ in range(count)]:
                stream.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                waiting.register(stream, selectors.EVENT_READ)
            while waiting.get_map() and time.monotonic() - start < HEAD_S:
                # What can be read is the end: 408, and the server closes.
                for key, _ in waiting.select(1.0):
                    closed.append(time.monotonic() - start)
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                for key in waiting.get_map().values():
                    with suppress(OSError):
                        key.fileobj.sendall(b"x")  # type: ignore[union-attr]
            left = [key.fileobj for key in waiting.get_map().values()]
        for stream in left:
            stream.close()  # type: ignore[union-attr]
        found: dict[str, Any] = {"closed": len(closed), f"open after {HEAD_S:g} s": len(left)}
        if closed:
            closed.sort()
            places = {"first": 0, "median": len(closed) // 2, "last": -1}
            found["closed_after_s"] = {name: round(closed[n], 2) for name, n in places.items()}
        return found

    return attack


def endless_head(url: str) -> dict[str, Any]:
    """One head of 200 MB."""
    with connected(url) as stream:
        try:
            stream.sendall(b"GET /health HTTP/1.1\r\n")
            for number in range(200):
                stream.sendall(b"X-%d: " % number + b"a" * 1_000_000 + b"\r\n")
        except OSError as error:
            return {type(error).__name__: 1}
    return {"taken": 1}


def nothing(_: str) -> dict[str, Any]:
    """No attack: what `/health` waits for on this machine anyway."""
    time.sleep(5)
    return {}


def attacks() -> dict[str, Attack]:
    """All of them by name."""
    call, batch = "/gradio_api/call/predict", "/gradio_api/call/predict_batch"
    upload = "/gradio_api/upload"
    short = {"data": [["data:image/png;base64,AAAA"] * 1_000]}
    commas, paths = ({"data": [[item] * 200_000]} for item in ("data:,", {"path": "x"}))
    wide = b'{"data": ["' + "\u00fc\U0001f642".encode() * 16_000_000 + b'"]}'
    nested = b'{"data": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    small, large = ([("files", bytes(size))] for size in (1_000, 14_500_000))
    return {
        "nothing, for comparison": nothing,
        "1,000 data: URLs in 30 kB": sent(5, 1, call, json=short),
        "200,000 empty data: URLs": sent(2, 1, call, json=commas),
        "200,000 paths in a batch": sent(2, 1, batch, json=paths),
        "12 strings of 100 MB, 4 together": sent(12, 4, call, json={"data": ["x" * 100_000_000]}),
        "8 strings of 96 MB beyond ASCII, 4 together": sent(8, 4, call, content=wide),
        "a million nested lists": sent(4, 1, call, content=nested),
        "300 half-sent heads": half_heads(300),
        "a head of 200 MB": endless_head,
        "60 uploads of 16 small files, never used": sent(60, 4, upload, files=small * 16),
        "12 uploads of 100 MB, 4 together": sent(12, 4, upload, files=large * 7),
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
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        while not self._end.wait(0.02):
            start = time.monotonic()
            try:
                with connected(self._url) as stream:
                    stream.sendall(head)
                    while stream.recv(9_000):
                        pass
            except OSError:
                pass
            self.waits.append(time.monotonic() - start)

    def _visitor(self) -> None:
        post = Post("/gradio_api/upload", files={"files": self._photo})
        while not self._end.wait(0.2):
            self.uploads[post.send(self._url)] += 1

    def found(self, left: int | None = None) -> dict[str, Any]:
        """What was seen; `left` are the resident bytes afterwards."""
        memory = {"peak": round((self.peak - self.idle) / 1e6)}
        if left is not None:
            memory[f"{AFTER_S:g} s after"] = round((left - self.idle) / 1e6)
        waits, count = sorted(self.waits), sum(self.uploads.values())
        return {
            "health_wait_s": {
                "median": round(waits[len(waits) // 2], 3),
                "longest": round(waits[-1], 3),
            },
            "memory_mb_above_idle": memory,
            "uploads_of_another": {"sent": count, "refused": count - self.uploads["200"]},
        }


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
    return {"answers": answers, "seconds": round(took, 2), **watch.found(left)}


def under_load(chosen: dict[str, Attack], args: argparse.Namespace) -> dict[str, Any]:
    """The attacks in turn while clients of `load_test.py` want right answers."""
    with own_server(args.checkout) as (url, process):
        command = [sys.executable, str(ROOT / "scripts" / "load_test.py"), *map(str, args.photos)]
        command += ["--url", url, "--pid", str(process.pid), "--clients", str(args.clients)]
        command += ["--requests", str(args.clients * args.each)]
        turns: Counter[str] = Counter()
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients,
            Watch(url, process, args.photos[0].read_bytes()) as watch,
        ):
            while clients.poll() is None:
                name = list(chosen)[sum(turns.values()) % len(chosen)]
                chosen[name](url)
                turns[name] += 1
                time.sleep(1)
            assert clients.stdout
            load = json.loads(clients.stdout.read())
    return {"attacks": dict(turns), **watch.found(), "load": load}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="JPEG files of one face")
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="folder of the app.py to attack"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="attacks with these words")
    parser.add_argument("--clients", type=int, default=16, help="for the load meanwhile")
    parser.add_argument("--each", type=int, default=0, help="requests a client; 0 for no load")
    parser.add_argument("--output", type=Path, help="write the result there as JSON")
    args = parser.parse_args()
    photo = args.photos[0].read_bytes()
    chosen = {name: attack for name, attack in attacks().items() if args.only in name}
    result: dict[str, Any] = {"aims": {"health_s": HEALTH_S, "peak_mb": PEAK_MB}, "attacks": {}}
    for name, attack in chosen.items():
        result["attacks"][name] = found = measured(args.checkout, attack, photo)
        print(name, json.dumps(found), file=sys.stderr, flush=True)
    result["load_of_the_machine"] = [round(load, 1) for load in psutil.getloadavg()]
    if args.each:
        result["under_load"] = under_load(chosen, args)
    written(result, args.output)
    held = all(
        found["health_wait_s"]["longest"] <= HEALTH_S
        and found["memory_mb_above_idle"]["peak"] <= PEAK_MB
        and not found["uploads_of_another"]["refused"]
        for found in result["attacks"].values()
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
