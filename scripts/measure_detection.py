"""Measure what the detectors find: by size, by turn, without faces, and at what cost.

A labelled face counts as found by the box with the largest IoU with it, if that is at least 0.3
and the box has not found another face; every other box is false. The photos' folder holds a
boxes.json of {"file": [{"left", "top", "width", "height"}, ...]} in pixels. Chips are validation
rows of FairFace at margin 0.25; what was chosen was chosen on the holdout.

"before" is one look of YuNet at a copy with the longer side at 640 px. The cost of both is
measured in turns, each number a median over the photos.

The figures of where faces lie on chips are medians over the largest face found on each chip, as
fractions of its side. A bare chip ends at its edge: where faces lie in an image that goes on around
the chip, scripts/fit_alignment.py measures. Residuals are the mean distance of landmarks from their
template on the chip, before and after cutting it anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.alignment import CHIP_LANDMARKS, TIGHTER, align_face
from faceattr.detection import MIN_FACE, YUNET_ENV, YUNET_FILE, FaceDetector, load_detector
from faceattr.errors import DetectorError
from faceattr.images import decode_image
from faceattr.pipeline import FacePipeline
from faceattr.results import LANDMARKS, Detection, FaceBox
from faceattr.search import resized, turn_back, turn_image

Image = NDArray[np.uint8]
Find = Callable[[Image], list[Detection]]

MATCH_IOU = 0.3
CHIP_FACE = (0.110, 0.003, 0.787, 0.962)
"""Where YuNet finds the face on a chip: x, y, width, height; medians."""

CLOSE_SIDES = (224, 320, 640, 1200, 4000)
SMALL_FACES = (120, 97, 82, 67)
TURNS = (90, 180, 270)
PARTS = ("photos", "chips", "closeups", "small", "mosaics", "turned", "empty", "cost")


def one_look(side: int = 640) -> Find:
    """YuNet's faces of one copy: what was done before."""
    network = cv2.FaceDetectorYN.create(str(YUNET_FILE), "", (320, 320), 0.7, 0.3)

    def find(image: Image) -> list[Detection]:
        scale = min(1.0, side / max(image.shape[:2]))
        copy = resized(image, scale)
        network.setInputSize((copy.shape[1], copy.shape[0]))
        _, rows = network.detect(np.ascontiguousarray(copy[:, :, ::-1]))
        rows = np.empty((0, 15)) if rows is None else rows / scale
        faces = [Detection(FaceBox(*row[:4].tolist()), 1.0, None, "yunet") for row in rows]
        return [face for face in faces if face.box.width >= MIN_FACE]

    return find


def search(detector: FaceDetector, *, thorough: bool = False) -> Find:
    """A detector's faces of an image, without the tiny ones."""
    options = {"thorough": True} if thorough else {}

    def find(image: Image) -> list[Detection]:
        return [f for f in detector.detect(image, **options) if f.box.width >= MIN_FACE]

    return find


def count_matches(faces: Sequence[Detection], truth: Sequence[FaceBox]) -> tuple[int, int]:
    """Faces found and false boxes; pairs are matched greedily, best IoU first."""
    pairs = sorted(
        ((face.box.iou(box), i, j) for i, face in enumerate(faces) for j, box in enumerate(truth)),
        reverse=True,
    )
    used_faces: set[int] = set()
    used_truth: set[int] = set()
    for iou, i, j in pairs:
        if iou >= MATCH_IOU and i not in used_faces and j not in used_truth:
            used_faces.add(i)
            used_truth.add(j)
    return len(used_truth), len(faces) - len(used_faces)


def read_photos(folder: Path) -> Iterator[tuple[str, Image, list[FaceBox]]]:
    """Name, image and labelled faces of each photo of a folder with boxes.json."""
    for file, boxes in json.loads((folder / "boxes.json").read_text()).items():
        truth = [FaceBox(b["left"], b["top"], b["width"], b["height"]) for b in boxes]
        yield file, decode_image(folder / file), truth


