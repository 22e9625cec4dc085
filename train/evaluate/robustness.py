"""Accuracy on pictures that are made worse in steps: JPEG, blur, low light and more.

The validation chips are decoded once; each step of `train/evaluate/corruptions.py` then
takes one forward pass. `python -m train evaluate --robustness` takes the result into report.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from faceattr import __version__
from faceattr.hub import find_weights
from faceattr.labels import TASKS
from faceattr.model import FaceAttributeModel, load_files
from train.data.batches import decode
from train.data.source import Rows, Source, add_data_arguments, sha256, source_of
from train.device import choose_device, keep_freed_memory
from train.evaluate.cells import CONFIDENCE, Cell
from train.evaluate.corruptions import CORRUPTIONS, Chip
from train.tables import rounded, write_report

log = logging.getLogger("train")

SCHEMA = 1
ROWS = 5_000
_BATCH = 64

STEPS: tuple[tuple[str, float], ...] = tuple(
    (name, level) for name, corruption in CORRUPTIONS.items() for level in corruption.levels
)


def _answers(
    model: FaceAttributeModel, chips: Sequence[Chip], device: torch.device
) -> NDArray[np.int64]:
    """Likeliest class positions `(faces, tasks)`."""
    images = model.config.preprocessing.to_tensor(chips)
    with torch.inference_mode():
        logits = model(images.to(device, memory_format=torch.channels_last))
    return torch.stack([logits[task.name].argmax(1) for task in TASKS], 1).cpu().numpy()


def _correct(model: FaceAttributeModel, rows: Rows, device: torch.device) -> NDArray[np.bool_]:
    """Whether each answer is the label: `(1 + steps, faces, tasks)`, unchanged pictures first."""
    found = []
    with tqdm(total=len(rows), unit="face", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(rows), _BATCH):
            batch = [rows[place] for place in range(start, min(start + _BATCH, len(rows)))]
            targets = np.array([row.targets for row in batch])
            chips = [decode(row.image) for row in batch]
            answers = [_answers(model, chips, device)]
            for name, level in STEPS:
                worse = [CORRUPTIONS[name].apply(chip, level) for chip in chips]
                answers.append(_answers(model, worse, device))
            found.append(np.stack(answers) == targets)
            bar.update(len(batch))
    return np.concatenate(found, axis=1)


def _step(correct: NDArray[np.bool_]) -> dict[str, Any]:
    return {task.name: Cell.of(correct[:, index]).to_dict() for index, task in enumerate(TASKS)}


def robustness(
    weights: str | None, source: Source, device: torch.device, rows: int = ROWS
) -> dict[str, Any]:
    """Accuracies of some weights under every corruption, JSON-ready.

    On so many validation rows, evenly spread over the split; all of them where it has fewer.
    """
    files = find_weights(weights)
    model = load_files(files).to(device).to(memory_format=torch.channels_last).eval()
    correct = _correct(model, Rows(source, "validation", rows), device)
    levels = {
        name: [
            {"level": level, **_step(correct[1 + STEPS.index((name, level))])}
            for level in corruption.levels
        ]
        for name, corruption in CORRUPTIONS.items()
    }
    return {
        "schema": SCHEMA,
        "created_by": {"command": "python -m train robustness", "faceattr": __version__},
        "model": files.name,
        "weights_sha256": sha256(files.weights),
        "dataset": source.describe("validation", correct.shape[1]),
        "confidence": CONFIDENCE,
        "clean": _step(correct[0]),
        "corruptions": {
            name: {"title": corruption.title, "unit": corruption.unit, "levels": levels[name]}
            for name, corruption in CORRUPTIONS.items()
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train robustness`."""
    parser.add_argument("--weights", help="folder, Hub id or bundled name; the default if left out")
    parser.add_argument("--rows", type=int, default=ROWS, help="faces, evenly spread (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train robustness`."""
    if args.rows < 1:
        raise ValueError("--rows must be at least 1")
    keep_freed_memory()
    found = robustness(args.weights, source_of(args), choose_device(args.device), args.rows)
    write_report(args.output, rounded(found))
    log.info("-> %s", args.output)
