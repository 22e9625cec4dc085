"""Measure what the detectors find: by size, by turn, without faces, and at what cost.

    python -m scripts.measure_detection --photos DIR --chips DATASET_DIR \
        --output docs/results/detection.json --docs docs/detection.md

writes all figures of one run, and the tables of the page from them. A labelled face counts as found
by the box with the largest IoU with it, if that is at least 0.3 and the box has not found another
face; every other box is false. The photos' folder holds a boxes.json of {"file": [{"left", "top",
"width", "height"}, ...]} in pixels. Chips are validation rows of FairFace at margin 0.25; what was
chosen was chosen on the holdout.

"one look" is YuNet at a copy with the longer side at 640 px, as a program would call it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.detection import MIN_FACE, YUNET_FILE, FaceDetector, load_detector
from faceattr.images import decode_image
from faceattr.pipeline import FacePipeline
from faceattr.results import Detection, FaceBox
from faceattr.search import resized, turn_back, turn_image
from train.report.results import insert
from train.tables import markdown_table, write_report, write_text

Image = NDArray[np.uint8]
Find = Callable[[Image], list[Detection]]
Finds = Mapping[str, Find]
Table = dict[str, dict[str, float]]
"""Rows of named figures, as the page shows them."""

MATCH_IOU = 0.3
CHIP_FACE = (0.110, 0.003, 0.787, 0.962)
"""Where YuNet finds the face on a chip: x, y, width, height; medians of 2,000."""

CLOSE_SIDES = (224, 320, 640, 1200, 4000)
SMALL_FACES = (120, 97, 82, 67)
TURNS = (0, 90, 180, 270)
COST_SIZES = ((320, 240), (640, 480), (1280, 960), (4000, 3000))
PARTS = ("photos", "closeups", "small", "mosaics", "turned", "empty", "cost")


def one_look(side: int = 640) -> Find:
    """YuNet's faces of one copy."""
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

    def find(image: Image) -> list[Detection]:
        found = detector.detect(image, thorough=thorough)
        return [face for face in found if face.box.width >= MIN_FACE]

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


def read_photos(folder: Path) -> Iterator[tuple[Image, list[FaceBox]]]:
    """Each photo of a folder with boxes.json, and its labelled faces."""
    for file, boxes in json.loads((folder / "boxes.json").read_text()).items():
        truth = [FaceBox(b["left"], b["top"], b["width"], b["height"]) for b in boxes]
        yield decode_image(folder / file), truth


def measure_photos(find: Find, folder: Path, turn: int = 0) -> dict[str, float]:
    """Faces labelled, found, and false boxes, of photos to be turned by `turn` to be upright."""
    total: dict[str, float] = {"labelled": 0, "found": 0, "false": 0}
    wrong = (360 - turn) % 360
    for image, truth in read_photos(folder):
        height, width = image.shape[:2]
        faces = [turn_back(face, wrong, width, height) for face in find(turn_image(image, wrong))]
        for name, count in zip(total, (len(truth), *count_matches(faces, truth)), strict=True):
            total[name] += count
    return total


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


