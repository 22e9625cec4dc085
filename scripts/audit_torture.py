"""Kill `faceattr audit` at random moments and compare its tables; time its workers.

python -m scripts.audit_torture SOURCE --images 20000 --engines local ray --rounds 3
adds to docs/results/audit_runs.json. SOURCE is FairFace in the Hub's layout, or any other source of
face crops with at least that many images. Each part (`--engines local`, `--engines ray`,
`--rounds 3`) may be a command of its own; an undisturbed run whose tables are still there is not
repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from faceattr.audit.collect import Engine, Tables, collect, cores
from faceattr.audit.places import Reader
from faceattr.audit.sources import SourceOptions, open_collection
from faceattr.audit.store import FACES_NAME, IMAGES_NAME
from faceattr.audit.work import BATCH, PART_SIZE, SINGLE_THREAD, Settings
from faceattr.images import ENDINGS
from faceattr.pipeline import FacePipeline

RESULT = Path("docs/results/audit_runs.json")
KILLS = 5
SMALL = 1_000
"""Images of the run whose memory the large run's is held against."""


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
    folder = args.scratch / f"killed-{engine}"
    shutil.rmtree(folder, ignore_errors=True)
    dice = random.Random(7)
    # Moments are numbers of parts done: times would depend on the machine.
    last = -(-args.images // PART_SIZE)
    moments = sorted(dice.choices(range(last), k=KILLS))
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
        print(f"{engine}: killed after {found[-1]} of {last} parts", flush=True)
    subprocess.run(command(args, folder, engine), check=True)
    return {
        "images": args.images,
        "workers": args.workers,
        "kills_after_parts": found,
        "seconds": round(time.monotonic() - start, 1),
        "equal": digests(folder) == digests(whole),
    }


def undisturbed(args: argparse.Namespace, whole: Path) -> dict[str, Any]:
    """A small and a large run to their ends; what they need."""
    options = SourceOptions(config=args.config, split=args.split)
    row: dict[str, Any] = {"images": args.images, "workers": args.workers}
    small = _collect(args.source, options, args.scratch / "small", args.workers, SMALL)
    row[f"peak_megabytes_at_{SMALL}"] = round(small.peak_megabytes, 1)
    start = time.monotonic()
    tables = _collect(args.source, options, whole, args.workers, args.images)
    return {
        **row,
        "peak_megabytes": round(tables.peak_megabytes, 1),
        "seconds": round(time.monotonic() - start, 1),
        "images_per_second": round(tables.rate or 0, 1),
        "sha256": digests(whole),
    }


def _collect(
    source: str, options: SourceOptions, folder: Path, workers: int, sample: int | None = None
) -> Tables:
    """One whole audit's tables, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    engine = Engine("local", workers)
    settings = Settings(crops=True)
    return collect(
        source, folder, settings, options, sample=sample, seed=1, engine=engine, quiet=True
    )


def first_images(args: argparse.Namespace) -> Path:
    """A Parquet file of the collection's first images: all timings read the same bytes."""
    collection = open_collection(args.source, SourceOptions(config=args.config, split=args.split))
    with Reader(root=collection.root, parquet=collection.parquet) as reader:
        contents = [reader.read(ref).content for ref in islice(collection.refs(), args.few)]
    path: Path = args.scratch / "few.parquet"
    pq.write_table(pa.table({"image": contents}), path, row_group_size=PART_SIZE)
    return path


def bare(path: str) -> tuple[float, float]:
    """Wall and CPU seconds of the pipeline alone, one thread, images already in memory."""
    contents = pq.read_table(path)["image"].to_pylist()
    warnings.simplefilter("ignore")
    pipeline = FacePipeline.from_pretrained(threads=1)
    pipeline.classify_crops(contents[:BATCH])
    wall, cpu = time.monotonic(), time.process_time()
    for place in range(0, len(contents), BATCH):
        pipeline.classify_crops(contents[place : place + BATCH])
    return time.monotonic() - wall, time.process_time() - cpu


def rates(args: argparse.Namespace) -> dict[str, Any]:
    """The bare pipeline and the audit, with one and with two processes, in turns.

    An audit's seconds hold everything: starting the workers and joining the tables, too.
    """
    path = first_images(args)
    rounds = []
    for _ in range(args.rounds):
        row: dict[str, float] = {}
        for workers in (1, 2):
            times = _bare_at_once(path, workers)
            row[f"bare_seconds_{workers}"] = max(wall for wall, _ in times)
            row[f"bare_cpu_seconds_{workers}"] = statistics.mean(cpu for _, cpu in times)
            before, start = os.times(), time.monotonic()
            _collect(str(path), SourceOptions(), args.scratch / "rates", workers)
            row[f"audit_seconds_{workers}"] = time.monotonic() - start
            after = os.times()
            row[f"audit_main_cpu_seconds_{workers}"] = _cpu(after, before, "")
            row[f"audit_workers_cpu_seconds_{workers}"] = _cpu(after, before, "children_")
        rounds.append({name: round(value, 2) for name, value in row.items()})
        print(json.dumps(rounds[-1]), flush=True)
    middle = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
    return {
        "images": args.few,
        "rounds": rounds,
        "bare_images_per_second": round(args.few / middle["bare_seconds_1"], 1),
        "audit_images_per_second_1": round(args.few / middle["audit_seconds_1"], 1),
        "audit_images_per_second_2": round(args.few / middle["audit_seconds_2"], 1),
        "share_of_bare_rate": round(middle["bare_seconds_1"] / middle["audit_seconds_1"], 3),
        "two_workers_faster_by": round(middle["audit_seconds_1"] / middle["audit_seconds_2"], 3),
        # What the machine itself allows: two bare pipelines have twice the work.
        "two_bare_faster_by": round(2 * middle["bare_seconds_1"] / middle["bare_seconds_2"], 3),
    }


def photographs(folder: Path, rounds: int) -> dict[str, Any]:
    """CPU time of one thread for whole photographs; medians over the images."""
    pipeline = FacePipeline.from_pretrained(threads=1)
    images = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in ENDINGS]
    sides, faces, spent = [], [], []
    for path in images:
        with Image.open(path) as image:
            sides.append(max(image.size))
        # The first look makes the detector ready for that size.
        faces.append(len(pipeline(path)))
        start = time.process_time()
        for _ in range(rounds):
            pipeline(path)
        spent.append((time.process_time() - start) / rounds * 1000)
    return {
        "images": len(images),
        "side": statistics.median(sides),
        "faces": statistics.median(faces),
        "cpu_milliseconds": round(statistics.median(spent), 1),
    }


