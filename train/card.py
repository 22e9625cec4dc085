"""report.json and config.json to a model card for the Hub: a template plus data.

No number in a card is typed by hand, and the same two files give the same card.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from faceattr import labels
from faceattr.labels import TASKS
from train.evaluate import SCHEMA
from train.subgroups import FEW_FACES
from train.tables import TableError, markdown_table, read_json

log = logging.getLogger("train")

TEMPLATE = Path(__file__).with_name("card_template.md")
FAIRFACE = "HuggingFaceM4/FairFace"

FULL_ROWS = {"train": 86_744, "validation": 10_954}
"""Rows of FairFace's splits, as on the data set's page on the Hub."""

TRAINING_KEYS = (
    "settings",
    "recipe",
    "seed",
    "epoch",
    "epochs",
    "dataset",
    "image_size",
    "hardware",
    "wall_seconds",
    "git_commit",
    "versions",
)
TITLES = {"gender": "Gender", "age": "Age group", "race": "Race"}

Json = Mapping[str, Any]


def check(report: Json, config: Json) -> None:
    """Check that the two files belong together and hold what a card needs.

    Raises:
        TableError: saying what is missing or does not match.
    """
    if report.get("schema") != SCHEMA:
        raise TableError(
            f"expected a report of schema {SCHEMA}, came {report.get('schema')!r}. "
            "Write it again with `python -m train evaluate`."
        )
    training = config.get("training", {})
    if missing := [key for key in TRAINING_KEYS if key not in training]:
        raise TableError(f"the config's training facts lack {missing}; expected those of `fit`")
    if missing := [key for key in ("rows", "holdout_rows") if key not in training["dataset"]]:
        raise TableError(f"the config's training data set lacks {missing}")
    if "network" not in report or report["network"]["architecture"] != config["architecture"]:
        raise TableError("report and config describe different networks")
    sections = ("training", "preprocessing", "temperatures")
    if changed := [key for key in sections if report.get(key) != config.get(key)]:
        raise TableError(
            f"report and config describe different weights: {' and '.join(changed)} differ. "
            "Predict and evaluate with these weights, then write the card."
        )
    split = report["dataset"]["split"]
    if split != "validation":
        raise TableError(f"expected a report on FairFace's validation split, came {split!r}")


def percent(value: float, digits: int = 1) -> str:
    """A share of 1 in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds for people, e.g. "1 h 02 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s"


def _interval(cell: Json) -> str:
    return f"{percent(cell['low'])} to {percent(cell['high'])}"


def _display(task: str, name: str) -> str:
    return labels.task(task).display_name(name)


def _overall_table(report: Json) -> str:
    comparison = report["report_comparison"]
    rows = [
        [
            TITLES[task.name],
            f"**{percent(found['accuracy'], 2)}**",
            _interval(found),
            percent(found["balanced_accuracy"], 2),
            f"{found['macro_f1']:.4f}",
            percent(comparison["accuracy"][task.name]["report"], 2),
        ]
        for task in TASKS
        for found in [report["overall"][task.name]]
    ]
    interval = f"{100 * report['confidence']:.0f} % interval"
    header = ["", "Accuracy %", interval, "Balanced accuracy %", "Macro F1", "Kemprai 2024 %"]
    return markdown_table(header, rows)


def _service_table(report: Json) -> str:
    rows = [
        [TITLES[task.name], percent(found["accuracy"], 2), _interval(found)]
        for task in TASKS
        for found in [report["service_test"][task.name]]
        if found["n"]
    ]
    return markdown_table(["", "Accuracy %", f"{100 * report['confidence']:.0f} % interval"], rows)


def _calibration_table(report: Json) -> str:
    rows = []
    for task in TASKS:
        found = report["calibration"][task.name]
        top = sum(b["n"] * b["confidence"] for b in found["reliability"] if b["n"])
        overall = report["overall"][task.name]
        error = f"{found['expected_calibration_error']:.4f}"
        rows.append(
            [
                TITLES[task.name],
                error,
                f"{found['if_calibrated']['mean']:.4f}",
                percent(top / overall["n"], 2),
                percent(overall["accuracy"], 2),
            ]
        )
    header = [
        "",
        "Expected calibration error",
        "By chance alone, if perfect",
        "Mean top probability %",
        "Accuracy %",
    ]
    return markdown_table(header, rows)


def _class_table(report: Json, task: str) -> str:
    rows = []
    for found in report["per_class"][task]:
        share = f"{percent(found['accuracy'])} ({_interval(found)})" if found["n"] else "no faces"
        rows.append([_display(task, found["class"]) + _mark(found), f"{found['n']:,}", share])
    return markdown_table([TITLES[task], "Faces", "Labelled rightly %"], rows)


def _mark(cell: Json) -> str:
    return " †" if cell["n"] < FEW_FACES else ""


def _cell(cell: Json) -> str:
    if cell["n"] == 0:
        return "no faces"
    return f"{percent(cell['accuracy'])} ({_interval(cell)}) of {cell['n']:,}{_mark(cell)}"