def sized(image: Image, width: int, height: int) -> Image:
    """An image at another size."""
    interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def measure_closeups(finds: Finds, chips: Sequence[Image]) -> Table:
    """Of whole chips and their centres, how many show a face, by the image's side in pixels."""
    table: Table = {}
    for part in (100, 80, 70):
        inner = round(224 * part / 100)
        edge = (224 - inner) // 2
        cut = [chip[edge : edge + inner, edge : edge + inner] for chip in chips]
        for name, find in finds.items():
            table[f"central {part} %, {name}"] = {
                str(side): sum(bool(find(sized(chip, side, side))) for chip in cut)
                for side in CLOSE_SIDES
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
        image[y : y + side, x : x + side] = sized(chip, side, side)
        left, top, across, down = (side * n for n in CHIP_FACE)
        faces.append(FaceBox(x + left, y + top, across, down))
    return image, faces


def counts(finds: Finds, image: Image, truth: Sequence[FaceBox]) -> dict[str, float]:
    """Faces there are, those that each way of looking finds, and other boxes of all ways."""
    found = {name: count_matches(find(image), truth) for name, find in finds.items()}
    matched = {name: count for name, (count, _) in found.items()}
    return {
        "faces": len(truth),
        **matched,
        "other boxes": sum(false for _, false in found.values()),
    }


def measure_small(finds: Finds, chips: Sequence[Image]) -> Table:
    """Faces of 4,000×3,000 by the width of their face in pixels, and of a panorama."""
    rng = np.random.default_rng(0)
    table = {}
    for face in SMALL_FACES:
        side = round(face / CHIP_FACE[2])
        table[f"{face} px"] = counts(finds, *scene(chips[:100], 4000, 3000, 10, side, rng))
    side = round(150 / CHIP_FACE[2])
    table["150 px, panorama"] = counts(finds, *scene(chips[:20], 9000, 1500, 20, side, rng))
    return table


def measure_mosaics(finds: Finds, chips: Sequence[Image]) -> Table:
    """Chips side by side without a gap: found, and boxes beyond one a chip."""
    table, rng = {}, np.random.default_rng(0)
    for across, side in ((10, 64), (10, 224), (15, 64), (15, 224), (20, 64), (20, 224)):
        # A scene whose cells are as large as its chips.
        many = [chips[k % len(chips)] for k in range(across**2)]
        image, truth = scene(many, across * side, across * side, across, side, rng)
        table[f"{across**2} of {side} px"] = counts(finds, image, truth)
    return table


def empty_pieces(folder: Path, count: int) -> Iterator[Image]:
    """Squares of the photos that touch no labelled face, at 224 px."""
    rng = np.random.default_rng(1)
    photos = list(read_photos(folder))
    while count:
        image, faces = photos[rng.integers(len(photos))]
        side = int(rng.integers(60, 200))
        y, x = (int(rng.integers(0, n - side)) for n in image.shape[:2])
        # Labels end at the chin and the brow: half a face more on every side is hair and neck.
        wide = [
            FaceBox(f.x - f.width / 2, f.y - f.height / 2, 2 * f.width, 2 * f.height) for f in faces
        ]
        if not any(FaceBox(x, y, side, side).shared(face) for face in wide):
            count -= 1
            piece = np.ascontiguousarray(image[y : y + side, x : x + side])
            yield sized(piece, 224, 224)


def measure_turned(pipeline: FacePipeline, chips: Sequence[Image]) -> Table:
    """Chips on a grey canvas: found, turn told rightly, gender other than upright, by turn."""

    def answers(turn: int) -> list[Any]:
        pages = (
            np.pad(chip, ((112, 112), (112, 112), (0, 0)), constant_values=128) for chip in chips
        )
        turned = (turn_image(page, (360 - turn) % 360) for page in pages)
        return [max(f, key=lambda r: r.box.area) if f else None for f in map(pipeline, turned)]

    table = {}
    upright = answers(0)
    for turn in TURNS:
        faces = answers(turn) if turn else upright
        pairs = [(a, b) for a, b in zip(upright, faces, strict=True) if a and b]
        changed = [b for a, b in pairs if a.gender.label != b.gender.label]
        table[f"turned by {turn}°"] = {
            "chips": len(chips),
            "found": sum(face is not None for face in faces),
            "turn right": sum(face is not None and face.turn == turn for face in faces),
            "gender changed": len(changed),
            "changed and sure": sum(not face.gender.unsure for face in changed),
        }
    return table


def measure_cost(
    finds: Finds, photos: Sequence[Image], pieces: Sequence[Image], rounds: int
) -> Table:
    """CPU milliseconds of one look, and of both searches by it, in turns; medians.

    Other processes on the machine do not count, as they do with the clock's. Each photo, and each
    piece without a face, is brought to each size; ratios are taken image by image.
    """
    table = {}
    jobs = [(f"{w}×{h}", photos, w, h) for w, h in COST_SIZES]
    for label, images, width, height in [*jobs, ("640×480, no face", pieces, 640, 480)]:
        spent: dict[str, list[float]] = {name: [] for name in finds}
        for image in (sized(photo, width, height) for photo in list(images) * rounds):
            for name, find in finds.items():
                started = time.process_time()
                find(image)
                spent[name].append(1000 * (time.process_time() - started))
        first = spent.pop("one look")
        table[label] = {"one look, ms": round(statistics.median(first), 1)} | {
            name: round(statistics.median(a / b for a, b in zip(ms, first, strict=True)), 2)
            for name, ms in spent.items()
        }
    return table


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of the parts that were asked for."""
    photos, chips = arguments.photos, list(read_chips(arguments.chips, 200))
    yunet = load_detector("yunet")
    fast = {"one look": one_look(), "fast": search(yunet)}
    finds = {**fast, "thorough": search(yunet, thorough=True)}
    pieces = list(empty_pieces(photos, 500))
    jobs: dict[str, Callable[[], Table]] = {
        "photos": lambda: {
            "Haar": measure_photos(search(load_detector("haar")), photos),
            **{f"turned by {turn}°": measure_photos(fast["fast"], photos, turn) for turn in TURNS},
        },
        "closeups": lambda: measure_closeups(fast, chips[:100]),
        "small": lambda: measure_small(finds, chips),
        "mosaics": lambda: measure_mosaics(finds, chips),
        "turned": lambda: measure_turned(FacePipeline.from_pretrained(), chips),
        "empty": lambda: {
            "500 pieces": {n: sum(len(find(p)) for p in pieces) for n, find in finds.items()}
        },
        "cost": lambda: measure_cost(
            finds, [image for image, _ in read_photos(photos)], pieces[:9], arguments.rounds
        ),
    }
    report: dict[str, Any] = {"opencv": cv2.__version__, "threads": cv2.getNumThreads()}
    for name in arguments.part or PARTS:
        report[name] = jobs[name]()
        print(json.dumps({name: report[name]}, ensure_ascii=False), flush=True)
    return report


TEXT = """Faces of 4,000×3,000 by their width, and of a panorama of 9,000×1,500:

{small}

Chips side by side without a gap; a face that came twice would be another box:

{mosaics}

Of 100 chips, whole and their middle, those with a face found, by the image's side in pixels:

{closeups}

Nine group photos, and chips on a grey canvas:

{photos}

{turned}

Boxes on pieces of the photos that touch no labelled face:

{empty}

CPU time of one look, and both searches' by it; medians over the photos brought to each size
({threads} threads, OpenCV {opencv}). At 640×480 and below both search alike.

{cost}
"""


def tables(report: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    text = {name: report[name] for name in ("opencv", "threads")}
    for part in PARTS:
        rows = [[label, *map(str, row.values())] for label, row in report[part].items()]
        first = next(iter(report[part].values()))
        text[part] = markdown_table(["", *(name.capitalize() for name in first)], rows)
    return TEXT.format(**text)


def main() -> None:
    """Measure, print, and write what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="labelled photos")
    parser.add_argument(
        "--chips", type=Path, required=True, metavar="DATASET_DIR", help="FairFace, Hub layout"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times each image is timed (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="write tables between this page's result markers"
    )
    arguments = parser.parse_args()
    if arguments.part and (arguments.output or arguments.docs):
        parser.error("--part is for a look in between: --output and --docs take the whole run")
    report = measure(arguments)
    if arguments.output:
        write_report(arguments.output, report)
    if arguments.docs:
        text = arguments.docs.read_text(encoding="utf-8")
        write_text(arguments.docs, insert(text, tables(report)))


if __name__ == "__main__":
    main()
