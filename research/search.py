"""Search the settings that matter most with Optuna; every finished trial is kept.

The journal in --output is the study: the same command goes on where the last one ended. Trials
are short runs on small pictures, judged by the sum of the three holdout losses after temperature
scaling, and pruned when they fall behind the median of the others. The summary goes to
docs/experiments/search.json, from which `python -m train experiments` makes its table.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from research.catalogue import BASELINE, RESULTS, SEARCH_NAME
from train.data.source import add_data_arguments, count_rows, source_of
from train.fit.device import choose_device, choose_precision, hardware
from train.fit.trainer import Settings, Trainer, TrainingError
from train.recipe import LIGHT, Augmentation, Recipe
from train.tables import rounded, write_json

log = logging.getLogger("train")
STUDY = "faceattr"
EPOCHS = 3
ENOUGH = 10
"""Finished trials before it makes sense to say which settings mattered."""
GEOMETRY = ("rotation", "scale", "shift")
COLOUR = ("brightness", "contrast", "saturation")


def scaled(augmentation: Augmentation, geometry: float, colour: float) -> Augmentation:
    """The augmentation with its geometric and colour amounts multiplied."""
    factors = dict.fromkeys(GEOMETRY, geometry) | dict.fromkeys(COLOUR, colour)
    return replace(
        augmentation, **{name: getattr(augmentation, name) * f for name, f in factors.items()}
    )


def suggest(trial: optuna.Trial) -> Recipe:
    """The baseline of the experiments with the trial's settings."""
    augmentation = scaled(
        LIGHT, trial.suggest_float("geometry", 0.25, 2.0), trial.suggest_float("colour", 0.0, 2.0)
    )
    return replace(
        BASELINE,
        name=f"search-{trial.number}",
        epochs=EPOCHS,
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.1),
        augmentation=replace(augmentation, erase=trial.suggest_float("erase", 0.0, 0.4)),
    )


def objective(trial: optuna.Trial, settings: Settings) -> float:
    """Sum of the holdout losses in nats, after temperature scaling, of a short run."""
    loss = math.inf

    def report(entry: dict[str, Any]) -> None:
        nonlocal loss
        loss = trainer.measure(entry["image_size"]).score()
        trial.report(loss, entry["epoch"])
        if entry["epoch"] < EPOCHS and trial.should_prune():
            raise optuna.TrialPruned

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(suggest(trial), replace(settings, output=Path(folder)))
        trainer.run(report)
    trial.set_user_attr("accuracy", trainer.history[-1]["holdout_accuracy"])
    return loss


def check_study(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    """Refuse to go on with a study of other runs; mark a new one.

    Raises:
        ValueError: naming what differs.
    """
    stored = study.user_attrs
    if not stored and not study.trials:
        for name, value in facts.items():
            study.set_user_attr(name, value)
    elif changed := [name for name in facts if stored.get(name) != facts[name]]:
        raise ValueError(
            f"the study was made with another {' and '.join(changed)}; give another --output"
        )


def summarise(study: optuna.Study, machine: str) -> dict[str, Any]:
    """What the page shows: each trial's settings and result, and which settings mattered."""
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    importance: dict[str, float] = {}
    if len(finished) >= ENOUGH:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return dict(
        rounded(
            {
                "command": "python -m train search",
                "epochs": EPOCHS,
                "hardware": machine,
                **study.user_attrs,
                "finished": len(finished),
                "pruned": sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials),
                "importance": dict(importance),
                "trials": [
                    {
                        "number": t.number,
                        "loss": t.value,
                        "settings": t.params,
                        "accuracy": t.user_attrs["accuracy"],
                    }
                    for t in sorted(finished, key=lambda t: float(t.value or 0))
                ],
            }
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train search`."""
    parser.add_argument("--output", type=Path, required=True, help="journal file of the study")
    parser.add_argument("--trials", type=int, default=20, help="to add to it (%(default)s)")
    parser.add_argument(
        "--summary", type=Path, default=RESULTS / SEARCH_NAME, help="JSON file (%(default)s)"
    )
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train search`."""
    if args.trials < 0:
        raise ValueError("--trials must not be below 0")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    device = choose_device(args.device)
    settings = Settings(args.output, source_of(args), device=device, cache_memory=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(args.output))),
        study_name=STUDY,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    # Another seed for each continuation, or its first draws would repeat those of the first.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=6, seed=len(study.trials))
    facts = {
        "baseline": json.loads(json.dumps(replace(BASELINE, epochs=EPOCHS).to_dict())),
        "dataset": settings.source.describe("train", count_rows(settings.source, "train")),
        "precision": choose_precision(device),
    }
    check_study(study, facts)
    study.optimize(
        lambda trial: objective(trial, settings), n_trials=args.trials, catch=(TrainingError,)
    )
    if any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials):
        write_json(args.summary, summarise(study, hardware(device)))
        log.info("best %s -> %s", study.best_params, args.summary)
