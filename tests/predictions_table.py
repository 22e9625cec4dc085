"""A synthetic table of predictions, as `python -m train predict` writes it."""

import hashlib
import json

import numpy as np
import pyarrow as pa

from faceattr.labels import TASKS
from train.recipes import faceattrnet

TRAINING = {
    "recipe": "faceattrnet",
    "seed": 3,
    "epoch": 7,
    "epochs": 9,
    "image_size": 112,
    "settings": json.loads(json.dumps(faceattrnet().to_dict())),
    "dataset": {
        "id": "fairface",
        "config": "0.25",
        "split": "train",
        "revision": None,
        "rows": 38_000,
        "holdout_rows": 2_000,
    },
    "holdout_accuracy": {"gender": 0.9, "age": 0.5, "race": 0.6},
    "start": None,
    "teachers": [],
    "runs": {},
    "hardware": "CPU, 2 threads",
    "wall_seconds": 3725,
    "git_commit": "0123abc",
    "versions": {"faceattr": "0.1.0", "torch": "2.9.0"},
}
NETWORK = {
    "architecture": "LightweightMTLNet224",
    "parameters": 668_077,
    "multiply_adds": 121_067_840,
    "multiply_adds_224": 484_271_360,
}
CONFIG = {
    "architecture": "LightweightMTLNet224",
    "sizes": {"widths": [64, 128, 128, 256, 256, 512, 512], "hidden": 256},
    "classes": {task.name: list(task.classes) for task in TASKS},
    "preprocessing": {"image_size": 112, "mean": [0.5] * 3, "std": [0.25] * 3},
    "temperatures": {task.name: 1.0 for task in TASKS},
    "thresholds": {"gender": 0.7, "age": 0.5, "race": 0.6},
    "training": TRAINING,
}


def columns(rows: int = 400, seed: int = 0) -> dict[str, list | np.ndarray]:
    """Random labels and probabilities that lean towards them."""
    rng = np.random.default_rng(seed)
    found: dict[str, list | np.ndarray] = {
        "row": list(range(rows)),
        "file": [f"{index + 1}.jpg" for index in range(rows)],
        "sha256": [hashlib.sha256(b"%d" % index).hexdigest() for index in range(rows)],
        "service_test": (rng.random(rows) < 0.4).tolist(),
    }
    for task in TASKS:
        size = len(task.classes)
        true = rng.integers(size, size=rows)
        scores = rng.normal(size=(rows, size)) + 1.5 * np.eye(size)[true]
        values = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        found[f"{task.name}_true"] = [task.classes[index] for index in true]
        for index, name in enumerate(task.classes):
            found[f"{task.name}:{name}"] = values[:, index].astype(np.float32)
    return found


def table(data: dict[str, list | np.ndarray], **changes: object) -> pa.Table:
    """The columns with the metadata of a run; `changes` replaces metadata keys."""
    facts = {
        "model": "model",
        "weights_sha256": "ab" * 32,
        "config": CONFIG,
        "network": NETWORK,
        "dataset": {
            "id": "fairface",
            "config": "0.25",
            "split": "validation",
            "revision": None,
            "rows": len(data["row"]),
        },
        "augmentation": "none",
        **changes,
    }
    return pa.table(data).replace_schema_metadata({"faceattr": json.dumps(facts)})
