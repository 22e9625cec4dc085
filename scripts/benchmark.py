"""Measure what a face costs: networks, an image's way from file to JSON, and start-up.

    python -m scripts.benchmark

Everything is timed in turn, again and again, so that whatever else the machine does touches all
alike. A run is added to those in
docs/results/performance.json, every round of it, and docs/performance.md is written from all of
them; none is left out. Delete the file to begin anew, as for other networks or another machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision

from faceattr import labels
from faceattr.backends import onnx as onnx_backend
from faceattr.backends import torch as torch_backend
from faceattr.backends.export import to_onnx
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.hub import BUNDLED_NAMES, find_weights
from faceattr.images import decode_image
from faceattr.model import build_model, load_model
from faceattr.pipeline import FacePipeline
from train.report.sections import render
from train.tables import markdown_table, read_json, rounded, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "results" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
BACKENDS = {"onnx": "ONNX Runtime", "torch": "PyTorch"}
CHUNKS = {"onnx": onnx_backend.CHUNK, "torch": torch_backend.CHUNK}
FACES = (1, 32)
TASKS = [task.name for task in labels.TASKS]
CLASSES = sum(len(task.classes) for task in labels.TASKS)
PEERS: dict[str, tuple[Callable[[], torch.nn.Module], list[str]]] = {
    name: (functools.partial(make, num_classes=CLASSES), ["logits"])
    for name, make in (
        ("ResNet-34", torchvision.models.resnet34),
        ("MobileNetV3-small", torchvision.models.mobilenet_v3_small),
        ("MobileNetV3-large", torchvision.models.mobilenet_v3_large),
    )
}
PEERS["LightweightMTLNet224"] = (lambda: build_model(ModelConfig("LightweightMTLNet224")), TASKS)
"""Networks at 224 px with random weights: what makes one, and the names of its outputs."""
PEER_SIDE = 224
EXAMPLES = ROOT / "page" / "view" / "static" / "examples"
PHOTOS = ("collins.jpg", "solvay1927-left.jpg")
WIDTHS = (640, 4000)
PARTS = {"whole": "whole way", "network": "of it the network"}
LEAST_SECONDS = 0.03
"""A call that takes less is repeated within a round."""
COMMANDS = {
    "import faceattr.labels": ["-c", "import faceattr.labels"],
    "faceattr --version": ["-m", "faceattr", "--version"],
    "faceattr PHOTO": ["-m", "faceattr", "PHOTO"],
    "faceattr PHOTO --backend torch": ["-m", "faceattr", "PHOTO", "--backend", "torch"],
}

Call = Callable[[], object]


def seconds(call: Call) -> float:
    """Mean time of a call, repeated until it can be measured."""
    repeats, started = 0, time.perf_counter()
    while True:
        call()
        repeats += 1
        taken = time.perf_counter() - started
        if taken >= LEAST_SECONDS:
            return taken / repeats


def interleaved(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round; one round of all before the next of any."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(1000 * seconds(call))
    return found


def in_chunks(call: Callable[[Any], object], batch: Any, size: int) -> Call:
    """A call for each `size` entries of a batch."""
    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    return lambda: [call(part) for part in parts]


def own_calls(name: str) -> Iterator[tuple[str, Call]]:
    """One of our networks as `FacePipeline` runs it, from pixels to probabilities."""
    model = load_model(name)
    files = find_weights(name, file=ONNX_NAME)
    side = model.config.preprocessing.image_size
    made = {
        "onnx": onnx_backend.OnnxClassifier(files),
        "torch": torch_backend.TorchClassifier(model),
    }
    rng = np.random.default_rng(0)
    for count in FACES:
        pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for kind, classifier in made.items():
            key = f"{name}, {side} px|{kind}|{count}"
            yield key, lambda c=classifier, x=pixels: c.probabilities(x)


def peer_calls(name: str) -> Iterator[tuple[str, Call]]:
    """Another bare network, given the same: folded batch norms, channels last, our chunks."""
    make, outputs = PEERS[name]
    model = torch_backend.fold_batch_norms(make())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX_NAME
        to_onnx(model, {"images": torch.zeros(2, 3, PEER_SIDE, PEER_SIDE)}, outputs, path)
        session = onnx_backend.session(path.read_bytes(), name)
    folded = torch.inference_mode()(model.to(memory_format=torch.channels_last).forward)
    for count in FACES:
        images = torch.randn(count, 3, PEER_SIDE, PEER_SIDE)
        last = images.to(memory_format=torch.channels_last)
        key = f"{name}, {PEER_SIDE} px"
        run = lambda x, s=session: s.run(None, {"images": x})  # noqa: E731
        yield f"{key}|onnx|{count}", in_chunks(run, images.numpy(), CHUNKS["onnx"])
        yield f"{key}|torch|{count}", in_chunks(folded, last, CHUNKS["torch"])


def parameters() -> dict[str, int]:
    """Parameters of each network as it is used here."""
    own = {name: load_model(name) for name in BUNDLED_NAMES}
    found = {f"{n}, {m.config.preprocessing.image_size} px": m for n, m in own.items()}
    found |= {f"{name}, {PEER_SIDE} px": make() for name, (make, _) in PEERS.items()}
    return {name: sum(p.numel() for p in m.parameters()) for name, m in found.items()}


def resized_jpeg(path: Path, width: int) -> bytes:
    """An image at another width, as a camera would write it."""
    image = decode_image(path)
    size = (width, round(width * image.shape[0] / image.shape[1]))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    # Grain as a camera has it: smooth images decode too fast.
    noisy = resized + np.random.default_rng(0).normal(0, 4, resized.shape)
    noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def image_calls() -> Iterator[tuple[str, Call]]:
    """An image's whole way to JSON, and the network's part on its own."""
    pipeline = FacePipeline.from_pretrained()
    for name, width in itertools.product(PHOTOS, WIDTHS):
        data = resized_jpeg(EXAMPLES / name, width)
        chips = pipeline.config.preprocessing.to_pixels([f.crop for f in pipeline(data)])
        key = f"{name}, {width} px wide, {len(chips)} face{'' if len(chips) == 1 else 's'}"
        yield f"{key}|network", lambda c=chips: pipeline.classifier.probabilities(c)
        yield f"{key}|whole", lambda d=data: json.dumps([f.to_dict() for f in pipeline(d)])


_WATCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
taken = time.perf_counter() - started
print(taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
"""Its own process, since a child's peak is never below that of what started it."""


