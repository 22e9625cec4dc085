"""Measure what a face costs: networks, the whole way from JPEG to JSON, and start-up.

    python -m scripts.benchmark --photos PHOTOS --yunet MODEL.onnx

Everything is timed in turn, again and again, so that whatever else the machine does touches all
alike; medians are kept. PHOTOS holds group photos with labelled faces in `boxes.json`. Writes
docs/results/performance.json, and docs/performance.md from it (`--page-only`: only that).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
import torchvision
from torch.fx.experimental.optimization import fuse

import faceattr.crops as crops_module
import faceattr.pipeline as pipeline_module
from faceattr import labels
from faceattr.backends.export import export, to_onnx
from faceattr.backends.onnx import OnnxClassifier, session
from faceattr.backends.torch import TorchClassifier
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.detection import YUNET_ENV
from faceattr.hub import BUNDLED_NAMES, WeightsFiles, find_weights
from faceattr.images import Picture, decode_image, shrink
from faceattr.model import build_model, load_model
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from faceattr.search import USUAL_SIDE
from train.tables import markdown_table, read_json, rounded, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "results" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
FACES = (1, 32)
KINDS = ("eager", "torch", "onnx")
CHUNKS = (1, 4, 8, 16, 32)
OUTPUTS = sum(len(task.classes) for task in labels.TASKS)
PEERS = {
    "ResNet-34": torchvision.models.resnet34,
    "MobileNetV3-small": torchvision.models.mobilenet_v3_small,
    "MobileNetV3-large": torchvision.models.mobilenet_v3_large,
}
PEER_SIDE = 224
SIZES = {"640×480": (640, 480), "12 MP": (4000, 3000)}
LEAST_SECONDS = 0.03
"""A call that takes less is repeated within a round."""

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


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call; one round of all before the next of any."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            found[name].append(1000 * seconds(call))
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return {name: statistics.median(times) for name, times in found.items()}


def in_chunks(call: Callable[[Any], object], batch: Any, size: int) -> Call:
    """A call for each `size` entries of a batch."""
    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    return lambda: [call(part) for part in parts]


def best_chunk(call: Callable[[Any], object], batch: Any) -> Call:
    """The quickest way to cut up a batch, by two trials of each."""
    calls = {
        str(size): in_chunks(call, batch, size) for size in CHUNKS if size <= max(1, len(batch))
    }
    times = {name: min(seconds(made), seconds(made)) for name, made in calls.items()}
    return calls[min(times, key=times.__getitem__)]


def without_gradients(call: Callable[[Any], object]) -> Callable[[Any], object]:
    """The call in inference mode."""

    def wrapped(batch: Any) -> object:
        with torch.inference_mode():
            return call(batch)

    return wrapped


def own_calls(name: str, side: int, folder: Path) -> Iterator[tuple[str, Call]]:
    """One of our networks at a size: plain, and by the two backends as they are used."""
    model = load_model(name)
    files: WeightsFiles = find_weights(name, file=ONNX_NAME)
    if side != model.config.preprocessing.image_size:
        config = ModelConfig(name, preprocessing=Preprocessing(image_size=side))
        model = build_model(config).eval()
        model.save_pretrained(folder / f"{name}-{side}")
        export(folder / f"{name}-{side}")
        files = find_weights(folder / f"{name}-{side}", file=ONNX_NAME)
    backends = {"torch": TorchClassifier(model), "onnx": OnnxClassifier(files)}
    rng = np.random.default_rng(0)
    for count in FACES:
        pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        images = model.config.preprocessing.to_tensor(list(pixels))
        eager = without_gradients(model)
        yield f"{name}|{side}|eager|{count}", lambda f=eager, x=images: f(x)
        for kind, backend in backends.items():
            yield f"{name}|{side}|{kind}|{count}", lambda b=backend, x=pixels: b.probabilities(x)


def peer_calls(name: str, folder: Path) -> Iterator[tuple[str, Call]]:
    """Another network, given the same advantages: folding, layout, and its own best chunk."""
    torch.manual_seed(0)
    model = PEERS[name](num_classes=OUTPUTS).eval()
    fused = fuse(model).to(memory_format=torch.channels_last)
    example = torch.zeros(2, 3, PEER_SIDE, PEER_SIDE)
    path = folder / f"{name}.onnx"
    to_onnx(model, {"images": example}, ["logits"], path)
    runtime = session(path)
    for count in FACES:
        images = torch.randn(count, 3, PEER_SIDE, PEER_SIDE)
        arrays = images.numpy()
        key = f"{name}|{PEER_SIDE}"
        yield f"{key}|eager|{count}", in_chunks(without_gradients(model), images, count)
        last = images.to(memory_format=torch.channels_last)
        yield f"{key}|torch|{count}", best_chunk(without_gradients(fused), last)
        run = best_chunk(lambda x, r=runtime: r.run(None, {"images": x}), arrays)
        yield f"{key}|onnx|{count}", run


def network_times(rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """Milliseconds a call by network, input side, way of running it and number of faces."""
    calls: dict[str, Call] = {}
    for name in BUNDLED_NAMES:
        own = load_model(name).config.preprocessing.image_size
        for side in sorted({own, PEER_SIDE}):
            calls |= dict(own_calls(name, side, scratch))
    for name in PEERS:
        calls |= dict(peer_calls(name, scratch))
    rows = []
    for key, taken in interleaved(calls, rounds).items():
        name, side, kind, count = key.split("|")
        rows.append(
            {"network": name, "side": int(side), "kind": kind, "faces": int(count), "ms": taken}
        )
    return rows


def pictures(photos: Path, pipeline: FacePipeline) -> dict[str, dict[str, bytes]]:
    """JPEG bytes by subject and size: one face cut from a group photo, and a whole group."""
    boxes = json.loads((photos / "boxes.json").read_text(encoding="utf-8"))
    largest = max(boxes, key=lambda name: (len(boxes[name]), name))
    scenes = {"group": decode_image(photos / largest)}
    for name, faces in sorted(boxes.items()):
        image = decode_image(photos / name)
        for face in faces:
            cut = _around(image, face)
            if len(pipeline(cut)) == 1 and cut.shape[1] >= 160:
                scenes.setdefault("one face", cut)
    return {
        subject: {size: _jpeg(image, *wanted) for size, wanted in SIZES.items()}
        for subject, image in sorted(scenes.items(), reverse=True)
    }


def _around(image: np.ndarray, face: dict[str, int]) -> np.ndarray:
    """A 4:3 cut-out about three faces wide."""
    height = min(face["height"] * 2, image.shape[0])
    width = min(height * 4 // 3, image.shape[1])
    left = int(np.clip(face["left"] + face["width"] / 2 - width / 2, 0, image.shape[1] - width))
    top = int(np.clip(face["top"] + face["height"] / 2 - height / 2, 0, image.shape[0] - height))
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _jpeg(image: np.ndarray, width: int, height: int) -> bytes:
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    # Grain as a camera has it: smooth pictures decode too fast.
    grain = np.random.default_rng(0).normal(0, 4, resized.shape)
    noisy = np.clip(resized + grain, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


@contextmanager
def timed(owner: Any, name: str, stage: str, spent: dict[str, float]) -> Iterator[None]:
    """While open, a function of a module or object adds its time to a stage."""
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spent[stage] += time.perf_counter() - started

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)


def stages(pipeline: FacePipeline, data: bytes) -> dict[str, float]:
    """Milliseconds of each stage of one picture's way to JSON."""
    spent = dict.fromkeys(("decode", "detect", "align", "network", "format"), 0.0)
    with (
        timed(pipeline_module, "open_image", "decode", spent),
        timed(Picture, "decode", "decode", spent),
        timed(pipeline.detector, "detect", "detect", spent),
        timed(crops_module, "cut_face", "align", spent),
        timed(pipeline.classifier, "probabilities", "network", spent),
    ):
        started = time.perf_counter()
        faces = pipeline(data)
        done = time.perf_counter()
    text = json.dumps([face.to_dict() for face in faces])
    assert text
    whole = time.perf_counter() - started
    spent["format"] = time.perf_counter() - done
    return {name: 1000 * value for name, value in spent.items()} | {"all": 1000 * whole}


