"""Store teachers' answers to augmented views of every training row, for students to replay.

    python -m train answers RUN/model --recipe faceattrnet --output runs/answers --data DATA

A view is a function of the recipe's augmentation, seed, row and number. For each, the mean of the
teachers' calibrated probabilities over the view and its mirror image is kept: 18 float16 numbers.
The same command goes on after a break, and does nothing once all is stored.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from faceattr import labels
from faceattr.backends.torch import fold_batch_norms
from faceattr.hub import find_weights
from faceattr.model import FaceAttributeModel, load_files
from train.config import Augmentation
from train.data.batches import Views, Wanted, load
from train.data.source import Rows, add_data_arguments, sha256, source_of
from train.device import choose_device, keep_freed_memory
from train.fit.checkpoint import only_run, write_atomically
from train.fit.signals import Stopped, collected_signals
from train.provenance import runs_behind
from train.recipes import RECIPES

log = logging.getLogger("train")
NUMBERS_NAME = "answers.f16"
FACTS_NAME = "answers.json"
WIDTH = sum(len(task.classes) for task in labels.TASKS)
_BATCH = {"cpu": 64, "cuda": 512}
_SAVE_EVERY = 16
"""Batches between two notes of how far the work is."""


class AnswersError(RuntimeError):
    """Stored answers are missing, unfinished or about something else."""


def facts_of(
    rows: Rows, augmentation: Augmentation, seed: int, views: int, teachers: Sequence[str]
) -> dict[str, Any]:
    """What answers are about; the canvas is left out, since teachers do not see it."""
    found = {
        "augmentation": asdict(replace(augmentation, canvas=0.0)),
        "seed": seed,
        "views": views,
        "rows": len(rows),
        "rows_sha256": rows.sha256,
        "teachers": list(teachers),
    }
    return dict(json.loads(json.dumps(found)))


class Answers:
    """Finished answers, mapped into memory: `views` of each row, drawn with `seed`.

    `facts` are those of `facts_of`, `runs` the provenance of the teachers and what is behind them.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder; `AnswersError` when it holds no answers, or not all of them."""
        try:
            stored = json.loads((folder / FACTS_NAME).read_text())
        except (OSError, ValueError) as error:
            raise AnswersError(
                f"{str(folder)!r} holds no stored answers; `python -m train answers` makes them"
            ) from error
        self.facts: dict[str, Any] = stored["facts"]
        self.runs: dict[str, Any] = stored["runs"]
        self.views, self.seed = int(self.facts["views"]), int(self.facts["seed"])
        total = self.views * self.facts["rows"]
        if stored["done"] != total or not _are_whole(folder, total):
            raise AnswersError(
                f"{str(folder)!r} holds {stored['done']} of {total} answers, or has lost "
                f"{NUMBERS_NAME}; the same `python -m train answers` command goes on"
            )
        self._numbers = _numbers(folder, self.views, self.facts["rows"], "r")

    def check(self, rows: Rows, augmentation: Augmentation) -> None:
        """Refuse rows or views other than those that were answered.

        Raises:
            AnswersError: naming what differs.
        """
        mine = facts_of(rows, augmentation, self.seed, self.views, self.facts["teachers"])
        if changed := [key for key in mine if mine[key] != self.facts[key]]:
            raise AnswersError(
                f"the stored answers are about another {' and '.join(changed)}; make them for "
                "this recipe and data set with `python -m train answers`"
            )

    def of(self, rows: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Probabilities `(N, classes)` by task of some rows' views."""
        chosen = torch.from_numpy(self._numbers[views.numpy(), rows.numpy()].astype(np.float32))
        sizes = [len(task.classes) for task in labels.TASKS]
        names = [task.name for task in labels.TASKS]
        return dict(zip(names, torch.split(chosen, sizes, 1), strict=True))


def _are_whole(folder: Path, total: int) -> bool:
    path = folder / NUMBERS_NAME
    return path.is_file() and path.stat().st_size == total * WIDTH * np.float16().itemsize


def _numbers(folder: Path, views: int, rows: int, mode: Any) -> NDArray[np.float16]:
    return np.memmap(folder / NUMBERS_NAME, np.float16, mode, shape=(views, rows, WIDTH))


def _mean_answer(
    teachers: Sequence[FaceAttributeModel], pixels: Sequence[Tensor], device: torch.device
) -> NDArray[np.float16]:
    """Mean probabilities `(N, 18)` over teachers and mirror images.

    From uint8 pixels `(N, S, S, 3)` for each teacher, in its own size.
    """
    parts = []
    with torch.inference_mode():
        for teacher, view in zip(teachers, pixels, strict=True):
            floats = view.to(device).permute(0, 3, 1, 2).float()
            images = teacher.config.preprocessing.normalize(floats)
            images = images.to(next(teacher.parameters()).dtype)
            found = teacher.probabilities(torch.cat([images, images.flip(3)]))
            both = torch.cat([found[task.name] for task in labels.TASKS], 1)
            parts.append(both.view(2, len(view), -1).mean(0))
    return torch.stack(parts).mean(0).cpu().numpy().astype(np.float16)


