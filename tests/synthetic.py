"""A tiny data set in FairFace's layout with made-up pictures."""

from pathlib import Path

import cv2
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value

HUB_CLASSES = {
    "age": ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
    "gender": ["Male", "Female"],
    "race": [
        "East Asian",
        "Indian",
        "Black",
        "White",
        "Middle Eastern",
        "Latino_Hispanic",
        "Southeast Asian",
    ],
}
README = """---
configs:
- config_name: "0.25"
  default: true
  data_files:
  - split: train
    path: 0.25/train-*
  - split: validation
    path: 0.25/validation-*
---
"""

TINY_FACEATTRNET = {
    "stem": 4,
    "widths": (4, 8, 8),
    "expanded": (8, 16),
    "depths": (1, 1, 1),
    "squeezed": 4,
    "features": 8,
    "pool": 2,
}
"""Sizes of a `FaceAttrNet` for tests."""


def picture(rng: np.random.Generator, side: int) -> bytes:
    """A smooth random JPEG."""
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", smooth)[1].tobytes()


def write_fairface(folder: Path, train: int = 120, validation: int = 30, side: int = 48) -> Path:
    """Write both splits, two shards each, labels random but fixed; returns the folder."""
    rng = np.random.default_rng(7)
    features = Features(
        {
            "image": Image(),
            **{name: ClassLabel(names=classes) for name, classes in HUB_CLASSES.items()},
            "service_test": Value("bool"),
        }
    )
    for split, rows in (("train", train), ("validation", validation)):
        columns = {
            "image": [
                {"bytes": picture(rng, side), "path": f"{n}.jpg"} for n in range(1, rows + 1)
            ],
            **{n: rng.integers(0, len(c), rows).tolist() for n, c in HUB_CLASSES.items()},
            "service_test": (rng.random(rows) < 0.5).tolist(),
        }
        whole = Dataset.from_dict(columns, features=features)
        (folder / "0.25").mkdir(parents=True, exist_ok=True)
        for index in range(2):
            part = whole.shard(2, index, contiguous=True)
            part.to_parquet(folder / "0.25" / f"{split}-{index:05d}-of-00002.parquet")
    (folder / "README.md").write_text(README)
    return folder
