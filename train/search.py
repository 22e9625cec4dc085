"""Search the settings that matter most with Optuna; every finished trial is kept.

The journal in --output is the study: the same command goes on where the last one ended. Trials
are short runs on small pictures, judged by the sum of the three holdout losses, and pruned when
they fall behind the median of the others. The summary goes to docs/experiments/search.json, from
which `python -m train experiments` makes its table.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from train.device import choose_device, hardware
from train.experiments import BASELINE, LIGHT, RESULTS, SEARCH_NAME
from train.loop import Settings, Trainer
from train.recipe import Augmentation, Recipe
from train.samples import add_data_arguments, source_of
from train.tables import rounded, write_json

log = logging.getLogger("train")
STUDY = "faceattr"
EPOCHS = 3
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
    """Sum of the holdout losses in nats after a short run."""

    def report(entry: dict[str, Any]) -> None:
        trial.report(sum(entry["holdout_loss"].values()), entry["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(suggest(trial), replace(settings, output=Path(folder)))
        trainer.run(report)
    last = trainer.history[-1]
    trial.set_user_attr("accuracy", last["holdout_accuracy"])
    return float(sum(last["holdout_loss"].values()))


def summarise(study: optuna.Study, machine: str) -> dict[str, Any]:
    """What the page shows: each trial's settings and result, and which settings mattered."""
    finished = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    importance = optuna.importance.get_param_importances(study) if len(finished) > 3 else {}
    return dict(
        rounded(
            {
                "command": "python -m train search",
                "epochs": EPOCHS,
                "hardware": machine,
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
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    # Another seed for each continuation, or its first draws would repeat those of the first.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=6, seed=len(study.trials))
    study.optimize(lambda trial: objective(trial, settings), n_trials=args.trials)
    if any(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials):
        write_json(args.summary, summarise(study, hardware(device)))
        log.info("best %s -> %s", study.best_params, args.summary)
