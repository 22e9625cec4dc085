"""Golden logits of the bundled weights; `python tests/golden.py` writes them anew."""

import json
from pathlib import Path

import numpy as np
import torch

from faceattr.hub import BUNDLED_NAMES
from faceattr.model import load_model

PATH = Path(__file__).with_name("golden.json")


def golden_logits(name: str) -> dict[str, list[float]]:
    """Logits of bundled weights for one made-up 224-pixel chip."""
    ramp = np.add.outer(np.arange(224), 2 * np.arange(224)) % 256
    chip = np.stack([ramp, ramp[::-1], 255 - ramp.T], 2).astype(np.uint8)
    model = load_model(name)
    with torch.inference_mode():
        logits = model(model.config.preprocessing.to_tensor([chip]))
    return {task: values[0].tolist() for task, values in logits.items()}


if __name__ == "__main__":
    stored = {name: golden_logits(name) for name in BUNDLED_NAMES}
    PATH.write_text(json.dumps(stored, indent=1) + "\n")
