"""Train a network by a named recipe, with checkpoints that a later call can go on from."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from train.checkpoint import load_checkpoint
from train.device import Precision, choose_device
from train.loop import Settings, fit
from train.recipe import RECIPES
from train.samples import add_data_arguments, source_of

log = logging.getLogger("train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train fit`."""
    described = "; ".join(
        f"{name}: {(recipe.__doc__ or '').splitlines()[0]}" for name, recipe in RECIPES.items()
    )
    parser.add_argument(
        "--recipe", choices=sorted(RECIPES), default="ours", help=f"{described} (%(default)s)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of this run")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, order and augmentation (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument(
        "--cache",
        choices=["none", "memory"],
        default="none",
        help="keep decoded pictures in memory after the first epoch (same results, faster)",
    )
    parser.add_argument(
        "--checkpoint-every", type=int, default=200, metavar="STEPS", help="(%(default)s)"
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
    if args.checkpoint_every < 1:
        raise ValueError("--checkpoint-every must be at least 1")
    if args.resume and args.data_revision is None:
        # The Hub's newest commit may be another one by now.
        args.data_revision = load_checkpoint(args.output)["identity"]["data"]["revision"]
    settings = Settings(
        output=args.output,
        source=source_of(args),
        seed=args.seed,
        device=choose_device(args.device),
        cache_memory=args.cache == "memory",
        checkpoint_every=args.checkpoint_every,
        resume=args.resume,
        teachers=tuple(args.teacher),
        start=args.start,
        precision=args.precision,
        compile=args.compile,
    )
    folder = fit(RECIPES[args.recipe](), settings)
    log.info("weights -> %s", folder)
