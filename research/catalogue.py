"""One change at a time against a fixed baseline, on the holdout.

`python -m train experiments --run --data ...` trains what has no result yet; without `--run` the
results in the tree become docs/experiments.md. A run is a short one on small pictures: it ranks
changes, it does not say how good a long run gets.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

from faceattr import labels
from faceattr.labels import AGE, GENDER, RACE
from train.data.source import add_data_arguments
from train.recipe import (
    LIGHT,
    RECIPES,
    Augmentation,
    Distillation,
    Recipe,
    Stage,
    ours,
    with_defaults,
)
from train.report.procedure import lineage
from train.report.sections import TITLES
from train.tables import TableError, markdown_table, read_json, write_text

log = logging.getLogger("train")

ORDER = (GENDER, RACE, AGE)
TEMPLATE = Path(__file__).with_name("experiments_template.md")
BUNDLED = Path(__file__).parents[1] / "faceattr" / "weights"
SEARCH_NAME = "search.json"
AIMS = {
    "FaceAttrNet": {"gender": 0.92, "race": 0.66, "age": 0.55},
    "LightweightMTLNet224": {"gender": 0.91, "race": 0.64, "age": 0.535},
}
"""What the project set out to reach on the validation rows."""

CALIBRATION_AIM = 0.02
RESULTS = Path("docs/experiments")
PAGE = Path("docs/experiments.md")
BASELINE = Recipe(
    name="baseline",
    epochs=4,
    batch_size=128,
    architecture="FaceAttrNet",
    learning_rate=3e-3,
    weight_decay=0.02,
    schedule="cosine",
    warmup_epochs=0.5,
    ema_decay=0.995,
    augmentation=LIGHT,
    stages=(Stage(0, 48),),
)


@dataclass(frozen=True)
class Experiment:
    """One change to the baseline.

    Attributes:
        name: short, unique; results are kept under it.
        group: heading on the page.
        change: what differs from the baseline, in words.
        recipe: the baseline with that change.
    """

    name: str
    group: str
    change: str
    recipe: Recipe


def _augmented(name: str, change: str, **values: float) -> Experiment:
    recipe = replace(BASELINE, name=name, augmentation=replace(LIGHT, **values))
    return Experiment(name, "Augmentation", change, recipe)


def _changed(name: str, group: str, change: str, **values: Any) -> Experiment:
    return Experiment(name, group, change, replace(BASELINE, name=name, **values))


def _all() -> list[Experiment]:
    labels_, schedule, network = "Targets and losses", "Optimisation", "Network and input"
    return [
        Experiment("baseline", "Baseline", "none", BASELINE),
        _changed("epochs-8", schedule, "twice as many epochs", epochs=8),
        _changed("no-augmentation", "Augmentation", "none at all", augmentation=Augmentation()),
        _augmented(
            "crop-jitter",
            "rotation 15°, zoom ±15 %, shift 8 %",
            rotation=15,
            scale=0.15,
            shift=0.08,
        ),
        _augmented("no-geometry", "mirror only", rotation=0, scale=0, shift=0),
        _augmented("no-colour", "no colour changes", brightness=0, contrast=0, saturation=0),
        _augmented("strong-colour", "colour ±40 %", brightness=0.4, contrast=0.4, saturation=0.4),
        _augmented("erase", "random erasing, probability 0.3", erase=0.3),
        _augmented("degrade", "JPEG, blur, low resolution, 0.15 each", degrade=0.15),
        _changed("smooth-0.05", labels_, "label smoothing 0.05", label_smoothing=0.05),
        _changed("smooth-0.1", labels_, "label smoothing 0.1", label_smoothing=0.1),
        _changed("age-spread", labels_, "age labels shared with neighbours, σ 0.6", age_spread=0.6),
        _changed("mixup", labels_, "mixup, α 0.2", mixup=0.2),
        _changed("balance", labels_, "class weights, count^-0.5", class_balance=0.5),
        _changed("race-weight", labels_, "race loss counts double", loss_weights={"race": 2.0}),
        _changed("no-ema", schedule, "no averaging of weights", ema_decay=None),
        _changed(
            "tail-average",
            schedule,
            "mean of the last 2 epochs, no EMA",
            ema_decay=None,
            average_epochs=2,
        ),
        _changed("batch-64", schedule, "batch 64, rate 2e-3", batch_size=64, learning_rate=2e-3),
        _changed("batch-256", schedule, "batch 256, rate 4e-3", batch_size=256, learning_rate=4e-3),
        _changed(
            "sgd",
            schedule,
            "SGD, rate 0.2, decay 1e-4",
            optimizer="sgd",
            learning_rate=0.2,
            weight_decay=1e-4,
        ),
        _changed("rate-6e-3", schedule, "learning rate 6e-3", learning_rate=6e-3),
        _changed("decay-0.1", schedule, "weight decay 0.1", weight_decay=0.1),
        _changed("size-64", network, "64-pixel pictures", stages=(Stage(0, 64),)),
        _changed(
            "lightweight", network, "LightweightMTLNet224", architecture="LightweightMTLNet224"
        ),
        _changed("mean-pool", network, "mean instead of learned pooling", sizes={"pool": 1}),
        _changed(
            "distilled",
            labels_,
            "distilled from the teacher, weight 0.7, T 2",
            distillation=Distillation(),
        ),
    ]


EXPERIMENTS = {experiment.name: experiment for experiment in _all()}


def _in_ours() -> dict[str, str]:
    """What of a change the recipe `ours` has; nothing of the others."""
    recipe = ours()
    found = recipe.augmentation
    return {
        "epochs-8": f"{recipe.epochs} epochs",
        "crop-jitter": f"{found.rotation:g}°, ±{100 * found.scale:.0f} %, "
        f"{100 * found.shift:.0f} %",
        "strong-colour": f"±{100 * found.brightness:.0f} %",
        "erase": f"at {found.erase:g}",
        "degrade": f"at {found.degrade:g}",
        "size-64": ", then ".join(str(stage.image_size) for stage in recipe.stages),
        "distilled": "yes" if recipe.distillation else "no",
    }


IN_OURS = _in_ours()


def load_results(folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Results by experiment, seeds in order.

    Raises:
        TableError: for a result of a recipe that has changed since.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == SEARCH_NAME:
            continue
        result = read_json(path)
        known = EXPERIMENTS.get(result["name"])
        recorded = with_defaults(result["recipe"])
        if known is None or recorded != json.loads(json.dumps(known.recipe.to_dict())):
            raise TableError(
                f"{path} is the result of another recipe than research/catalogue.py has now; "
                "delete it and run again"
            )
        found.setdefault(result["name"], []).append(result)
    return found


def _mean(results: list[dict[str, Any]], section: str, task: str) -> float:
    return statistics.fmean(float(result[section][task]) for result in results)


def _average(results: list[dict[str, Any]], section: str) -> float:
    return statistics.fmean(_mean(results, section, task.name) for task in labels.TASKS)


def seed_spread(results: list[dict[str, Any]], task: str) -> float:
    """Standard deviation of a task's accuracy over seeds of one recipe.

    Raises:
        TableError: for fewer than two seeds.
    """
    if len(results) < 2:
        raise TableError("the baseline needs at least two seeds to say what is noise")
    return statistics.stdev(float(result["accuracy"][task]) for result in results)


def _gain(found: list[dict[str, Any]], base: list[dict[str, Any]], task: str) -> str:
    gain = 100 * (_mean(found, "accuracy", task) - _mean(base, "accuracy", task))
    error = 100 * seed_spread(base, task) * math.sqrt(1 / len(found) + 1 / len(base))
    return f"{gain:+.1f} ± {error:.1f}"


def _change_row(
    experiment: Experiment, found: list[dict[str, Any]], base: list[dict[str, Any]]
) -> list[str]:
    loss = _average(found, "loss") - _average(base, "loss")
    cost = statistics.fmean(r["cpu_seconds"] for r in found) / statistics.fmean(
        r["cpu_seconds"] for r in base
    )
    gains = [_gain(found, base, task.name) for task in ORDER]
    return [
        experiment.change,
        str(len(found)),
        *gains,
        f"{loss:+.3f}",
        _effect(loss, found, base),
        IN_OURS.get(experiment.name, "no"),
        f"{cost:.1f}",
    ]


def _effect(loss: float, found: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """Better or worse where the loss changed by twice its standard error over seeds."""
    each = [_average([result], "loss") for result in base]
    error = statistics.stdev(each) * math.sqrt(1 / len(found) + 1 / len(base))
    if abs(loss) < 2 * error:
        return "unclear"
    return "better" if loss < 0 else "worse"


def changes_section(results: dict[str, list[dict[str, Any]]]) -> str:
    """A table for each group of changes."""
    base = results["baseline"]
    header = [
        "Change",
        "Seeds",
        "Gender",
        "Race",
        "Age group",
        "Loss, nats",
        "Effect",
        "In `ours`",
        "CPU ×",
    ]
    parts = []
    for group in dict.fromkeys(e.group for e in EXPERIMENTS.values()):
        rows = [
            _change_row(experiment, results[name], base)
            for name, experiment in EXPERIMENTS.items()
            if experiment.group == group and name in results and name != "baseline"
        ]
        if rows:
            parts.append(f"### {group}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def baseline_section(base: list[dict[str, Any]]) -> str:
    """What the changes are compared with, and how much it varies by itself."""
    rows = [
        [
            TITLES[task.name],
            f"{100 * _mean(base, 'accuracy', task.name):.2f}",
            f"{100 * seed_spread(base, task.name):.2f}",
            f"{_mean(base, 'loss', task.name):.4f}",
        ]
        for task in ORDER
    ]
    return markdown_table(["", "Accuracy %", "Deviation over seeds", "Loss, nats"], rows)


def repeats_section(base: list[dict[str, Any]], repeats: list[dict[str, Any]]) -> str:
    """The baseline's losses as they were, and with the code as it was later."""

    def losses(found: list[dict[str, Any]]) -> str:
        return " and ".join(f"{_average([one], 'loss'):.4f}" for one in found) + " nats"

    if not repeats:
        return "The baseline was not repeated with later code."
    return f"Repeated with it, the baseline has {losses(repeats)}; before, {losses(base)}."


