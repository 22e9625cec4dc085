"""Weights and a split to a table: one Parquet row per face with all probabilities.

The network is run by what runs it in the pipeline and in an audit, on chips as they are stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from faceattr import labels
from faceattr.backends.classify import classify
from faceattr.backends.load import Classifier
from faceattr.backends.torch import TorchClassifier
from faceattr.hub import find_weights
from faceattr.model import FaceAttributeModel, load_files
from train.data.batches import decode
from train.data.source import (
    Part,
    Row,
    Rows,
    Source,
    add_data_arguments,
    sha256,
    source_of,
)
from train.device import choose_device

log = logging.getLogger("train")
_TOGETHER = 256
"""Rows that are decoded and classified together, and become a part of the table."""


def picture_sha256(row: Row) -> str:
    """Hexadecimal digest of a row's encoded picture, by which the same picture is known again."""
    return hashlib.sha256(row.image).hexdigest()


def _table(rows: list[Row], probabilities: dict[str, NDArray[np.float32]]) -> pa.Table:
    columns: dict[str, object] = {
        "file": [row.file for row in rows],
        "sha256": [picture_sha256(row) for row in rows],
        "service_test": [row.service_test for row in rows],
    }
    for position, task in enumerate(labels.TASKS):
        columns[f"{task.name}_true"] = [task.classes[row.targets[position]] for row in rows]
        for index, name in enumerate(task.classes):
            columns[f"{task.name}:{name}"] = probabilities[task.name][:, index]
    return pa.table(columns)


def multiply_adds(model: nn.Module, side: int) -> int:
    """Multiply-adds of convolutions and linear layers for one image of side × side pixels."""
    weight, training = next(model.parameters()), model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.inference_mode(), counter:
            model.eval()(torch.zeros(1, 3, side, side, device=weight.device))
    finally:
        model.train(training)
    # PyTorch counts multiplications and additions apart.
    return counter.get_total_flops() // 2


def network_facts(model: FaceAttributeModel) -> dict[str, str | int]:
    """What a report says of the network's size; multiply-adds for one face."""
    side = model.config.preprocessing.image_size
    return {
        "architecture": model.config.architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model, side),
        "multiply_adds_224": multiply_adds(model, 224),
    }


def predict(
    weights: str | None,
    source: Source,
    part: Part,
    output: Path,
    device: torch.device,
    *,
    flip: bool = False,
) -> int:
    """Write the predictions table of a part of the data set; returns its number of rows.

    Columns: `row` (place in the part), `file`, `sha256` (of the encoded picture), `service_test`,
    `<task>_true` (class name) and one calibrated probability per class named `<task>:<class>`.
    The schema's metadata key "faceattr" holds JSON: the weights' name and SHA-256, their config
    and the data set's facts.
    """
    files = find_weights(weights)
    network = TorchClassifier(load_files(files), device)
    table = pa.concat_tables(_tables(network, Rows(source, part), flip))
    done = int(table.num_rows)
    table = table.add_column(0, "row", [list(range(done))])
    facts = {
        "model": files.name,
        "weights_sha256": sha256(files.weights),
        "config": network.config.to_dict(),
        "network": network_facts(network.model),
        "dataset": source.describe(part, done),
        "augmentation": "flip" if flip else "none",
    }
    table = table.replace_schema_metadata({"faceattr": json.dumps(facts)})
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output)
    log.info("%d faces -> %s", done, output)
    return done


def _tables(network: Classifier, rows: Rows, flip: bool) -> Iterator[pa.Table]:
    """The table in parts, without the column `row`."""
    hidden = not sys.stderr.isatty()
    with tqdm(total=len(rows), unit="face", desc="predict", disable=hidden) as bar:
        for start in range(0, len(rows), _TOGETHER):
            some = [rows[place] for place in range(start, min(start + _TOGETHER, len(rows)))]
            chips = [decode(row.image) for row in some]
            yield _table(some, classify(network, chips, mirror=flip))
            bar.update(len(some))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train predict`."""
    parser.add_argument("--weights", help="folder, Hub id or bundled name; the default if left out")
    parser.add_argument("--part", choices=get_args(Part), default="validation")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument(
        "--flip", action="store_true", help="average the logits of each picture and its mirror"
    )
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train predict`."""
    device = choose_device(args.device)
    predict(args.weights, source_of(args), args.part, args.output, device, flip=args.flip)
