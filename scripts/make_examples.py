#!/usr/bin/env python3
"""Write the page's example pictures: means of many FairFace chips, which are nobody's face."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from datasets import Image as HubImage  # noqa: E402
from datasets import load_dataset  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

TARGET = ROOT / "page" / "view" / "static" / "examples"
SIDE = 224
GROUPS = {"child": ("3-9",), "adult": ("20-29", "30-39"), "older": ("60-69", "more than 70")}


def means(data: str) -> dict[str, tuple[NDArray[np.float64], int]]:
    """Mean chip and count of all validation rows ("all") and of each of `GROUPS`.

    Each chip is added together with its mirror image and brought to the same mean brightness.
    """
    rows = load_dataset(data, "0.25", split="validation", streaming=True)
    names = rows.features["age"].names
    sums = {name: np.zeros((SIDE, SIDE, 3)) for name in ("all", *GROUPS)}
    counts = dict.fromkeys(sums, 0)
    for row in rows.cast_column("image", HubImage(decode=False)):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as opened:
            chip = np.asarray(opened.convert("RGB"), np.float64)
        chip *= 128 / max(chip.mean(), 20)
        chip = (chip + chip[:, ::-1]) / 2
        age = names[row["age"]]
        for name in ("all", *(g for g, ages in GROUPS.items() if age in ages)):
            sums[name] += chip
            counts[name] += 1
    return {name: (sums[name] / counts[name], counts[name]) for name in sums}


def sharpened(chip: NDArray[np.float64]) -> NDArray[np.float64]:
    """A mean is soft and pale: stretch its contrast about its own mean."""
    return np.clip((chip - chip.mean()) * 1.5 + 128, 0, 255)


def composed(chips: list[tuple[NDArray[np.float64], int]], background: float) -> Image.Image:
    """Chips of the given sides next to each other, fading into a plain background."""
    width = sum(side for _, side in chips) + 40 * (len(chips) + 1)
    height = max(side for _, side in chips) + 80
    canvas = np.full((height, width, 3), background)
    left = 40
    for chip, side in chips:
        pixels = np.clip(chip, 0, 255).astype(np.uint8)
        scaled = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
        ramp = np.clip(np.minimum(np.arange(side), np.arange(side)[::-1]) / (side * 0.12), 0, 1)
        mask = (ramp[:, None] * ramp[None, :])[:, :, None]
        top = (height - side) // 2
        part = canvas[top : top + side, left : left + side]
        canvas[top : top + side, left : left + side] = scaled * mask + part * (1 - mask)
        left += side + 40
    return Image.fromarray(np.rint(canvas).astype(np.uint8))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", default="HuggingFaceM4/FairFace", help="Hub id or folder of the same layout"
    )
    averages = means(parser.parse_args().data)
    TARGET.mkdir(parents=True, exist_ok=True)
    chips = {name: sharpened(mean) for name, (mean, _) in averages.items()}
    composed([(chips["all"], 320)], 128).save(TARGET / "mean-face.jpg", quality=90)
    group = [(chips["child"], 180), (chips["adult"], 260), (chips["older"], 240)]
    composed(group, 128).save(TARGET / "mean-ages.jpg", quality=90)
    listed = {
        "credit": f"Examples: means of up to {averages['all'][1]:,} pictures of FairFace's "
        "validation rows and their mirror images, so nobody's face (FairFace, CC BY 4.0). The "
        "network has never seen such a picture, so its answers about them mean little.",
        "pictures": {"the mean face": "mean-face.jpg", "means of three ages": "mean-ages.jpg"},
    }
    text = json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    (TARGET / "examples.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