def noise_section(base: list[dict[str, Any]]) -> str:
    """Standard error of an accuracy on the holdout, by task, in words."""
    rows = base[0]["holdout_rows"]
    errors = []
    for task in ORDER:
        share = _mean(base, "accuracy", task.name)
        errors.append(f"{100 * math.sqrt(share * (1 - share) / rows):.1f} ({task.name})")
    return ", ".join(errors)


def flip_section(results: dict[str, list[dict[str, Any]]]) -> str:
    """What averaging with the mirror image gives, over all runs."""
    runs = [result for found in results.values() for result in found]
    rows = []
    for task in ORDER:
        gains = [100 * (r["accuracy_flip"][task.name] - r["accuracy"][task.name]) for r in runs]
        rows.append(
            [
                TITLES[task.name],
                str(len(gains)),
                f"{statistics.fmean(gains):+.2f}",
                f"{min(gains):+.2f} to {max(gains):+.2f}",
            ]
        )
    return markdown_table(["", "Runs", "Mean gain, points", "Range"], rows)


def search_section(summary: Mapping[str, Any]) -> str:
    """The best and the worst trials of the search, and what mattered."""
    trials = list(summary["trials"])
    shown = trials[:5] + trials[5:][-2:]
    which = "They are" if len(trials) <= 5 else "The best five and the last in rank"
    names = list(trials[0]["settings"])
    header = ["Trial", "Loss, nats", *(name.replace("_", " ") for name in names)]
    rows = [
        [str(t["number"]), f"{t['loss']:.3f}", *(f"{t['settings'][name]:.3g}" for name in names)]
        for t in shown
    ]
    shares = ", ".join(
        f"{name.replace('_', ' ')} {value:.2f}" for name, value in summary["importance"].items()
    )
    importance = "These are too few to say which settings matter."
    if shares:
        importance = f"Share of the result's variance that each explains (fANOVA): {shares}."
    return (
        f"{summary['finished']} trials of {summary['epochs']} epochs finished, "
        f"{summary['pruned']} were cut short. {which}:\n\n"
        f"{markdown_table(header, rows)}\n\n{importance}"
    )


