"""Fit the constants of faceattr/alignment.py, and measure the error that remains.

Training chips are pasted into larger pictures as scripts/measure_pipeline.py does it, and found
there. Where the true chip lies is known, so its landmarks and boxes can be read in its own
coordinates, and what `face_transform` makes of them compared with it:

    python -m scripts.fit_alignment --data DATA --output docs/results/alignment.json

"fit" comes from training rows without the holdout; the constants of the code are its values.
"error" is that of the code as it is, on the holdout, from chip to crop: "log_scale" above zero for
a crop that shows less than the chip, "turn" in degrees, shifts of the chip's centre as fractions
of its side. `TIGHTER`, which is meant, is left out of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import HuberRegressor
from tqdm import tqdm

from faceattr.alignment import NOSE, box_transform, face_transform, similarity_transform
from faceattr.detection import FaceDetector, load_detector
from faceattr.results import Detection
from scripts.measure_pipeline import command, match, pasted, tell
from train.data.source import Rows, Source, source_of

HAAR_EVERY = 8
"""Haar takes five times as long as YuNet, and one box needs fewer faces."""

ERRORS = ("log_scale", "turn", "shift_x", "shift_y")


class Found(NamedTuple):
    """A face as the detector found it, and where its chip truly lies (see `Scene.chip`)."""

    face: Detection
    chip: NDArray[np.float64]


def find(
    detectors: Mapping[FaceDetector, int], rows: Rows, limit: int, seed: int
) -> dict[str, list[Found]]:
    """Paste chips and find them, by name of the detector, without the faces that it missed.

    `detectors` says which, and every how manieth picture each looks at.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Found]] = {detector.name: [] for detector in detectors}
    scenes = pasted(islice(rows, limit), rng)
    seldom = 0.1 if sys.stderr.isatty() else 60.0
    bar = tqdm(scenes, rows.part, total=limit, unit="face", mininterval=seldom)
    for number, (_, _, scene) in enumerate(bar):
        for detector, every in detectors.items():
            if number % every:
                continue
            if face := match(detector.detect(scene.image), scene.box):
                found[detector.name].append(Found(face, scene.chip))
    return found


def scale_of(matrix: NDArray[np.float64]) -> float:
    """By how much a similarity enlarges."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def onto(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(2, 3)`: what brings the image under `first` onto that under `second`."""
    back = np.vstack([cv2.invertAffineTransform(first), (0, 0, 1)])
    return np.asarray(second @ back, np.float64)


def fit_landmarks(found: Sequence[Found]) -> dict[str, Any]:
    """Constants for a detector with landmarks."""
    points = np.array([face.landmarks for face, _ in found])
    chips = np.array([chip for _, chip in found])
    moved = points @ chips[:, :, :2].transpose(0, 2, 1) + chips[:, None, :, 2]
    template = np.median(moved, axis=0).round(3)
    sides = [np.sqrt(face.box.area) * scale_of(chip) for face, chip in found]
    centre = template.mean(axis=0)
    offsets, turns, shifts = [], [], []
    for five, chip in zip(points, chips, strict=True):
        plain = similarity_transform(five.tolist(), template.tolist())
        missing = onto(plain, chip)
        offsets.append((plain @ (*five[NOSE], 1))[0] - template[NOSE, 0])
        turns.append(np.arctan2(missing[1, 0], missing[0, 0]))
        shifts.append((missing @ (*centre, 1))[0] - centre[0])
    return {
        "CHIP_LANDMARKS": template.tolist(),
        "CHIP_FACE_SIDE": round(float(np.median(sides)), 3),
        "NOSE_TURN": _slope(offsets, turns),
        "NOSE_SHIFT": _slope(offsets, shifts),
    }


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of a line that few outliers do not move."""
    scaled = np.array(x)[:, None] / np.std(x)
    line = HuberRegressor(alpha=0.0).fit(scaled, np.array(y) / np.std(y))
    return round(float(line.coef_[0] * np.std(y) / np.std(x)), 3)


def fit_box(found: Sequence[Found]) -> dict[str, Any]:
    """Constants for a detector without landmarks."""
    boxes = []
    for face, chip in found:
        box, scale = face.box, scale_of(chip)
        x, y = chip @ (box.x + box.width / 2, box.y + box.height / 2, 1)
        boxes.append((x, y, scale * box.width, scale * box.height))
    x, y, width, height = np.median(boxes, axis=0)
    corner = (x - width / 2, y - height / 2, width, height)
    return {"CHIP_HAAR_BOX": [round(float(value), 3) for value in corner]}


def remaining(found: Sequence[Found]) -> dict[str, dict[str, float]]:
    """Error of the crops that the code would cut, from chip to crop."""
    rows = []
    for face, chip in found:
        if face.landmarks is None:
            cut = box_transform(face.box)
        else:
            cut = face_transform(face.landmarks, face.box)
        error = onto(chip, cut)
        turn = np.degrees(np.arctan2(error[1, 0], error[0, 0]))
        shift = error @ (0.5, 0.5, 1) - 0.5
        rows.append((np.log(scale_of(error)), turn, *shift))
    values = np.array(rows)
    numbers = {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "p5": np.percentile(values, 5, axis=0),
        "p95": np.percentile(values, 95, axis=0),
    }
    return {
        name: {key: round(float(column[i]), 4) for key, column in numbers.items()}
        for i, name in enumerate(ERRORS)
    }


def measure(source: Source, limit: int, seed: int) -> dict[str, Any]:
    """Fit on training rows, error on the holdout, by detector."""
    detectors = {load_detector("yunet"): 1, load_detector("haar"): HAAR_EVERY}
    known = find(detectors, Rows(source, "train"), limit, seed)
    other = find(detectors, Rows(source, "holdout"), limit, seed)
    fits = {"yunet": fit_landmarks, "haar": fit_box}
    return {
        name: {
            "rows": len(known[name]),
            "fit": fit(known[name]),
            "holdout_rows": len(other[name]),
            "error": remaining(other[name]),
        }
        for name, fit in fits.items()
    }


def main() -> int:
    """Fit and write JSON."""
    args = command(__doc__, limit=4_000, seed=7).parse_args()
    facts = {"command": "python -m scripts.fit_alignment", "limit": args.limit, "seed": args.seed}
    tell({**facts, **measure(source_of(args), args.limit, args.seed)}, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