def parts_alone(pipeline: FacePipeline, data: bytes, yunet: Path) -> Call:
    """What cannot be done without: decoding the file, YuNet on its copy, the network once."""
    image = decode_image(data)
    height, width = image.shape[:2]
    scale = min(1.0, USUAL_SIDE / max(width, height))
    copy = shrink(image, round(width * scale), round(height * scale))
    size = (copy.shape[1], copy.shape[0])
    network = cv2.FaceDetectorYN.create(str(yunet), "", size, 0.7)
    side = pipeline.config.preprocessing.image_size
    chips = np.zeros((max(1, len(pipeline(data))), side, side, 3), np.uint8)

    def call() -> None:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        network.detect(copy)
        pipeline.classifier.probabilities(chips)

    return call


def whole_times(photos: Path, yunet: Path, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds by stage for each picture and backend, beside the unavoidable parts alone."""
    made = {kind: FacePipeline.from_pretrained(backend=kind) for kind in ("torch", "onnx")}
    cases = [
        (kind, subject, size, data)
        for subject, sizes in pictures(photos, made["onnx"]).items()
        for size, data in sizes.items()
        for kind in made
    ]
    alone = [parts_alone(made[kind], data, yunet) for kind, _, _, data in cases]
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    for _ in range(rounds + 1):
        for (kind, _, _, data), least, times in zip(cases, alone, found, strict=True):
            started = time.perf_counter()
            least()
            parts = 1000 * (time.perf_counter() - started)
            times.append(stages(made[kind], data) | {"parts": parts})
    rows = []
    for (kind, subject, size, data), times in zip(cases, found, strict=True):
        medians = {s: statistics.median(t[s] for t in times[1:]) for s in times[0]}
        facts = {"backend": kind, "subject": subject, "size": size, "bytes": len(data)}
        rows.append({**facts, "faces": len(made[kind](data)), "ms": medians})
    return rows


STARTS = {
    "import faceattr.labels": ["-c", "import faceattr.labels"],
    "python -m faceattr --version": ["-m", "faceattr", "--version"],
    "python -m faceattr PHOTO --backend onnx": ["-m", "faceattr", "PHOTO", "--backend", "onnx"],
    "python -m faceattr PHOTO --backend torch": ["-m", "faceattr", "PHOTO", "--backend", "torch"],
}
_RUN = """
import runpy, sys
kind, what, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(what, run_name="__main__") if kind == "-m" else exec(what)
except SystemExit:
    pass
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak[0]) / 1024, int("torch" in sys.modules), file=sys.stderr)
"""


def start_times(photo: Path, rounds: int) -> list[dict[str, Any]]:
    """Seconds and peak MiB of a fresh process."""
    found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        for name, arguments in STARTS.items():
            given = [str(photo) if a == "PHOTO" else a for a in arguments]
            started = time.perf_counter()
            subprocess.run([sys.executable, *given], cwd=ROOT, check=True, capture_output=True)
            taken = time.perf_counter() - started
            command = [sys.executable, "-c", _RUN, *given]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            peak, torch_loaded = done.stderr.split()[-2:]
            found[name].append((taken, float(peak), torch_loaded == "1"))
    return [
        {
            "command": name,
            "seconds": statistics.median(taken for taken, _, _ in times),
            "peak_mib": statistics.median(peak for _, peak, _ in times),
            "imports_torch": times[0][2],
        }
        for name, times in found.items()
    ]


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": cpus[0] if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
    }


class Found:
    """Looks up a result file's numbers."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def network(self, name: str, kind: str, faces: int, side: int | None = None) -> float:
        """Milliseconds a call; the smallest input side measured unless one is given."""
        rows = [
            row
            for row in self.result["networks"]
            if (row["network"], row["kind"], row["faces"]) == (name, kind, faces)
            and side in (None, row["side"])
        ]
        return float(min(rows, key=lambda row: row["side"])["ms"])

    def whole(self, backend: str, subject: str, size: str) -> dict[str, float]:
        """Milliseconds by stage."""
        wanted = (backend, subject, size)
        for row in self.result["whole"]:
            if (row["backend"], row["subject"], row["size"]) == wanted:
                return dict(row["ms"])
        raise KeyError(wanted)

    def start(self, command: str) -> dict[str, Any]:
        """Seconds and peak MiB."""
        return next(dict(r) for r in self.result["start"] if r["command"] == command)