def aims_section(reports: Iterable[Mapping[str, Any]]) -> str:
    """What was aimed at and what the validation rows say."""
    rows = []
    for report in reports:
        network = report["network"]["architecture"]
        both = ", both views" if report["augmentation"] == "flip" else ""
        for task in ORDER:
            aim, found = AIMS[network][task.name], report["overall"][task.name]
            calibration = report["calibration"][task.name]
            error = calibration["expected_calibration_error"]
            missing = max(0.0, aim - found["accuracy"])
            rows.append(
                [
                    f"{network}{both}, {TITLES[task.name].lower()}",
                    f"{100 * aim:.1f}",
                    f"{100 * found['accuracy']:.2f}",
                    f"{100 * missing:.2f}" if missing else "reached",
                    f"{error:.4f}" + (" (over)" if error > CALIBRATION_AIM else ""),
                    f"{calibration['if_calibrated']['mean']:.4f}",
                ]
            )
    header = ["", "Aim %", "Measured %", "Missing, points", "Calibration error", "By chance alone"]
    return markdown_table(header, rows)


def load_reports(
    weights: Path = BUNDLED, measured: Path = Path("docs/results/reports")
) -> list[dict[str, Any]]:
    """Reports of the published weights: of one view, then of picture and mirror image."""
    paths = [*sorted(weights.glob("*/report.json")), *sorted(measured.glob("*-mirrored.json"))]
    return [read_json(path) for path in paths]


