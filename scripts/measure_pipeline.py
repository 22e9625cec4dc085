"""Measure what finding and cutting out a face costs in accuracy.

Validation chips are pasted into 640×480 pictures at a random size (60 to 400 pixels), place and
turn (up to 15° either way), on a plain or a blurred background, and go through the whole pipeline.
Among the faces found, accuracy is compared with that on the chips themselves:

    python -m scripts.measure_pipeline --data DATA --output docs/results/pipeline.json

Around a face in a photo the photo goes on; around a pasted chip something else begins, and shows in
the corners of the crop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceattr.config import WEIGHTS_NAME
from faceattr.labels import TASKS
from faceattr.pipeline import FacePipeline
from faceattr.results import Detection, FaceBox, FaceResult
from train.data.batches import decode
from train.data.source import Row, Rows, add_data_arguments, sha256, source_of
from train.tables import rounded, write_json

WIDTH, HEIGHT = 640, 480
SIZES = (60, 400)
TURN = 15.0
MATCH_IOU = 0.3
FACE_IN_CHIP = (0.110, 0.003, 0.787, 0.962)
"""Median face box in a FairFace chip: left, top, width, height as fractions of its side."""
Face = TypeVar("Face", Detection, FaceResult)
BANDS = ((60, 100), (100, 200), (200, 400))


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture `(480, 640, 3)` with one pasted chip of `side` pixels, its face at `box`.

    `chip` `(2, 3)` leads from pixels of the picture to 0..1 of the chip.
    """

    image: NDArray[np.uint8]
    side: float
    box: FaceBox
    chip: NDArray[np.float64]


