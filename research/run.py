"""Runs of `research.catalogue`: train what has no result yet."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from research.catalogue import EXPERIMENTS, RESULTS, Experiment
from train.data.source import source_of
from train.fit.checkpoint import write_atomically
from train.fit.device import choose_device, hardware
from train.fit.trainer import Settings, Trainer, origin_facts, versions

log = logging.getLogger("train")


def run_one(experiment: Experiment, settings: Settings) -> dict[str, Any]:
    """Train and measure; the JSON-ready result, of the last epoch's weights."""
    started = time.process_time()
    trainer = Trainer(experiment.recipe, settings)
    trainer.run()
    side = experiment.recipe.image_size
    plain, flipped = trainer.measure(side), trainer.measure(side, flip=True)
    return {
        "name": experiment.name,
        "seed": settings.seed,
        "recipe": experiment.recipe.to_dict(),
        "accuracy": plain.accuracy,
        "loss": plain.calibrated_losses(),
        "accuracy_flip": flipped.accuracy,
        "train_loss": trainer.history[-1]["train_loss"],
        "cpu_seconds": round(time.process_time() - started),
        "hardware": hardware(settings.device),
        "precision": trainer.precision,
        "versions": versions(),
        "dataset": settings.source.describe("train", trainer.row_count),
        "teachers": [origin_facts(teacher.config) for teacher in trainer.teachers],
        "git_commit": trainer.git_commit,
        "training_rows": trainer.row_count,
        "holdout_rows": len(trainer.holdout),
    }


def run_missing(names: Iterable[str], seeds: Iterable[int], settings: Settings) -> None:
    """Train each experiment and seed without a result; one JSON file each in `RESULTS`."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in names:
            target = RESULTS / f"{name}-{seed}.json"
            experiment = EXPERIMENTS[name]
            if target.exists():
                continue
            if experiment.recipe.distillation and not settings.teachers:
                log.info("%s is left out: it needs --teacher", name)
                continue
            teachers = settings.teachers if experiment.recipe.distillation else ()
            with tempfile.TemporaryDirectory() as folder:
                own = replace(settings, output=Path(folder), seed=seed, teachers=teachers)
                result = run_one(experiment, own)
            write_atomically(target, (json.dumps(result, indent=1) + "\n").encode())
            log.info("%s, seed %d: %s", name, seed, result["accuracy"])


def run_from(args: argparse.Namespace) -> None:
    """Train what the options of `python -m train experiments --run` ask for."""
    settings = Settings(
        output=Path(),
        source=source_of(args),
        device=choose_device(args.device),
        cache_memory=True,
        teachers=tuple(args.teacher),
    )
    if any(EXPERIMENTS[n].recipe.distillation for n in args.only or ()) and not args.teacher:
        raise ValueError("distillation needs --teacher FOLDER")
    run_missing(args.only or EXPERIMENTS, args.seeds or [0, 1], settings)