def long_runs(folder: Path = RESULTS / "long") -> dict[str, list[dict[str, Any]]]:
    """Three epochs of each long run on labels alone; some may be the same.

    That of least holdout loss, the last with pictures of its size, and the last of all.
    """
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        epochs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        best = min(epochs, key=lambda entry: sum(entry["holdout_loss"].values()))
        same = [entry for entry in epochs if entry["image_size"] == best["image_size"]]
        found[path.stem] = [best, same[-1], epochs[-1]]
    return found


def fit_section(runs: Mapping[str, list[dict[str, Any]]]) -> str:
    """Losses of long runs, augmented training views beside the holdout."""
    rows = []
    for name, entries in runs.items():
        for entry in {entry["epoch"]: entry for entry in entries}.values():
            losses = (
                f"{entry['train_loss'][t.name]:.3f} / {entry['holdout_loss'][t.name]:.3f}"
                for t in ORDER
            )
            rows.append([name, f"{entry['epoch']}", f"{entry['image_size']} px", *losses])
    header = ["Run", "Epoch", "Input", *(f"{TITLES[t.name]}, nats" for t in ORDER)]
    return markdown_table(header, rows)


def overfit_section(runs: Mapping[str, list[dict[str, Any]]]) -> str:
    """A line for each long run: what its losses did after the least holdout loss.

    As long as pictures kept their size: another size changes both losses by itself.
    """
    lines = []
    for name, (best, last, _) in runs.items():
        size = f"of {best['image_size']} px"
        if best is last:
            lines.append(f"- `{name}`: the holdout loss is least at the last epoch {size}.")
            continue
        train, holdout = (
            sum(last[key].values()) - sum(best[key].values())
            for key in ("train_loss", "holdout_loss")
        )
        lines.append(
            f"- `{name}`: from epoch {best['epoch']} to {last['epoch']}, {size}, the training loss "
            f"changes by {train:+.3f} nats, the holdout's by {holdout:+.3f}, all tasks together."
        )
    return "\n".join(lines)


def load_ensembles(folder: Path = RESULTS / "ensembles") -> dict[str, dict[str, Any]]:
    """What `python -m train ensemble` found of teachers.

    By the recipe that learned from them, or that of a teacher that was tried and left out.
    """
    found = {path.stem: read_json(path) for path in folder.glob("*.json")}
    order = list(RECIPES)
    return {name: found[name] for name in sorted(found, key=order.index)}