def _subgroup_table(table: Json) -> str:
    down, across = table["rows"], table["columns"]
    header = ["", *(_display(across["task"], name) for name in across["classes"])]
    rows = [
        [_display(down["task"], name), *map(_cell, cells)]
        for name, cells in zip(down["classes"], table["cells"], strict=True)
    ]
    return markdown_table(header, rows)


def _subgroup(number: str, table: Json) -> dict[str, Any]:
    """One table with its heading, and its lowest and highest cell of enough faces."""
    named = [
        {
            **cell,
            "name": f"{_display(table['rows']['task'], row)}, "
            f"{_display(table['columns']['task'], column)}",
        }
        for row, cells in zip(table["rows"]["classes"], table["cells"], strict=True)
        for column, cell in zip(table["columns"]["classes"], cells, strict=True)
    ]
    enough = [cell for cell in named if cell["n"] >= FEW_FACES]
    by = " and ".join(TITLES[table[side]["task"]].lower() for side in ("rows", "columns"))
    return {
        "title": f"{TITLES[table['task']]} accuracy by {by}",
        "number": number,
        "table": _subgroup_table(table),
        "cells": len(named),
        "few": len(named) - len(enough),
        "range": _range(enough),
    }


def _range(cells: list[dict[str, Any]]) -> dict[str, str] | None:
    """The lowest and the highest of named cells in words; None where there are not two."""
    if len(cells) < 2:
        return None
    ordered = sorted(cells, key=lambda cell: float(cell["accuracy"]))
    words = [
        f"{cell['name']} ({percent(cell['accuracy'])} %, {_interval(cell)}, of {cell['n']:,})"
        for cell in (ordered[0], ordered[-1])
    ]
    gap = percent(ordered[-1]["accuracy"] - ordered[0]["accuracy"])
    return {"lowest": words[0], "highest": words[1], "gap": gap}


def _failures(report: Json, task: str) -> dict[str, Any]:
    """The classes with the lowest and highest accuracy, and the most frequent confusions."""
    classes = [
        {**found, "name": _display(task, found["class"])}
        for found in report["per_class"][task]
        if found["n"] >= FEW_FACES
    ]
    matrix = report["confusion"]["overall"][task]
    names = [_display(task, name) for name in matrix["classes"]]
    mistaken = [
        (count / sum(line), f"{names[true]} taken for {names[predicted]}", sum(line))
        for true, line in enumerate(matrix["counts"])
        if sum(line) >= FEW_FACES
        for predicted, count in enumerate(line)
        if predicted != true and count
    ]
    worst = sorted(mistaken, key=lambda found: -found[0])[:3]
    return {
        "title": TITLES[task],
        "range": _range(classes),
        "confusions": "; ".join(f"{what} ({percent(s)} % of {n:,})" for s, what, n in worst),
    }


def _data_facts(report: Json, training: Json) -> dict[str, Any]:
    """Which part of FairFace the weights were trained and measured on."""
    dataset = training["dataset"]
    read = dataset["rows"] + dataset["holdout_rows"]
    local = "" if dataset["id"] == FAIRFACE else f", read from a local copy (`{dataset['id']}`)"
    return {
        "fairface": FAIRFACE,
        "local": local,
        "trained_rows": f"{dataset['rows']:,}",
        "holdout_rows": f"{dataset['holdout_rows']:,}",
        "read_rows": f"{read:,}",
        "all_train_rows": f"{FULL_ROWS['train']:,}",
        "train_share": percent(read / FULL_ROWS["train"]),
        "train_margin": dataset["config"],
        "measured_rows": f"{report['dataset']['rows']:,}",
        "all_validation_rows": f"{FULL_ROWS['validation']:,}",
        "measured_share": percent(report["dataset"]["rows"] / FULL_ROWS["validation"]),
        "service_rows": f"{report['service_test']['gender']['n']:,}",
        "partial": read < FULL_ROWS["train"] or report["dataset"]["rows"] < FULL_ROWS["validation"],
    }


def _settings(settings: Json) -> str:
    """The recipe in a few words."""
    sizes = ", ".join(
        f"{s['image_size']} px from epoch {s['epoch'] + 1}" for s in settings["stages"]
    )
    words = [
        f"batches of {settings['batch_size']}",
        f"{settings['optimizer']} at {settings['learning_rate']:g} ({settings['schedule']})",
        f"warm-up of {settings['warmup_epochs']:g} epochs",
        f"weight decay {settings['weight_decay']:g}",
        f"label smoothing {settings['label_smoothing']:g}",
        f"averaged weights {settings['ema_decay'] or 'off'}",
        f"pictures at {sizes}",
    ]
    if distillation := settings.get("distillation"):
        words.append(
            f"distillation with weight {distillation['weight']:g} and temperature "
            f"{distillation['temperature']:g}"
        )
    if weights := settings.get("loss_weights"):
        words.append("loss weights " + ", ".join(f"{t} {w:g}" for t, w in weights.items()))
    for name in ("age_spread", "class_balance", "mixup", "average_epochs"):
        if settings.get(name):
            words.append(f"{name.replace('_', ' ')} {settings[name]:g}")
    changes = [f"{k} {v:g}" for k, v in settings["augmentation"].items() if v]
    return "; ".join([*words, "augmentation " + (", ".join(changes) or "none")])