def start_times(rounds: int) -> dict[str, Any]:
    """Seconds and peak MiB of fresh processes."""
    found: dict[str, Any] = {name: {"seconds": [], "peak_mib": []} for name in COMMANDS}
    for _ in range(rounds):
        for name, words in COMMANDS.items():
            command = [str(EXAMPLES / PHOTOS[0]) if word == "PHOTO" else word for word in words]
            watched = [sys.executable, "-c", _WATCH, sys.executable, *command]
            taken, peak = subprocess.check_output(watched, cwd=ROOT, text=True).split()
            found[name]["seconds"].append(float(taken))
            found[name]["peak_mib"].append(float(peak))
    return found


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpus = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": date.today().isoformat(),
        "cpu": cpus[0] if cpus else platform.processor(),
        "threads": onnx_backend.usable_cpus(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, "
        f"ONNX Runtime {onnx_backend.runtime().__version__}, OpenCV {cv2.__version__}",
    }


def measure(rounds: int) -> dict[str, Any]:
    """One run: every round of every measurement."""
    facts = machine() | {"rounds": rounds, "parameters": parameters()}
    networks = {key: call for name in BUNDLED_NAMES for key, call in own_calls(name)}
    networks |= {key: call for name in PEERS for key, call in peer_calls(name)}
    return facts | {
        "networks": interleaved(networks, rounds),
        "images": interleaved(dict(image_calls()), rounds),
        "start": start_times(rounds),
    }