def ensembles_section(ensembles: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each set of teachers."""
    if not ensembles:
        return "Not measured yet."
    parts = []
    for name, found in ensembles.items():
        tried = name in {member["recipe"] for member in found["members"]}
        title = f"With `{name}`, tried and left out" if tried else f"`{name}` learned from"
        parts.append(f"{title}:\n\n{ensemble_section(found)}")
    return "\n\n".join(parts)


def ensemble_section(found: Mapping[str, Any]) -> str:
    """The teachers, alone and together: on the holdout (one view and two), and on training rows."""
    rows = []
    members = [(f"{m['architecture']}, `{m['recipe']}`", m) for m in found["members"]]
    views = {
        "single": "one view",
        "mirrored": "with mirror image",
        "training_rows": "training rows",
    }
    for name, entry in [*members, ("Mean of all", found["mean"])]:
        for key, view in views.items():
            cells = (
                f"{100 * entry[key]['accuracy'][t.name]:.2f} ({entry[key]['loss'][t.name]:.3f})"
                for t in ORDER
            )
            rows.append([f"{name}, {view}", *cells])
    return markdown_table(["", *(f"{TITLES[t.name]} % (nats)" for t in ORDER)], rows)


def long_runs_section(reports: Iterable[Mapping[str, Any]]) -> str:
    """The published weights and all they learned from, on the holdout that chose them."""
    rows: dict[str, list[str]] = {}
    for report in reports:
        last = {**report["training"], "architecture": report["network"]["architecture"]}
        for run in lineage(last):
            name = f"{run['architecture']}, `{run['recipe']}`, seed {run['seed']}"
            accuracy = [f"{100 * run['holdout_accuracy'][task.name]:.2f}" for task in ORDER]
            minutes = f"{run['wall_seconds'] / 60:.0f} min"
            rows[name] = [name, str(run["epochs"]), f"{run['image_size']} px", minutes, *accuracy]
    header = [
        "Run",
        "Epochs, at most",
        "Input",
        "Time to these weights",
        "Gender %",
        "Race %",
        "Age group %",
    ]
    return markdown_table(header, rows.values())


def make_page(
    results: dict[str, list[dict[str, Any]]],
    reports: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    ensembles: Mapping[str, Mapping[str, Any]],
    repeats: list[dict[str, Any]],
) -> str:
    """docs/experiments.md from the results in the tree.

    Raises:
        TableError: when the baseline has fewer than two seeds.
    """
    base = results.get("baseline", [])
    if not base:
        raise TableError(f"no result of the baseline in {RESULTS}; run with --run first")
    runs = long_runs()
    parts = {
        "seeds": str(len(base)),
        "rows": f"{base[0]['training_rows']:,}",
        "holdout": f"{base[0]['holdout_rows']:,}",
        "epochs": str(BASELINE.epochs),
        "side": str(BASELINE.image_size),
        "hardware": base[0]["hardware"],
        "aims": aims_section(reports),
        "long_runs": long_runs_section(reports),
        "fit": fit_section(runs),
        "overfit": overfit_section(runs),
        "noise": noise_section(base),
        "baseline": baseline_section(base),
        "repeats": repeats_section(base, repeats),
        "changes": changes_section(results),
        "ensembles": ensembles_section(ensembles),
        "flip": flip_section(results),
        "search": search_section(summary) if summary else "Not run yet.",
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train experiments`."""
    parser.add_argument("--run", action="store_true", help="first train what has no result yet")
    parser.add_argument("--only", nargs="+", choices=sorted(EXPERIMENTS), help="of --run")
    parser.add_argument("--seeds", nargs="+", type=int, help="of --run (0 1)")
    parser.add_argument(
        "--teacher", type=Path, action="append", default=[], help="of --run, for distillation"
    )
    parser.add_argument("--output", type=Path, default=PAGE, help="page (%(default)s)")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train experiments`."""
    given = {"only": args.only, "seeds": args.seeds, "teacher": args.teacher}
    if not args.run and (unused := [f"--{name}" for name, value in given.items() if value]):
        raise ValueError(f"{' and '.join(unused)} need --run")
    if args.run:
        from research.run import run_from

        run_from(args)
    summary = RESULTS / SEARCH_NAME
    page = make_page(
        load_results(),
        load_reports(),
        read_json(summary) if summary.exists() else None,
        load_ensembles(),
        load_results(RESULTS / "repeats").get("baseline", []),
    )
    write_text(args.output, page)
    log.info("-> %s", args.output)
