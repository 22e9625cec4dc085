"""Kill `faceattr audit` at random moments and compare its tables; time its workers.

python -m scripts.audit_torture SOURCE --images 20000 --engines local ray --output runs/audit
writes docs/results/audit_runs.json. SOURCE is FairFace in the Hub's layout, or any other source of
face crops with at least that many images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faceattr.audit.collect import Engine, collect, cores
from faceattr.audit.sources import SourceOptions, open_collection
from faceattr.audit.store import FACES_NAME, IMAGES_NAME
from faceattr.audit.work import BATCH, Settings
from faceattr.pipeline import FacePipeline

RESULT = Path("docs/results/audit_runs.json")
KILLS = 5


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of both tables."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (IMAGES_NAME, FACES_NAME)
    }


def command(args: argparse.Namespace, folder: Path, engine: str) -> list[str]:
    """The command line of one audit."""
    words = [sys.executable, "-m", "faceattr", "audit", args.source, "--crops"]
    words += ["--output", str(folder), "--engine", engine, "--workers", str(args.workers)]
    words += ["--sample", str(args.images), "--seed", "1", "--quiet"]
    for name in ("config", "split"):
        if getattr(args, name):
            words += [f"--{name}", getattr(args, name)]
    return words


def killed(args: argparse.Namespace, engine: str, whole: Path) -> dict[str, Any]:
    """Run an audit, kill its process `KILLS` times, let it finish, and compare."""
    folder = args.output / f"killed-{engine}"
    shutil.rmtree(folder, ignore_errors=True)
    dice = random.Random(7)
    parts = -(-args.images // 256)
    # Moments are numbers of parts done: times would depend on the machine.
    moments = sorted(dice.sample(range(1, parts), KILLS))
    found = []
    start = time.monotonic()
    for moment in moments:
        run = subprocess.Popen(command(args, folder, engine))
        while run.poll() is None and len(list(folder.glob("parts/0*"))) < moment:
            time.sleep(0.05)
        time.sleep(dice.random() * 2)
        if run.poll() is not None:
            raise SystemExit(f"the run ended before its kill at part {moment}")
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        found.append(len(list(folder.glob("parts/0*"))))
    subprocess.run(command(args, folder, engine), check=True)
    return {
        "engine": engine,
        "images": args.images,
        "kills_after_parts": found,
        "seconds": round(time.monotonic() - start, 1),
        "equal": digests(folder) == digests(whole),
    }


def undisturbed(args: argparse.Namespace, whole: Path) -> dict[str, Any]:
    """One run to its end; what it needs."""
    shutil.rmtree(whole, ignore_errors=True)
    start = time.monotonic()
    tables = _collect(args, whole, args.images, args.workers)
    return {
        "images": args.images,
        "workers": args.workers,
        "seconds": round(time.monotonic() - start, 1),
        "images_per_second": round(tables.rate or 0, 1),
        "peak_megabytes": round(tables.peak_megabytes, 1),
        "sha256": digests(whole),
    }


def _collect(args: argparse.Namespace, folder: Path, images: int, workers: int) -> Any:
    shutil.rmtree(folder, ignore_errors=True)
    options = SourceOptions(config=args.config, split=args.split)
    settings = Settings(crops=True)
    engine = Engine("local", workers)
    return collect(
        args.source, folder, settings, options, sample=images, seed=1, engine=engine, quiet=True
    )


def bare(args: argparse.Namespace, images: int) -> float:
    """CPU seconds of the pipeline alone, one thread, images already in memory."""
    collection = open_collection(args.source, SourceOptions(config=args.config, split=args.split))
    from faceattr.audit.places import Reader

    contents = []
    with Reader(root=collection.root, parquet=collection.parquet) as reader:
        for _, ref in zip(range(images), collection.refs(), strict=False):
            contents.append(reader.read(ref).content)
    pipeline = FacePipeline.from_pretrained(threads=1)
    pipeline.classify_crops(contents[:BATCH])
    start = time.process_time()
    for place in range(0, len(contents), BATCH):
        pipeline.classify_crops(contents[place : place + BATCH])
    return time.process_time() - start


def rates(args: argparse.Namespace) -> dict[str, Any]:
    """One worker, two workers and the bare pipeline, in turns; a few hundred images each."""
    few, rounds = args.few, []
    for _ in range(args.rounds):
        row: dict[str, float] = {"bare_cpu_s": bare(args, few)}
        for workers in (1, 2):
            before = os.times()
            tables = _collect(args, args.output / "rates", few, workers)
            after = os.times()
            row[f"images_per_second_{workers}"] = tables.rate or 0
            row[f"cpu_s_{workers}"] = after.children_user - before.children_user
            row[f"peak_megabytes_{workers}"] = tables.peak_megabytes
        rounds.append({name: round(value, 2) for name, value in row.items()})
    return {"images": few, "rounds": rounds}


def main() -> None:
    """Run the parts that were asked for, and merge them into the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--config")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--engines", nargs="*", default=["local", "ray"])
    parser.add_argument("--few", type=int, default=512, help="images of a timing")
    parser.add_argument("--rounds", type=int, default=0, help="of timings")
    parser.add_argument("--output", type=Path, default=Path("runs/audit"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    found["machine"] = {"processor": platform.machine(), "cores": cores(), "load": os.getloadavg()}
    whole = args.output / "whole"
    if args.engines:
        found["undisturbed"] = undisturbed(args, whole)
        _write(found)
    for engine in args.engines:
        found[f"killed_{engine}"] = killed(args, engine, whole)
        _write(found)
    if args.rounds:
        found["rates"] = rates(args)
        _write(found)


def _write(found: dict[str, Any]) -> None:
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
