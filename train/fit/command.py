"""Train a network by a named recipe, with checkpoints that a later call can go on from.

Several processes train as one, each on its part of every batch:
torchrun --nproc-per-node N -m train fit ...
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from train.data.source import add_data_arguments, source_of
from train.fit.checkpoint import KEEP, load_checkpoint
from train.fit.device import Precision, choose_device
from train.fit.parallel import join, leave
from train.fit.trainer import Settings, fit
from train.recipe import RECIPES

log = logging.getLogger("train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train fit`."""
    described = "; ".join(
        f"{name}: {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), required=True, help=described)
    parser.add_argument("--output", type=Path, required=True, help="folder of this run")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--from-previous",
        action="store_true",
        help="with --resume: go on from the checkpoint before, for when the newest is damaged",
    )
    parser.add_argument(
        "--cache",
        choices=["none", "memory"],
        default="none",
        help="keep decoded pictures in memory after the first epoch (same results, faster); 38 kB "
        "each for inputs of up to 112 pixels, 150 kB above",
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=200, metavar="STEPS", help="(%(default)s)"
    )
    parser.add_argument(
        "--keep", type=int, default=KEEP, metavar="N", help="checkpoints to keep (%(default)s)"
    )
    parser.add_argument(
        "--max-skipped",
        type=int,
        default=10,
        metavar="N",
        help="rows whose picture does not decode that the run may leave out (%(default)s)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="weights to learn from, for recipes with distillation; may be repeated",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FOLDER",
        help="weights to start from, for recipes that continue a finished run",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of the forward pass; by default bfloat16 where the device multiplies it natively",
    )
    parser.add_argument("--compile", action="store_true", help="speed up with torch.compile")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train fit`."""
    if min(args.checkpoint_every, args.keep) < 1 or args.max_skipped < 0:
        raise ValueError(
            "--checkpoint-every and --keep must be at least 1, --max-skipped not below 0"
        )
    if args.from_previous and not args.resume:
        raise ValueError("--from-previous goes with --resume")
    group, device = join(choose_device(args.device))
    try:
        if args.resume and args.data_revision is None:
            args.data_revision = group.from_first(_revision(args) if group.is_first else None)
        settings = Settings(
            output=args.output,
            source=source_of(args),
            seed=args.seed,
            device=device,
            cache_memory=args.cache == "memory",
            checkpoint_every=args.checkpoint_every,
            resume=args.resume,
            teachers=tuple(args.teacher),
            start=args.start,
            precision=args.precision,
            compile=args.compile,
            from_previous=args.from_previous,
            keep=args.keep,
            max_skipped=args.max_skipped,
            group=group,
        )
        folder = fit(RECIPES[args.recipe](), settings)
    finally:
        leave(group)
    if group.is_first:
        log.info("weights -> %s", folder)


def _revision(args: argparse.Namespace) -> str | None:
    """The commit that the run has read so far; the Hub's newest may be another by now."""
    state = load_checkpoint(args.output, previous=args.from_previous)
    revision: str | None = state["identity"]["data"]["revision"]
    return revision