def ratios(run: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """What was aimed at: a description, the aim, and what the medians of a run give."""

    def median(section: str, begins: str, ends: str) -> float:
        found = run[section]
        fitting = (key for key in found if key.startswith(begins) and key.endswith(f"|{ends}"))
        key = next(fitting, None)
        return statistics.median(found[key]) if key else math.nan

    def network(name: str, kind: str = "onnx", faces: int = 1) -> float:
        return median("networks", f"{name},", f"{kind}|{faces}")

    start = run["start"]
    pairs = itertools.product(BUNDLED_NAMES, BACKENDS)
    slower = max(network(*pair, 32) / 32 / network(*pair) for pair in pairs)
    resnet, mobile, small_one = map(network, ("ResNet-34", "MobileNetV3-large", "FaceAttrNet"))
    small, big = (median("images", f"{PHOTOS[0]}, {width} px", "whole") for width in WIDTHS)
    once = {name: statistics.median(values["seconds"]) for name, values in start.items()}
    peak = statistics.median(start["faceattr PHOTO"]["peak_mib"])
    return [
        ("ResNet-34 / FaceAttrNetLarge, one face", "≥ 5", resnet / network("FaceAttrNetLarge")),
        ("ResNet-34 / FaceAttrNet, one face", "≥ 12", resnet / small_one),
        ("MobileNetV3-large / FaceAttrNet, one face", "≥ 1.5", mobile / small_one),
        ("Our networks, a face of 32 / a face alone, slowest", "≤ 1", slower),
        (f"{PHOTOS[0]}: {WIDTHS[1]} px wide / {WIDTHS[0]}", "< 4", big / small),
        (f"{PHOTOS[0]}, {WIDTHS[1]} px wide, ms", "< 150", big),
        ("`faceattr PHOTO`, seconds", "< 1.5", once["faceattr PHOTO"]),
        ("`faceattr PHOTO`, MiB", "< 300", peak),
        ("`import faceattr.labels`, seconds", "< 0.1", once["import faceattr.labels"]),
    ]


def _middle(runs: Sequence[Mapping[str, Any]], *keys: str) -> tuple[float, list[float]]:
    """The median of all rounds of all runs, and those rounds."""
    found: list[float] = []
    for run in runs:
        values: Any = run
        for key in keys:
            values = values.get(key, {})
        found += values
    return (statistics.median(found) if found else math.nan), found


def _cell(runs: Sequence[Mapping[str, Any]], section: str, key: str) -> str:
    middle, times = _middle(runs, section, key)
    if not times:
        return "–"
    return f"{middle:.1f} ({min(times):.1f} to {max(times):.1f})"


def _runs_table(runs: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> str:
    facts = ("date", "cpu", "threads", "load_before", "rounds", "versions")
    rows = [[n, *(str(run[f]) for f in facts)] for n, run in zip(numbers, runs, strict=True)]
    return markdown_table(["", "Date", "CPU", "Threads", "Load before", "Rounds", "With"], rows)


def _aims_table(runs: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> str:
    lines = zip(*(ratios(run) for run in runs), strict=True)
    rows = [
        [*line[0][:2], *("–" if math.isnan(n) else f"{n:.2f}" for _, _, n in line)]
        for line in lines
    ]
    return markdown_table(["", "Aim", *numbers], rows)


def _network_table(runs: Sequence[Mapping[str, Any]]) -> str:
    columns = [(kind, count) for kind in BACKENDS for count in FACES]
    sizes = runs[-1]["parameters"]
    rows = [
        [n, f"{sizes[n]:,}", *(_cell(runs, "networks", f"{n}|{k}|{c}") for k, c in columns)]
        for n in sorted(sizes, key=lambda n: _middle(runs, "networks", f"{n}|onnx|1")[0])
    ]
    header = [f"{BACKENDS[kind]}, {count}" for kind, count in columns]
    return markdown_table(["Network", "Parameters", *header], rows)


def _image_table(runs: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(key.rpartition("|")[0] for run in runs for key in run["images"])
    rows = [[n, *(_cell(runs, "images", f"{n}|{part}") for part in PARTS)] for n in names]
    return markdown_table(["Image", *PARTS.values()], rows)


def _start_table(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for name in runs[-1]["start"]:
        taken = _middle(runs, "start", name, "seconds")[0]
        peak = _middle(runs, "start", name, "peak_mib")[0]
        rows.append([f"`{name}`", f"{taken:.2f}", f"{peak:.0f}"])
    return markdown_table(["", "Seconds", "Peak MiB"], rows)


def page(result: Mapping[str, Any]) -> str:
    """The Markdown page of a result file."""
    runs = result["runs"]
    numbers = [f"Run {number}" for number in range(1, len(runs) + 1)]
    return render(
        "performance.md",
        runs=_runs_table(runs, numbers),
        aims=_aims_table(runs, numbers),
        networks=_network_table(runs),
        images=_image_table(runs),
        start=_start_table(runs),
        peer_side=PEER_SIDE,
        chunks=" and ".join(f"{size} ({BACKENDS[kind]})" for kind, size in CHUNKS.items()),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="(%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="write the page again")
    args = parser.parse_args(argv)
    if not args.page_only:
        result = read_json(args.output) if args.output.exists() else {"runs": []}
        result["runs"].append(rounded(measure(args.rounds), 3))
        write_json(args.output, result)
    write_text(PAGE, page(read_json(args.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
