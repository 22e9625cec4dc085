"""Search the settings of a short taught run with Optuna; every trial is kept.

    python -m train search --answers runs/answers --output runs/search.journal --data DATA

The journal in --output is the study: the same command goes on where the last one ended, and several
at once share the trials (on CPUs one a core, with OMP_NUM_THREADS=1). A trial is a short run of the
small student on stored answers, judged by the sum of the three calibrated losses on the holdout,
and pruned when it falls behind the median of the others. --summary gets the finished trials, the
importance of each setting and a table, and a figure beside it.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from train.answers import Answers
from train.config import Distillation, Recipe, Stage
from train.data.source import add_data_arguments, source_of
from train.device import choose_device
from train.fit.settings import Settings, TrainingError
from train.fit.trainer import Trainer
from train.recipes import faceattrnet
from train.report.plots import Figure, canvas_of
from train.tables import markdown_table, rounded, write_json, write_text

log = logging.getLogger("train")
EPOCHS, BATCH = 4, 128
ENOUGH = 8
"""Finished trials before it makes sense to say which settings mattered."""


def suggest(trial: optuna.Trial, side: int) -> Recipe:
    """A short `faceattrnet` with the trial's settings."""
    gender = trial.suggest_float("gender", 1.0, 5.0, log=True)
    return replace(
        faceattrnet(),
        name=f"search-{trial.number}",
        epochs=EPOCHS,
        stages=(Stage(0, side),),
        batch_size=BATCH,
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        mixup=trial.suggest_float("mixup", 0.0, 0.5),
        loss_weights={"gender": gender, "race": trial.suggest_float("race", 0.7, 2.0), "age": 0.7},
        distillation=Distillation(
            weight=trial.suggest_float("answers", 0.5, 1.0),
            temperature=trial.suggest_float("temperature", 1.0, 4.0),
        ),
    )


def objective(trial: optuna.Trial, settings: Settings, side: int) -> float:
    """Sum of the calibrated holdout losses in nats after a short run."""
    loss = math.inf

    def tell(entry: dict[str, Any]) -> None:
        nonlocal loss
        loss = entry["score"]
        trial.report(loss, entry["epoch"])
        if entry["epoch"] < EPOCHS and trial.should_prune():
            raise optuna.TrialPruned

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(suggest(trial, side), replace(settings, output=Path(folder)))
        trainer.run(tell)
    trial.set_user_attr("accuracy", trainer.history[-1]["holdout_accuracy"])
    return loss


def summarise(study: optuna.Study) -> dict[str, Any]:
    """Each trial's settings and result, best first, and which settings mattered."""
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    importance: dict[str, float] = {}
    if len(finished) >= ENOUGH:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importance = optuna.importance.get_param_importances(study, evaluator=evaluator)
    trials = [
        {"number": t.number, "loss": t.value, **t.params, "accuracy": t.user_attrs["accuracy"]}
        for t in sorted(finished, key=lambda t: float(t.value or 0))
    ]
    pruned = sum(t.state == TrialState.PRUNED for t in study.trials)
    facts = {**study.user_attrs, "finished": len(finished), "pruned": pruned}
    return dict(rounded({**facts, "importance": dict(importance), "trials": trials}))


def write(summary: dict[str, Any], path: Path) -> None:
    """The summary as JSON, and as a table and a figure of the importances beside it."""
    write_json(path, summary)
    names = sorted(summary["importance"], key=lambda name: -float(summary["importance"][name]))
    best = summary["trials"][0]
    rows = [[n, f"{summary['importance'][n]:.2f}", f"{best[n]:.3g}"] for n in names]
    write_text(path.with_suffix(".md"), markdown_table(["", "Importance", "Best"], rows) + "\n")
    if not names:
        return
    values = {name: summary["importance"][name] for name in names}

    def draw() -> Any:
        canvas = canvas_of(6, 3)
        axes = canvas.subplots()
        axes.barh(names[::-1], [values[name] for name in names[::-1]])
        axes.set_xlabel("share of the variance of the loss (fANOVA)")
        return canvas

    title = f"What mattered in {summary['finished']} trials"
    alt = "; ".join(f"{name} {value:.2f}" for name, value in values.items())
    Figure(path.stem, title, alt, values, draw).save(path.parent)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train search`."""
    parser.add_argument("--output", type=Path, required=True, help="journal file of the study")
    parser.add_argument("--answers", type=Path, required=True, help="stored answers to learn from")
    parser.add_argument("--trials", type=int, default=24, help="in all (%(default)s)")
    parser.add_argument("--side", type=int, default=64, help="input side (%(default)s)")
    parser.add_argument("--summary", type=Path, required=True, help="JSON file to write")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train search`."""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    device, source = choose_device(args.device), source_of(args)
    settings = Settings(args.output, source, device=device, answers=args.answers)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(args.output))),
        study_name="faceattr",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    # Not seeded: each continuation and each process at its side must draw something else.
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=8)
    facts = {"epochs": EPOCHS, "side": args.side, "answers": Answers(args.answers).facts}
    if changed := [n for n in facts if study.user_attrs.get(n, facts[n]) != facts[n]]:
        raise ValueError(
            f"the study was made with another {' and '.join(changed)}; give another --output"
        )
    for name, value in facts.items():
        study.set_user_attr(name, value)
    # Trials that were interrupted count as nothing and are drawn anew.
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    study.optimize(
        lambda trial: objective(trial, settings, args.side),
        n_trials=max(0, args.trials - len(study.get_trials(states=ended))),
        catch=(TrainingError,),
        callbacks=[MaxTrialsCallback(args.trials, ended)],
    )
    if not study.get_trials(states=(TrialState.COMPLETE,)):
        raise TrainingError("no trial finished; the lines above say why")
    write(summarise(study), args.summary)
    log.info("best of %d trials: %s -> %s", len(study.trials), study.best_params, args.summary)