def measure_photos(find: Find, folder: Path, turn: int = 0) -> dict[str, Any]:
    """Found and false for each photo, when it has to be turned by `turn` to be upright."""
    rows = {}
    for file, image, truth in read_photos(folder):
        height, width = image.shape[:2]
        wrong = (360 - turn) % 360
        faces = [turn_back(face, wrong, width, height) for face in find(turn_image(image, wrong))]
        found, false = count_matches(faces, truth)
        rows[file] = {"labelled": len(truth), "found": found, "false": false}
    total = {k: sum(row[k] for row in rows.values()) for k in ("labelled", "found", "false")}
    return {"total": total, "images": rows}


def read_chips(dataset: Path, rows: int) -> Iterator[Image]:
    """The first validation chips of margin 0.25, in the Hub data set's layout."""
    import pyarrow.parquet as pq

    shards = sorted((dataset / "0.25").glob("validation-*.parquet"))
    if not shards:
        raise SystemExit(f"no 0.25/validation-*.parquet in {dataset}; expected FairFace's layout")

    def every() -> Iterator[Image]:
        for shard in shards:
            for batch in pq.ParquetFile(shard).iter_batches(100, columns=["image"]):
                for image in batch.column("image").to_pylist():
                    yield decode_image(image["bytes"])

    return islice(every(), rows)


def measure_chips(detector: FaceDetector, dataset: Path, rows: int) -> dict[str, Any]:
    """Where a detector finds the face on chips, and how well aligned crops agree."""
    boxes, points, residuals = [], [], []
    for chip in read_chips(dataset, rows):
        faces = detector.detect(chip)
        if not faces:
            continue
        side = chip.shape[0]
        box = faces[0].box
        boxes.append(np.array([box.x, box.y, box.width, box.height]) / side)
        if faces[0].landmarks is None:
            continue
        points.append(np.array(faces[0].landmarks) / side)
        again = detector.detect(align_face(chip, faces[0]))
        if again and again[0].landmarks is not None:
            moved = (np.array(again[0].landmarks) / side - 0.5) / TIGHTER + 0.5
            residuals.append(np.linalg.norm(moved - np.array(CHIP_LANDMARKS), axis=1).mean())
    result: dict[str, Any] = {
        "chips": rows,
        "found": len(boxes),
        "box": np.median(boxes, axis=0).round(3).tolist(),
    }
    if points:
        middle = np.median(points, axis=0).round(3).tolist()
        apart = np.linalg.norm(np.array(points) - np.array(CHIP_LANDMARKS), axis=2).mean(axis=1)
        result["landmarks"] = dict(zip(LANDMARKS, middle, strict=True))
        result["residual_before"] = round(float(np.median(apart)), 4)
        result["residual_after"] = round(float(np.median(residuals)), 4)
    return result


def sized(chip: Image, side: int) -> Image:
    """A square image at another size."""
    interpolation = cv2.INTER_AREA if side < chip.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(chip, (side, side), interpolation=interpolation), np.uint8)


def measure_closeups(find: Find, chips: Sequence[Image]) -> dict[str, dict[str, int]]:
    """Of whole chips and their centres, how many show a face, by the image's side in pixels."""
    table: dict[str, dict[str, int]] = {}
    for part in (100, 80, 70):
        inner = round(224 * part / 100)
        edge = (224 - inner) // 2
        cut = [chip[edge : edge + inner, edge : edge + inner] for chip in chips]
        table[f"{part} %"] = {
            str(side): sum(bool(find(sized(chip, side))) for chip in cut) for side in CLOSE_SIDES
        }
    return table


