"""Weights and a split to a table: one Parquet row per face with all probabilities.

Several processes share the work: torchrun --nproc-per-node N -m train predict ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm import tqdm

from faceattr import labels
from faceattr.hub import find_weights
from faceattr.model import FaceAttributeModel, load_files
from faceattr.preprocessing import Preprocessing
from train.data.batches import decode_row
from train.data.source import (
    Part,
    Row,
    Rows,
    Source,
    add_data_arguments,
    source_of,
)
from train.fit.device import choose_device
from train.fit.networks import NETWORKS, multiply_adds
from train.fit.parallel import Group, join, leave

log = logging.getLogger("train")
_BATCH = 64


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picture_sha256(row: Row) -> str:
    """Hexadecimal digest of a row's encoded picture, by which the same picture is known again."""
    content = row.image if isinstance(row.image, bytes) else row.image.tobytes()
    return hashlib.sha256(content).hexdigest()


def logits_of(
    model: FaceAttributeModel,
    rows: list[Row],
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    flip: bool = False,
) -> dict[str, Tensor]:
    """Logits `(rows, classes)` by task on the CPU; the model is left in eval mode.

    Computed in float32 on every device, as the pipeline does. With `flip`, the mean of those of
    the picture and of its mirror image.
    """
    model.eval()
    parts: dict[str, list[Tensor]] = {task.name: [] for task in labels.TASKS}
    with torch.inference_mode():
        for start in range(0, len(rows), _BATCH):
            chips = [decode_row(row) for row in rows[start : start + _BATCH]]
            images = preprocessing.to_tensor(chips).to(device, memory_format=torch.channels_last)
            answer = model(images)
            if flip:
                mirrored = model(images.flip(3))
                answer = {name: (part + mirrored[name]) / 2 for name, part in answer.items()}
            for name, logits in answer.items():
                parts[name].append(logits.float().cpu())
    sizes = {task.name: len(task.classes) for task in labels.TASKS}
    return {
        name: torch.cat([torch.empty(0, sizes[name]), *few]).clone() for name, few in parts.items()
    }


def _table(rows: list[Row], probabilities: dict[str, Tensor]) -> pa.Table:
    columns: dict[str, object] = {
        "file": [row.file for row in rows],
        "sha256": [picture_sha256(row) for row in rows],
        "service_test": [row.service_test for row in rows],
    }
    for position, task in enumerate(labels.TASKS):
        columns[f"{task.name}_true"] = [task.classes[row.targets[position]] for row in rows]
        for index, name in enumerate(task.classes):
            columns[f"{task.name}:{name}"] = probabilities[task.name][:, index].numpy()
    return pa.table(columns)


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
    group: Group = Group(),  # noqa: B008 - frozen
) -> int:
    """Write the predictions table of a part of the data set; returns its number of rows.

    Several processes share the rows by shards (`Rows.share`); the first writes the table.

    Columns: `row` (place in the part), `file`, `sha256` (of the encoded picture), `service_test`,
    `<task>_true` (class name) and one calibrated probability per class named `<task>:<class>`.
    The schema's metadata key "faceattr" holds JSON: the weights' name and SHA-256, their config
    and the data set's facts.
    """
    files = find_weights(weights)
    model = load_files(files, NETWORKS).to(device).to(memory_format=torch.channels_last)
    parts = group.gather(_tables(model, Rows(source, part), device, flip, group))
    done = sum(int(table.num_rows) for tables in parts for table in tables)
    if not group.is_first:
        return done
    table = pa.concat_tables(table for tables in parts for table in tables)
    table = table.add_column(0, "row", [list(range(done))])
    facts = {
        "model": files.name,
        "weights_sha256": sha256(files.weights),
        "config": model.config.to_dict(),
        "network": network_facts(model),
        "dataset": source.describe(part, done),
        "augmentation": "flip" if flip else "none",
    }
    table = table.replace_schema_metadata({"faceattr": json.dumps(facts)})
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, output)
    log.info("%d faces -> %s", done, output)
    return done


def _tables(
    model: FaceAttributeModel, rows: Rows, device: torch.device, flip: bool, group: Group
) -> list[pa.Table]:
    """This process's share, without the column `row`."""
    tables = []
    hidden = not (group.is_first and sys.stderr.isatty())
    total = -(-sum(rows.counts) // group.size)
    with tqdm(total=total, unit="face", desc="predict", disable=hidden) as bar:
        for some in _groups(rows.share(group)):
            logits = logits_of(model, some, model.config.preprocessing, device, flip=flip)
            tables.append(_table(some, model.calibrate(logits)))
            bar.update(len(some))
    return tables


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while group := list(islice(rows, 512)):
        yield group


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train predict`."""
    parser.add_argument(
        "--weights", help="folder or Hub id; by default the weights in the repository"
    )
    parser.add_argument("--part", choices=get_args(Part), default="validation")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument(
        "--flip", action="store_true", help="average the logits of each picture and its mirror"
    )
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train predict`."""
    group, device = join(choose_device(args.device))
    try:
        source = source_of(args)
        predict(args.weights, source, args.part, args.output, device, flip=args.flip, group=group)
    finally:
        leave(group)
