"""Views drawn once and kept, for devices that train faster than processors draw.

`FACEATTR_VIEWS` names the folder, best one in memory: a view of 38,000 rows takes 1.9 GB at 128
pixels and 2.9 GB at 160. Runs that share a recipe's augmentation and seed share its views; whoever
needs one first draws it. Without the variable views are drawn anew every epoch.

    python -m train views --recipe faceattrnet --sides 128 160 --data DATA

draws ahead of the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from train.data.batches import Batch, Views, Wanted, load
from train.data.source import Rows, add_data_arguments, source_of
from train.recipes import RECIPES

log = logging.getLogger("train")
VIEWS_VARIABLE = "FACEATTR_VIEWS"
_TOGETHER = 256


def drawn(views: Views, view: int, side: int) -> NDArray[np.uint8] | None:
    """One view of every row `(rows, side, side, 3)`, mapped into memory; None without a folder.

    It is drawn first where it is not there yet; of several processes one draws, the others wait.
    """
    if not (folder := os.environ.get(VIEWS_VARIABLE)):
        return None
    rows = len(views)
    facts = [views.rows.sha256, rows, asdict(views.augmentation), views.seed, views.plain]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = Path(folder) / f"{digest}-{side}-{view}.u8"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            temporary = path.with_suffix(".new")
            wanted = [
                [Wanted(row, view, side) for row in range(start, min(start + _TOGETHER, rows))]
                for start in range(0, rows, _TOGETHER)
            ]
            with temporary.open("wb") as out:
                # Drawing is the processors' work whatever the device.
                for batch in load(views, wanted, workers=os.cpu_count() or 1):
                    out.write(batch.pixels.numpy().data)
            temporary.replace(path)
    return np.memmap(path, np.uint8, "c", shape=(rows, side, side, 3))


class Replay:
    """Batches of drawn views, gathered on the device; views stay there while it has room."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._targets, self._device = torch.from_numpy(rows.targets), device
        self._kept: dict[int, Tensor] = {}

    def batches(self, view: NDArray[np.uint8], wanted: Sequence[list[Wanted]]) -> Iterator[Batch]:
        """What is wanted of one drawn view `(rows, S, S, 3)`."""
        pixels = self._on_device(view, wanted[0][0].view)
        for batch in wanted:
            places = torch.tensor([one.row for one in batch])
            mirrored = torch.tensor([one.mirrored for one in batch], device=self._device)
            found = pixels[places.to(self._device)]
            found = torch.where(mirrored[:, None, None, None], found.flip(2), found)
            numbers = torch.tensor([one.view for one in batch])
            yield Batch(found, self._targets[places], places, numbers)

    def _on_device(self, view: NDArray[np.uint8], number: int) -> Tensor:
        # Views of another size are over.
        self._kept = {n: t for n, t in self._kept.items() if t.shape == view.shape}
        if number in self._kept:
            return self._kept[number]
        pixels = torch.from_numpy(np.asarray(view)).to(self._device)
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            if free > total / 4:
                self._kept[number] = pixels
        return pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train views`."""
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True, help="whose views")
    parser.add_argument("--sides", type=int, nargs="+", required=True, help="in pixels")
    parser.add_argument("--views", type=int, default=8, help="of each row (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the views (%(default)s)")
    add_data_arguments(parser, device=False)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train views`."""
    views = Views(Rows(source_of(args), "train"), RECIPES[args.recipe]().augmentation, args.seed)
    for side in args.sides:
        for view in range(args.views):
            if drawn(views, view, side) is None:
                raise ValueError(f"{VIEWS_VARIABLE} must name the folder to keep views in")
            log.info("view %d of %d at %d pixels", view + 1, args.views, side)