def _bare_at_once(path: Path, processes: int) -> list[tuple[float, float]]:
    """`bare` in so many fresh processes at the same time."""
    os.environ.update(SINGLE_THREAD)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(bare, [str(path)] * processes, chunksize=1)


def _cpu(after: os.times_result, before: os.times_result, whose: str) -> float:
    names = (f"{whose}user", f"{whose}system")
    return sum(float(getattr(after, name) - getattr(before, name)) for name in names)


def results(args: argparse.Namespace, found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The parts that were asked for, each as soon as it is there."""
    whole = args.scratch / "whole"
    if args.engines:
        earlier = found.get("undisturbed", {})
        there = (whole / FACES_NAME).is_file() and earlier.get("sha256") == digests(whole)
        if not there or earlier["images"] != args.images:
            yield "undisturbed", undisturbed(args, whole)
    for engine in args.engines:
        yield f"killed_{engine}", killed(args, engine, whole)
    if args.rounds:
        yield "rates", rates(args)
    if args.photos:
        yield "photographs", photographs(args.photos, args.rounds or 3)


def main() -> None:
    """Run the parts that were asked for, and merge them into the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--config")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--engines", nargs="*", default=["local", "ray"])
    parser.add_argument("--few", type=int, default=2_048, help="images of a timing")
    parser.add_argument("--rounds", type=int, default=0, help="of timings")
    parser.add_argument("--photos", type=Path, help="folder of photographs that are timed")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file that is added to")
    parser.add_argument("--scratch", type=Path, default=Path("runs/audit"), help="for tables")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.output.read_text()) if args.output.is_file() else {}
    machine = {"processor": platform.machine(), "cores": cores(), "load": os.getloadavg()}
    for name, value in results(args, found):
        found[name] = value
        if name != "photographs":  # CPU time, whatever else the machine does
            found["machine"] = machine
        args.output.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({name: value}, indent=1), flush=True)


if __name__ == "__main__":
    main()