def _teachers(training: Json) -> str:
    """The teachers in words; empty where there are none."""
    return "; ".join(
        f"{t['architecture']}, recipe `{t['recipe']}`, seed {t['seed']}, trained from scratch on "
        f"the same rows in {duration(t['wall_seconds'])}; holdout "
        + ", ".join(f"{name} {percent(v)} %" for name, v in t["holdout_accuracy"].items())
        for t in training.get("teachers", [])
    )


def _arithmetic(training: Json) -> str:
    """Precision and compilation of the training steps."""
    fused = ", torch.compile" if training.get("compile") else ""
    return f"{training.get('precision', 'float32')}{fused}"


def _context(report: Json, config: Json, repo_id: str | None) -> dict[str, Any]:
    training = config["training"]
    return {
        **_data_facts(report, training),
        "repo_id": repo_id,
        "classes": [(TITLES[t.name], ", ".join(map(t.display_name, t.classes))) for t in TASKS],
        "training": training,
        "network": report["network"],
        "parameters": f"{report['network']['parameters']:,}",
        "megabytes": f"{report['network']['parameters'] * 4 / 1e6:.1f}",
        "work": f"{report['network']['multiply_adds'] / 1e6:.0f}",
        "teachers": _teachers(training),
        "settings": _settings(training["settings"]),
        "temperatures": ", ".join(
            f"{TITLES[name].lower()} {value:g}" for name, value in config["temperatures"].items()
        ),
        "image_size": config["preprocessing"]["image_size"],
        "arithmetic": _arithmetic(training),
        "duration": duration(training["wall_seconds"]),
        "versions": ", ".join(f"{name} {v}" for name, v in sorted(training["versions"].items())),
        "weights_sha256": report["weights_sha256"],
        "evaluator": report["created_by"]["faceattr"],
        "confidence": f"{100 * report['confidence']:.0f}",
        "few_faces": FEW_FACES,
        "bins": report["calibration"]["bins"],
        "report_rows": f"{report['report_comparison']['rows']:,}",
        "overall_table": _overall_table(report),
        "service_table": _service_table(report),
        "class_tables": [_class_table(report, task.name) for task in TASKS],
        "subgroups": [_subgroup(*item) for item in report["subgroups"].items()],
        "calibration_table": _calibration_table(report),
        "failures": [_failures(report, task.name) for task in TASKS],
    }


def _metadata(report: Json, model_name: str) -> ModelCardData:
    """The card's YAML block; results on one task and data set share an entry of its index.

    The Hub tells results of one entry apart by the metric's name only, so each names its head.
    """
    dataset = report["dataset"]
    rows = f"{dataset['rows']:,} of {FULL_ROWS[dataset['split']]:,}"
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Perceived face attributes",
            dataset_type=FAIRFACE,
            dataset_name=f"FairFace, {rows} {dataset['split']} rows",
            dataset_config=dataset["config"],
            dataset_split=dataset["split"],
            dataset_revision=dataset["revision"],
            dataset_args={"rows": dataset["rows"]},
            metric_type="accuracy",
            metric_name=f"{TITLES[task.name]} accuracy",
            metric_value=report["overall"][task.name]["accuracy"],
        )
        for task in TASKS
    ]
    return ModelCardData(
        license="cc-by-4.0",
        library_name="faceattr",
        pipeline_tag="image-classification",
        tags=["face-attributes", "fairface", "fairness", "multi-task-learning"],
        datasets=[FAIRFACE],
        metrics=["accuracy"],
        model_name=model_name,
        eval_results=results,
    )


def make_card(report: Json, config: Json, repo_id: str | None = None) -> ModelCard:
    """Fill the template.

    Args:
        report: content of report.json.
        config: content of the same weights' config.json.
        repo_id: "user/name" of the Hub repository that the card is for, where there is one.

    Raises:
        TableError: when the two do not belong together or lack something,
            or the repository id has no user.
    """
    check(report, config)
    if repo_id is not None and not all(repo_id.partition("/")):
        raise TableError(f"expected a repository id of the form 'user/name', came {repo_id!r}")
    name = repo_id.split("/")[-1] if repo_id else config["architecture"]
    card: ModelCard = ModelCard.from_template(
        _metadata(report, name),
        template_path=str(TEMPLATE),
        title=name,
        **_context(report, config, repo_id),
    )
    return card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train card`."""
    parser.add_argument(
        "--report", type=Path, required=True, help="written by `python -m train evaluate`"
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="config.json beside the evaluated weights"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="README.md", help="file to write"
    )
    parser.add_argument(
        "--repo-id", metavar="USER/NAME", help="Hub repository that the card is for"
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train card`."""
    card = make_card(read_json(args.report), read_json(args.config), args.repo_id)
    card.save(args.output)
    log.info("-> %s", args.output)