def scene(
    chips: Sequence[Image], width: int, height: int, columns: int, side: int, rng: Any
) -> tuple[Image, list[FaceBox]]:
    """Chips scattered over a grey image, one in each cell of a grid, and where their faces are."""
    rows = -(-len(chips) // columns)
    image = np.full((height, width, 3), 128, np.uint8)
    faces = []
    for k, chip in enumerate(chips):
        cell = (width / columns, height / rows)
        x, y = (
            round(i * size + rng.uniform(0, size - side))
            for i, size in zip((k % columns, k // columns), cell, strict=True)
        )
        image[y : y + side, x : x + side] = sized(chip, side)
        left, top, across, down = (side * n for n in CHIP_FACE)
        faces.append(FaceBox(x + left, y + top, across, down))
    return image, faces


def measure_small(finds: dict[str, Find], chips: Sequence[Image]) -> dict[str, Any]:
    """Faces of 4,000×3,000 by the width of their face in pixels, and of a panorama."""
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {}
    for face in (*SMALL_FACES, "panorama"):
        if face == "panorama":
            image, truth = scene(chips[:20], 9000, 1500, 20, round(150 / CHIP_FACE[2]), rng)
        else:
            image, truth = scene(chips[:100], 4000, 3000, 10, round(face / CHIP_FACE[2]), rng)
        for name, find in finds.items():
            found, false = count_matches(find(image), truth)
            table.setdefault(str(face), {})[name] = {"found": found, "false": false}
    return table


def measure_mosaics(finds: dict[str, Find], chips: Sequence[Image]) -> dict[str, Any]:
    """Chips side by side without a gap: found, and boxes beyond one a chip."""
    table: dict[str, Any] = {}
    for across, side in ((10, 64), (10, 224), (15, 64), (15, 224), (20, 64), (20, 224)):
        rows = [chips[(across * r + c) % len(chips)] for r in range(across) for c in range(across)]
        lines = [
            np.hstack([sized(chip, side) for chip in rows[k : k + across]])
            for k in range(0, across**2, across)
        ]
        image, left = np.vstack(lines), CHIP_FACE
        truth = [
            FaceBox((c + left[0]) * side, (r + left[1]) * side, left[2] * side, left[3] * side)
            for r in range(across)
            for c in range(across)
        ]
        for name, find in finds.items():
            found, false = count_matches(find(image), truth)
            key = f"{across**2} of {side} px"
            table.setdefault(key, {})[name] = {"found": found, "twice_or_false": false}
    return table


def empty_crops(folder: Path, count: int) -> Iterator[Image]:
    """Squares of the photos that touch no labelled face, at 224 px."""
    rng = np.random.default_rng(1)
    photos = list(read_photos(folder))
    while count:
        _, image, faces = photos[rng.integers(len(photos))]
        side = int(rng.integers(60, 200))
        y, x = (int(rng.integers(0, n - side)) for n in image.shape[:2])
        # Labels end at the chin and the brow: half a face more on every side is hair and neck.
        wide = [
            FaceBox(f.x - f.width / 2, f.y - f.height / 2, 2 * f.width, 2 * f.height) for f in faces
        ]
        if not any(FaceBox(x, y, side, side).shared(face) for face in wide):
            count -= 1
            yield sized(np.ascontiguousarray(image[y : y + side, x : x + side]), 224)


def measure_turned(pipeline: FacePipeline, chips: Sequence[Image]) -> dict[str, Any]:
    """Chips on a grey canvas: found, turn told rightly, gender other than upright, by turn."""

    def answers(turn: int) -> list[Any]:
        pages = (
            np.pad(chip, ((112, 112), (112, 112), (0, 0)), constant_values=128) for chip in chips
        )
        turned = (turn_image(page, (360 - turn) % 360) for page in pages)
        return [max(f, key=lambda r: r.box.area) if f else None for f in map(pipeline, turned)]

    upright = answers(0)
    table: dict[str, Any] = {"0": {"found": sum(face is not None for face in upright)}}
    for turn in TURNS:
        faces = answers(turn)
        pairs = [(a, b) for a, b in zip(upright, faces, strict=True) if a and b]
        changed = [b for a, b in pairs if a.gender.label != b.gender.label]
        table[str(turn)] = {
            "chips": len(chips),
            "found": sum(face is not None for face in faces),
            "turn_right": sum(face is not None and face.turn == turn for face in faces),
            "gender_changed": len(changed),
            "gender_changed_and_sure": sum(not face.gender.unsure for face in changed),
        }
    return table


def measure_cost(
    finds: dict[str, Find], photos: Sequence[Image], rounds: int
) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each way of looking at photos by their size, in turns; medians.

    Other processes on the machine do not count, as they do with the clock's. Each photo is brought
    to each size; the ratio is the median over photos and rounds.
    """
    table: dict[str, dict[str, float]] = {}
    for width, height in ((320, 240), (640, 480), (1280, 960), (4000, 3000)):
        spent: dict[str, list[float]] = {name: [] for name in finds}
        for photo in list(photos) * rounds:
            image = np.asarray(cv2.resize(photo, (width, height)), np.uint8)
            for name, find in finds.items():
                started = time.process_time()
                find(image)
                spent[name].append(1000 * (time.process_time() - started))
        row = {name: statistics.median(ms) for name, ms in spent.items()}
        for name in ("fast", "thorough"):
            ratios = [a / b for a, b in zip(spent[name], spent["before"], strict=True)]
            row[f"{name}_by_before"] = statistics.median(ratios)
        table[f"{width}x{height}"] = {name: round(value, 2) for name, value in row.items()}
    return table


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="labelled photos")
    parser.add_argument("--chips", type=Path, metavar="DATASET_DIR", help="FairFace, Hub layout")
    parser.add_argument("--rows", type=int, default=1000, help="chips to read (default: 1000)")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument(
        "--rounds", type=int, default=1, help="times each photo is timed (default: 1)"
    )
    parser.add_argument(
        "--detector",
        action="append",
        choices=["yunet", "haar"],
        help="of photos and chips; may be repeated (default: both); another file of YuNet's may be "
        f"named in {YUNET_ENV}",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.photos is None and arguments.chips is None:
        parser.error("nothing to measure: give --photos, --chips or both")
    return arguments


def by_detector(arguments: argparse.Namespace, parts: Sequence[str]) -> dict[str, Any]:
    """Photos in every turn, and where faces lie on chips."""
    report: dict[str, Any] = {}
    for kind in arguments.detector or ["yunet", "haar"]:
        detector = load_detector(kind)
        report[kind] = {}
        if arguments.photos is not None and "photos" in parts:
            turns = (0, *TURNS) if kind == "yunet" else (0,)
            report[kind]["photos"] = {
                str(turn): measure_photos(search(detector), arguments.photos, turn)["total"]
                for turn in turns
            }
        if arguments.chips is not None and "chips" in parts:
            report[kind]["chips"] = measure_chips(detector, arguments.chips, arguments.rows)
    return report


def by_size(arguments: argparse.Namespace, parts: Sequence[str]) -> dict[str, Any]:
    """What YuNet finds in one look, and in a fast and a thorough search."""
    yunet = load_detector()
    fast = {"before": one_look(), "fast": search(yunet)}
    finds = {**fast, "thorough": search(yunet, thorough=True)}
    report: dict[str, Any] = {}
    if arguments.chips is not None:
        chips = list(read_chips(arguments.chips, 200))
        jobs: dict[str, Callable[[], Any]] = {
            "closeups": lambda: {n: measure_closeups(f, chips[:100]) for n, f in fast.items()},
            "small": lambda: measure_small(finds, chips),
            "mosaics": lambda: measure_mosaics(finds, chips),
            "turned": lambda: measure_turned(FacePipeline.from_pretrained(), chips),
        }
        report |= {name: job() for name, job in jobs.items() if name in parts}
    if arguments.photos is not None and "empty" in parts:
        crops = list(empty_crops(arguments.photos, 500))
        report["empty"] = {
            "crops": len(crops),
            **{name: sum(len(find(crop)) for crop in crops) for name, find in finds.items()},
        }
    if arguments.photos is not None and "cost" in parts:
        photos = [image for _, image, _ in read_photos(arguments.photos)]
        report["cpu_ms"] = measure_cost(finds, photos, arguments.rounds)
    return report


def main() -> int:
    """Print, and with --output write, the figures; parts not measured stay as the file has them."""
    arguments = parse_arguments()
    parts = arguments.part or PARTS
    try:
        report = {**by_detector(arguments, parts), **by_size(arguments, parts)}
    except DetectorError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.output is not None:
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        for name, values in report.items():
            before[name] = {**before.get(name, {}), **values}
        arguments.output.write_text(json.dumps(before, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
