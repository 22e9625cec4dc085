"""Several networks and their mean on the holdout: how good teachers they are together.

    python -m train ensemble runs/teacher-again/model runs/ours-blend/model --data DATA

Probabilities are averaged after each network's own temperature, as single pictures and as means
of picture and mirror image. Students are taught softer ones, at the recipe's temperature. The same
is measured, for single pictures, on as many training rows, the first of the stream: a teacher that
answers those much better knows them by heart, and teaches their labels' faults.
"""

from __future__ import annotations

import argparse
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceattr import labels
from faceattr.hub import find_weights
from faceattr.model import FaceAttributeModel, load_files
from train.data.source import Row, Rows, Source, add_data_arguments, count_rows, source_of
from train.evaluate.predict import logits_of, sha256
from train.fit.device import choose_device
from train.fit.networks import NETWORKS
from train.fit.trainer import check_rows
from train.tables import write_json

log = logging.getLogger("train")


def mean_of(members: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean probabilities `(N, classes)` by task."""
    return {name: torch.stack([m[name] for m in members]).mean(0) for name in members[0]}


def scores(probabilities: dict[str, Tensor], targets: Tensor) -> dict[str, dict[str, float]]:
    """Accuracy and mean loss in nats by task; targets `(N, tasks)` in `labels.TASKS` order."""
    accuracy, loss = {}, {}
    for column, task in enumerate(labels.TASKS):
        found, right = probabilities[task.name], targets[:, column]
        accuracy[task.name] = round(float((found.argmax(1) == right).double().mean()), 6)
        given = found.gather(1, right[:, None]).double()
        loss[task.name] = round(float(-given.log().mean()), 6)
    return {"accuracy": accuracy, "loss": loss}


def _answers(
    model: FaceAttributeModel, rows: list[Row], device: torch.device, flip: bool
) -> dict[str, Tensor]:
    logits = logits_of(model, rows, model.config.preprocessing, device, flip=flip)
    return model.calibrate(logits)


def _targets(rows: list[Row]) -> Tensor:
    return torch.tensor([row.targets for row in rows])


def measure(folders: list[Path], source: Source, device: torch.device) -> dict[str, Any]:
    """JSON-ready: each network and the mean of all, by view.

    `single` and `mirrored` are of the holdout, `training_rows` of the first training rows.

    Raises:
        TrainingError: for weights that learned from other rows, the holdout perhaps among them.
    """
    described = source.describe("train", count_rows(source, "train"))
    rows = list(Rows(source, "holdout").in_order())
    seen = list(islice(Rows(source, "train").in_order(), len(rows)))
    views = {"single": (rows, False), "mirrored": (rows, True), "training_rows": (seen, False)}
    members: list[dict[str, Any]] = []
    answers: dict[str, list[dict[str, Tensor]]] = {view: [] for view in views}
    for folder in folders:
        files = find_weights(folder)
        model = load_files(files, NETWORKS).to(device).to(memory_format=torch.channels_last)
        check_rows(model.config, f"the network {str(folder)!r}", described)
        entry: dict[str, Any] = {
            "recipe": model.config.training.get("recipe", folder.name),
            "architecture": model.config.architecture,
            "image_size": model.config.preprocessing.image_size,
            "weights_sha256": sha256(files.weights),
        }
        for view, (asked, flip) in views.items():
            answers[view].append(_answers(model, asked, device, flip))
            entry[view] = scores(answers[view][-1], _targets(asked))
        log.info("%s: %s", entry["recipe"], entry["single"])
        members.append(entry)
    mean = {
        view: scores(mean_of(answers[view]), _targets(asked)) for view, (asked, _) in views.items()
    }
    return {"part": "holdout", "rows": len(rows), "members": members, "mean": mean}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train ensemble`."""
    parser.add_argument("weights", type=Path, nargs="+", help="model/ folders of finished runs")
    parser.add_argument("--output", type=Path, help="JSON file; by default only printed")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train ensemble`."""
    found = measure(args.weights, source_of(args), choose_device(args.device))
    log.info("mean: %s", found["mean"])
    if args.output:
        write_json(args.output, found)
