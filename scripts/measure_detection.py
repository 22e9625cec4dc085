"""Measure the face detectors: faces found in labelled photos, and where they lie on chips.

A labelled face counts as found by the box with the largest IoU with it, if that is at least 0.3
and the box has not found another face; every other box is false. The photos' folder holds a
boxes.json of {"file": [{"left", "top", "width", "height"}, ...]} in pixels.

The figures of chips are medians over the largest face found on each chip, as fractions of its
side. A bare chip ends at its edge: where faces lie in a picture that goes on around the chip,
scripts/fit_alignment.py measures. Residuals are the mean distance of landmarks from their template
on the chip, before and after cutting it anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.alignment import CHIP_LANDMARKS, TIGHTER, align_face
from faceattr.detection import YUNET_ENV, FaceDetector, load_detector
from faceattr.errors import DetectorError
from faceattr.images import decode_image
from faceattr.results import LANDMARKS, Detection, FaceBox

MATCH_IOU = 0.3


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


def measure_photos(detector: FaceDetector, folder: Path) -> dict[str, Any]:
    """Found, false and milliseconds for each picture of a folder with boxes.json."""
    labelled = json.loads((folder / "boxes.json").read_text())
    rows = {}
    for file, boxes in labelled.items():
        image = decode_image(folder / file)
        started = time.perf_counter()
        faces = detector.detect(image)
        spent = (time.perf_counter() - started) * 1000
        truth = [FaceBox(b["left"], b["top"], b["width"], b["height"]) for b in boxes]
        found, false = count_matches(faces, truth)
        rows[file] = {"labelled": len(truth), "found": found, "false": false, "ms": round(spent, 1)}
    total = {k: sum(row[k] for row in rows.values()) for k in ("labelled", "found", "false")}
    total["ms"] = round(sum(row["ms"] for row in rows.values()) / len(rows), 1)
    return {"total": total, "pictures": rows}


def read_chips(dataset: Path, rows: int) -> Iterator[NDArray[np.uint8]]:
    """The first validation chips of margin 0.25, in the Hub data set's layout."""
    import pyarrow.parquet as pq

    shards = sorted((dataset / "0.25").glob("validation-*.parquet"))
    if not shards:
        raise SystemExit(f"no 0.25/validation-*.parquet in {dataset}; expected FairFace's layout")

    def every() -> Iterator[NDArray[np.uint8]]:
        for shard in shards:
            for batch in pq.ParquetFile(shard).iter_batches(100, columns=["image"]):
                for picture in batch.column("image").to_pylist():
                    yield decode_image(picture["bytes"])

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


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="labelled photos")
    parser.add_argument("--chips", type=Path, metavar="DATASET_DIR", help="FairFace, Hub layout")
    parser.add_argument("--rows", type=int, default=1000, help="chips to read (default: 1000)")
    parser.add_argument(
        "--detector",
        action="append",
        choices=["yunet", "haar"],
        help=f"may be repeated (default: both); YuNet's file may be named in {YUNET_ENV}",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.photos is None and arguments.chips is None:
        parser.error("nothing to measure: give --photos, --chips or both")
    return arguments


def main() -> int:
    """Print, and with --output write, the figures of each detector."""
    arguments = parse_arguments()
    report: dict[str, dict[str, Any]] = {}
    for kind in arguments.detector or ["yunet", "haar"]:
        try:
            detector = load_detector(kind)
        except DetectorError as error:
            print(f"{kind}: {error}", file=sys.stderr)
            return 1
        report[kind] = {}
        if arguments.photos is not None:
            report[kind]["photos"] = measured = measure_photos(detector, arguments.photos)
            for file, row in [*measured["pictures"].items(), ("total", measured["total"])]:
                print(f"{kind:6} {file:20} " + " ".join(f"{k} {v}" for k, v in row.items()))
        if arguments.chips is not None:
            report[kind]["chips"] = on_chips = measure_chips(
                detector, arguments.chips, arguments.rows
            )
            for name, value in on_chips.items():
                print(f"{kind:6} {name:20} {value}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