def store(
    folders: Sequence[Path],
    rows: Rows,
    augmentation: Augmentation,
    output: Path,
    *,
    seed: int = 0,
    views: int = 8,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
) -> bool:
    """Answer what is not answered yet; returns whether there was anything to do.

    Args:
        folders: weights of the teachers.
        rows: to be answered about.
        augmentation: of the students that will replay the answers.
        output: folder for the answers.
        seed: of the views.
        views: of each row.
        device: where to compute.

    Raises:
        AnswersError: when the folder holds answers about something else.
        Stopped: on SIGTERM or SIGINT, with what is done kept.
    """
    files = [find_weights(folder) for folder in folders]
    facts = facts_of(rows, augmentation, seed, views, [sha256(f.weights) for f in files])
    output.mkdir(parents=True, exist_ok=True)
    place, total = output / FACTS_NAME, views * len(rows)
    stored = {"facts": facts, "runs": runs_behind(folders), "done": 0, "seconds": 0.0}
    if place.is_file():
        stored = json.loads(place.read_text())
        if changed := [key for key in facts if facts[key] != stored["facts"].get(key)]:
            raise AnswersError(
                f"{str(output)!r} holds answers about another {' and '.join(changed)}; choose "
                "another folder"
            )
    if not _are_whole(output, total):
        stored |= {"done": 0, "seconds": 0.0}
    if stored["done"] == total:
        return False
    models = [fold_batch_norms(load_files(file)).to(device) for file in files]
    models = [model.to(memory_format=torch.channels_last) for model in models]
    if device.type == "cuda":
        # As precise as the answers are stored.
        models = [model.half() for model in models]
    numbers = _numbers(output, views, len(rows), "r+" if stored["done"] else "w+")
    source = Views(rows, augmentation, seed, plain=True)
    _answer_rest(models, source, numbers, stored, place, device)
    return True


def _answer_rest(
    models: Sequence[FaceAttributeModel],
    source: Views,
    numbers: NDArray[np.float16],
    stored: dict[str, Any],
    place: Path,
    device: torch.device,
) -> None:
    """Fill in the numbers from `stored["done"]` on, row after row of view after view."""
    views, rows = numbers.shape[:2]
    size = _BATCH[device.type]
    # Another device may have stopped anywhere in a view.
    first, begun = divmod(stored["done"], rows)
    batches = [
        [(view, row) for row in range(start, min(start + size, rows))]
        for view in range(first, views)
        for start in range(begun if view == first else 0, rows, size)
    ]
    sides = [model.config.preprocessing.image_size for model in models]
    distinct = sorted(set(sides))
    loaders = []
    for side in distinct:
        wanted = [[Wanted(row, view, side) for view, row in batch] for batch in batches]
        loaders.append(load(source, wanted, device))
    title = f"{views} views of {rows} rows"
    started, before = time.monotonic(), stored["seconds"]

    def note() -> None:
        np.memmap.flush(numbers)  # type: ignore[arg-type]
        stored["seconds"] = round(before + time.monotonic() - started, 1)
        write_atomically(place, json.dumps(stored).encode())

    bar = tqdm(total=len(batches), desc=title, disable=not sys.stderr.isatty())
    with collected_signals() as signals, bar:
        for count, (batch, *found) in enumerate(zip(batches, *loaders, strict=True), start=1):
            view, row = batch[0]
            pixels = dict(zip(distinct, (one.pixels for one in found), strict=True))
            answers = _mean_answer(models, [pixels[side] for side in sides], device)
            numbers[view, row : row + len(batch)] = answers
            stored["done"] += len(batch)
            bar.update()
            if count % _SAVE_EVERY == 0 or signals or count == len(batches):
                note()
            if signals and count < len(batches):
                raise Stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train answers`."""
    parser.add_argument("teachers", type=Path, nargs="+", help="model/ folders of finished runs")
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True, help="whose views")
    parser.add_argument("--output", type=Path, required=True, help="folder for the answers")
    parser.add_argument("--seed", type=int, default=0, help="of the views (%(default)s)")
    parser.add_argument("--views", type=int, default=8, help="of each row (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="only so many rows, for trying")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train answers`."""
    if args.views < 1 or (args.limit is not None and args.limit < 1):
        raise ValueError("--views and --limit must be at least 1")
    keep_freed_memory()
    rows = Rows(source_of(args), "train", args.limit)
    views = RECIPES[args.recipe]().augmentation
    more = {"seed": args.seed, "views": args.views, "device": choose_device(args.device)}
    with only_run(args.output):
        done = store(args.teachers, rows, views, args.output, **more)
    log.info("%s -> %s", "answers" if done else "nothing to do: all answers", args.output)