def aims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, what was found, and whether it was met."""
    found = Found(result)
    ours, report = BUNDLED_NAMES
    one = found.whole("onnx", "one face", "640×480")
    big = found.whole("onnx", "one face", "12 MP")
    command = found.start("python -m faceattr PHOTO --backend onnx")
    slower = max(
        found.network(name, kind, 32) / 32 / found.network(name, kind, 1)
        for name in BUNDLED_NAMES
        for kind in ("torch", "onnx")
    )
    rows = [
        (
            f"ResNet-34 / {ours}, ONNX Runtime, one face",
            "at least 10",
            found.network("ResNet-34", "onnx", 1) / found.network(ours, "onnx", 1),
            10.0,
            None,
        ),
        (
            f"MobileNetV3-large / {ours}, ONNX Runtime, one face",
            "at least 1.5",
            found.network("MobileNetV3-large", "onnx", 1) / found.network(ours, "onnx", 1),
            1.5,
            None,
        ),
        ("Our networks, a face of 32 / a face alone, slowest", "at most 1", slower, None, 1.0),
        (
            f"{report}, 32 faces, PyTorch / ONNX Runtime",
            "at most 1.2",
            found.network(report, "torch", 32) / found.network(report, "onnx", 32),
            None,
            1.2,
        ),
        (
            "One face, 640×480: whole way / decode + YuNet + network alone",
            "at most 1.5",
            one["all"] / one["parts"],
            None,
            1.5,
        ),
        ("One face: 12 MP / 640×480", "below 4", big["all"] / one["all"], None, 4.0),
        ("One face, 12 MP, ms", "150", big["all"], None, 150.0),
        ("Command line, ONNX Runtime, seconds", "below 1.5", command["seconds"], None, 1.5),
        ("Command line, ONNX Runtime, MiB", "below 300", command["peak_mib"], None, 300.0),
        (
            "import faceattr.labels, seconds",
            "below 0.1",
            found.start("import faceattr.labels")["seconds"],
            None,
            0.1,
        ),
    ]
    return [
        {
            "what": what,
            "aim": aim,
            "found": value,
            "met": (low is None or value >= low) and (high is None or value <= high),
        }
        for what, aim, value, low, high in rows
    ]


def _network_table(result: dict[str, Any]) -> str:
    found = Found(result)
    rows = []
    seen = sorted({(r["network"], r["side"]) for r in result["networks"]})
    for name, side in sorted(seen, key=lambda s: found.network(s[0], "onnx", 1, s[1])):
        cells = [f"{found.network(name, k, f, side):.1f}" for f in FACES for k in KINDS]
        rows.append([f"{name}, {side} px", *cells])
    names = {"eager": "eager", "torch": "PyTorch", "onnx": "ONNX Runtime"}
    header = [f"{names[kind]}, {count}" for count in FACES for kind in KINDS]
    return markdown_table(["Network", *header], rows)


def _whole_table(result: dict[str, Any]) -> str:
    columns = ("decode", "detect", "align", "network", "format", "all", "parts")
    rows = [
        [
            f"{row['subject']}, {row['size']}, {row['backend']}",
            str(row["faces"]),
            *(f"{row['ms'][c]:.1f}" for c in columns),
        ]
        for row in result["whole"]
    ]
    return markdown_table(["Picture", "Faces", *columns], rows)


PAGE_TEXT = """# What a face costs