def _background(other: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One colour, or another chip blurred beyond recognition."""
    if rng.random() < 0.5:
        colour = rng.integers(0, 256, 3, dtype=np.uint8)
        return np.broadcast_to(colour, (HEIGHT, WIDTH, 3)).copy()
    # Blurred while small: at full size the same would take a tenth of a second.
    small = cv2.resize(other, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), 5.0)
    return np.asarray(cv2.resize(blurred, (WIDTH, HEIGHT)), np.uint8)


def paste(chip: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator) -> Scene:
    """Put a square chip somewhere into a picture, whose background may be made of another.

    A corner of the largest may reach past the edge.
    """
    side = float(rng.uniform(*SIZES))
    angle = float(rng.uniform(-TURN, TURN))
    turn = np.deg2rad(abs(angle))
    reach = side / 2 * (np.cos(turn) + np.sin(turn))
    margin = min(reach, HEIGHT / 2)
    x = float(rng.uniform(margin, WIDTH - margin))
    y = float(rng.uniform(margin, HEIGHT - margin))
    # Area averaging first: warpAffine alone would alias where the chip shrinks.
    whole = max(1, round(side))
    method = cv2.INTER_AREA if whole < chip.shape[0] else cv2.INTER_CUBIC
    sized = cv2.resize(chip, (whole, whole), interpolation=method)
    matrix = cv2.getRotationMatrix2D((whole / 2, whole / 2), angle, side / whole)
    matrix[:, 2] += (x - whole / 2, y - whole / 2)
    image = _background(other, rng)
    size = (WIDTH, HEIGHT)
    inside = cv2.warpAffine(np.full((whole, whole), 255, np.uint8), matrix, size)
    moved = cv2.warpAffine(sized, matrix, size, flags=cv2.INTER_CUBIC)
    share = (inside.astype(np.float32) / 255)[..., None]
    image = np.rint(share * moved + (1 - share) * image).astype(np.uint8)
    left, top, width, height = (side * part for part in FACE_IN_CHIP)
    box = FaceBox(x - side / 2 + left, y - side / 2 + top, width, height)
    # OpenCV's coordinates count from pixel centres; then pixels of `sized` become fractions.
    matrix[:, 2] += 0.5 - matrix[:, :2] @ (0.5, 0.5)
    matrix[:, :2] *= whole
    return Scene(image, side, box, cv2.invertAffineTransform(matrix))


def pasted(
    rows: Iterator[Row], rng: np.random.Generator
) -> Iterator[tuple[Row, NDArray[np.uint8], Scene]]:
    """Each row with its chip and a scene; the chip before it may make the background."""
    previous = np.full((224, 224, 3), 128, np.uint8)
    for row in rows:
        chip = decode(row.image)
        yield row, chip, paste(chip, previous, rng)
        previous = chip


def match(faces: Sequence[Face], box: FaceBox) -> Face | None:
    """The face of those found that lies best on a box; None where none lies well."""
    best = max(faces, key=lambda face: face.box.iou(box), default=None)
    return best if best is not None and best.box.iou(box) >= MATCH_IOU else None


def _right(face: FaceResult, row: Row) -> list[bool]:
    return [
        getattr(face, task.name).label == task.classes[row.targets[position]]
        for position, task in enumerate(TASKS)
    ]


def compare(sides: NDArray[Any], chips: NDArray[Any], scenes: NDArray[Any]) -> dict[str, Any]:
    """Accuracy by task on the same faces; the drop has a 95 % interval from its paired error."""
    result: dict[str, Any] = {"faces": len(sides)}
    for column, task in enumerate(TASKS):
        loss = chips[:, column].astype(float) - scenes[:, column]
        error = 1.96 * loss.std(ddof=1) / np.sqrt(len(loss))
        result[task.name] = {
            "chip": float(chips[:, column].mean()),
            "pipeline": float(scenes[:, column].mean()),
            "drop": float(loss.mean()),
            "drop_low": float(loss.mean() - error),
            "drop_high": float(loss.mean() + error),
        }
    return result


def measure(pipeline: FacePipeline, rows: Rows, limit: int, seed: int) -> dict[str, Any]:
    """Accuracy on chips and on the same chips pasted, found and cut out again."""
    made = pasted(islice(rows, limit), np.random.default_rng(seed))
    seen: list[tuple[float, list[bool], list[bool]]] = []
    bar = tqdm(total=limit, unit="face", mininterval=0.1 if sys.stderr.isatty() else 30.0)
    while group := list(islice(made, 32)):
        alone = pipeline.classify_crops([chip for _, chip, _ in group])
        found = pipeline.predict_batch([scene.image for _, _, scene in group])
        for (row, _, scene), answer, faces in zip(group, alone, found, strict=True):
            if face := match(faces, scene.box):
                seen.append((scene.side, _right(answer, row), _right(face, row)))
        bar.update(len(group))
    if len(seen) < 2:
        raise SystemExit(f"error: only {len(seen)} of {bar.n} faces were found; nothing to compare")
    side, chips, scenes = map(np.array, zip(*seen, strict=True))
    bands = {
        f"{low} to {high} px": compare(side[inside], chips[inside], scenes[inside])
        for low, high in BANDS
        for inside in [(side >= low) & (side < high)]
        if inside.sum() > 1
    }
    whole = compare(side, chips, scenes)
    return {"pasted": bar.n, "found": len(seen), "all": whole, "by_side": bands}


def tell(result: Mapping[str, Any], output: Path | None) -> None:
    """Print a result as JSON, and write it to a file where one is named."""
    if output:
        write_json(output, result)
    print(json.dumps(result, indent=2))


def command(doc: str | None, limit: int, seed: int) -> argparse.ArgumentParser:
    """The options of a command that pastes chips."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--limit", type=int, default=limit, help="faces (%(default)s)")
    parser.add_argument("--seed", type=int, default=seed, help="of sizes and places (%(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file; by default only printed")
    add_data_arguments(parser)
    return parser


def main() -> int:
    """Measure and write JSON."""
    parser = command(__doc__, limit=5_000, seed=0)
    parser.add_argument("--weights", help="folder, Hub id or bundled name; the default if left out")
    parser.add_argument("--detector", default="auto", help="yunet, haar or auto (%(default)s)")
    parser.add_argument("--part", choices=["validation", "holdout"], default="validation")
    args = parser.parse_args()
    model, source = args.weights, source_of(args)
    pipeline = FacePipeline.from_pretrained(model, detector=args.detector, device=args.device)
    assert pipeline.files is not None
    result = {
        "command": "python -m scripts.measure_pipeline",
        "model": pipeline.info.model,
        "weights_sha256": sha256(pipeline.files.weights.with_name(WEIGHTS_NAME)),
        "detector": pipeline.info.detector,
        "part": args.part,
        "seed": args.seed,
        **measure(pipeline, Rows(source, args.part), args.limit, args.seed),
    }
    tell(rounded(result), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
