"""Train a network by a named recipe, with checkpoints that a later call can go on from.

Several processes train as one, each on its part of every batch:
torchrun --nproc-per-node N -m train fit ...
"""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist

from train.config import Recipe
from train.data.source import add_data_arguments, source_of
from train.device import Precision, choose_device
from train.fit.checkpoint import CheckpointError, checkpoints, only_run
from train.fit.settings import Settings
from train.fit.trainer import Trainer
from train.recipes import RECIPES

log = logging.getLogger("train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train fit`."""
    docs = {name: getattr(recipe, "func", recipe).__doc__ for name, recipe in RECIPES.items()}
    described = "; ".join(f"{name}: {(text or '').splitlines()[0]}" for name, text in docs.items())
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True, help=described)
    parser.add_argument("--output", type=Path, required=True, help="folder of this run")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--checkpoint-every", type=int, default=200, metavar="STEPS", help="(200)")
    parser.add_argument("--answers", type=Path, metavar="FOLDER", help="of teachers, where needed")
    parser.add_argument("--limit", type=int, metavar="N", help="only so many rows, for trying")
    parser.add_argument("--precision", choices=get_args(Precision), help="of the forward pass")
    add_data_arguments(parser)


def join(device: torch.device) -> tuple[int, int, torch.device]:
    """Join the processes that torchrun started: own place, number, and own device."""
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), world, device


def fit(recipe: Recipe, settings: Settings) -> Path:
    """Train by a recipe and return the weights folder, `settings.output / "model"`.

    Raises:
        CheckpointError: when `output` holds a run and `resume` is off, when it does not fit, or
            while another process trains there.
        Stopped: when a signal ended the run; `resume` goes on.
    """
    with only_run(settings.output) if settings.is_first else nullcontext():
        if settings.is_first and checkpoints(settings.output) and not settings.resume:
            raise CheckpointError(
                f"{settings.output} already holds a run; add --resume to go on, or choose another"
            )
        trainer = Trainer(recipe, settings)
        if settings.resume:
            trainer.resume()
        return trainer.run()


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train fit`."""
    rank, world, device = join(choose_device(args.device))
    given: dict[str, Any] = {f.name: getattr(args, f.name, None) for f in fields(Settings)}
    try:
        given |= {"source": source_of(args), "device": device, "rank": rank, "world": world}
        folder = fit(RECIPES[args.recipe](), Settings(**given))
    finally:
        if world > 1:
            dist.destroy_process_group()
    if rank == 0:
        log.info("weights -> %s", folder)