Written by `python -m scripts.benchmark` from [results/performance.json](results/performance.json);
no number here is typed by hand. Measured on: {cpu}, {threads} of {cores} cores, PyTorch {torch},
ONNX Runtime {onnxruntime}, OpenCV {opencv}, Python {python}; load of the machine before the run:
{load_before}. Everything was timed in turn, {rounds} rounds, medians.

## Aims

{aims}

## Networks

Milliseconds for 1 and for 32 faces. "eager": as written, all faces at once. "PyTorch" and "ONNX
Runtime": for our networks what `FacePipeline` runs, from pixels to probabilities, batch norms
folded, channels last, in the chunks that each backend does best with; for the others the bare
network, folded likewise, at whichever chunk was quickest. Ours are shown at the size they are used
at and at {peer_side} px.

{networks}

## From JPEG to JSON

Milliseconds by stage; "parts" is decoding, YuNet and the network alone, called on their own with
nothing around them. A large JPEG is decoded at a fraction of its size, which is why the whole can
cost less than its parts.

{whole}

## Start-up

{start}
"""


def page(result: dict[str, Any]) -> str:
    """The Markdown page of a result file."""
    aim_rows = [
        [row["what"], row["aim"], f"{row['found']:.2f}", "yes" if row["met"] else "**no**"]
        for row in aims(result)
    ]
    start_rows = [
        [
            f"`{row['command']}`",
            f"{row['seconds']:.2f}",
            f"{row['peak_mib']:.0f}",
            "yes" if row["imports_torch"] else "no",
        ]
        for row in result["start"]
    ]
    return PAGE_TEXT.format(
        **result["machine"],
        rounds=result["rounds"],
        peer_side=PEER_SIDE,
        aims=markdown_table(["", "Aim", "Found", "Met"], aim_rows),
        networks=_network_table(result),
        whole=_whole_table(result),
        start=markdown_table(["", "Seconds", "Peak MiB", "Imports PyTorch"], start_rows),
    )


def measure(photos: Path, yunet: Path, rounds: int) -> dict[str, Any]:
    """Everything that the page shows."""
    os.environ[YUNET_ENV] = str(yunet)
    facts = {"machine": machine(), "rounds": rounds}
    with tempfile.TemporaryDirectory() as scratch:
        networks = network_times(rounds, Path(scratch))
    whole = whole_times(photos, yunet, rounds)
    start = start_times(sorted(photos.glob("*.jpg"))[0], min(rounds, 5))
    return {**facts, "networks": networks, "whole": whole, "start": start}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder with photos and boxes.json")
    parser.add_argument("--yunet", type=Path, help="a YuNet model file")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="(%(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="(%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="write the page again")
    args = parser.parse_args(argv)
    if not args.page_only:
        if args.photos is None or args.yunet is None:
            parser.error("--photos and --yunet are needed to measure")
        write_json(args.output, rounded(measure(args.photos, args.yunet, args.rounds), 3))
    write_text(args.page, page(read_json(args.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
