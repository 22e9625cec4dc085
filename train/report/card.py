"""report.json and config.json to a model card for the Hub: a template plus data.

No number in a card is typed by hand, and the same two files give the same card. Its pictures go to
the folder `figures` beside it.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from faceattr.labels import TASKS
from train.evaluate.cells import FEW_FACES
from train.evaluate.report import check_schema
from train.report import sections
from train.report.plots import write_figures
from train.report.plots_results import card_figures
from train.report.procedure import cost, lineage, start_words, teachers_words
from train.report.sections import TITLES, Json
from train.tables import TableError, read_json

log = logging.getLogger("train")

FIGURES = "figures"
"""Folder beside the card that its pictures go to."""

FAIRFACE = "HuggingFaceM4/FairFace"
FULL_ROWS = {"train": 86_744, "validation": 10_954}
"""Rows of FairFace's splits, as on the data set's page on the Hub."""

TRAINING_KEYS: tuple[str, ...] = ("settings", "recipe", "seed", "epoch", "epochs", "dataset")
TRAINING_KEYS += ("image_size", "hardware", "wall_seconds", "git_commit", "versions")


def check(report: Json, config: Json) -> None:
    """Check that the two files belong together and hold what a card needs.

    Raises:
        TableError: saying what is missing or does not match.
    """
    check_schema(report)
    training = config.get("training", {})
    if missing := [key for key in TRAINING_KEYS if key not in training]:
        raise TableError(f"the config's training facts lack {missing}; expected those of `fit`")
    if missing := [key for key in ("rows", "holdout_rows") if key not in training["dataset"]]:
        raise TableError(f"the config's training data set lacks {missing}")
    if "network" not in report or report["network"]["architecture"] != config["architecture"]:
        raise TableError("report and config describe different networks")
    described = {**config, "training": {k: v for k, v in training.items() if k != "runs"}}
    same = ("training", "preprocessing", "temperatures", "thresholds")
    if changed := [key for key in same if report.get(key) != described.get(key)]:
        raise TableError(
            f"report and config describe different weights: {' and '.join(changed)} differ. "
            "Predict and evaluate with these weights, then write the card."
        )
    split = report["dataset"]["split"]
    if split != "validation":
        raise TableError(f"expected a report on FairFace's validation split, came {split!r}")
    if report["augmentation"] != "none":
        raise TableError(
            f"expected a report on one view of each face, came {report['augmentation']!r}; "
            "predict without --flip, evaluate, then write the card"
        )


def _data_facts(report: Json, training: Json) -> dict[str, Any]:
    """Which part of FairFace the weights were trained and measured on."""
    dataset = training["dataset"]
    read = dataset["rows"] + dataset["holdout_rows"]
    return {
        "fairface": FAIRFACE,
        "trained_rows": f"{dataset['rows']:,}",
        "holdout_rows": f"{dataset['holdout_rows']:,}",
        "read_rows": f"{read:,}",
        "all_train_rows": f"{FULL_ROWS['train']:,}",
        "train_margin": dataset["config"],
        "measured_rows": f"{report['dataset']['rows']:,}",
        "all_validation_rows": f"{FULL_ROWS['validation']:,}",
        "partial": read < FULL_ROWS["train"] or report["dataset"]["rows"] < FULL_ROWS["validation"],
        "validation_use": training.get("note", ""),
    }


def _training_facts(training: Json) -> dict[str, Any]:
    start, teachers = start_words(training), teachers_words(training)
    origins = [
        f"started from {start}" if start else "",
        f"taught by {teachers}" if teachers else "",
    ]
    earlier = len(lineage(training)) - 1
    if earlier:
        origins.append(f"{earlier} earlier {'run' if earlier == 1 else 'runs'}, see `config.json`")
    return {
        "training": training,
        "origins": "; ".join(filter(None, origins)),
        "cost": cost(training),
        "arithmetic": training.get("precision", "float32"),
        "versions": ", ".join(f"{name} {v}" for name, v in sorted(training["versions"].items())),
        "adjusted": ", ".join(
            f"{TITLES[name].lower()} {tau:g}"
            for name, tau in training.get("logit_adjustment", {}).items()
            if tau
        ),
    }


def _context(report: Json, config: Json, repo_id: str | None) -> dict[str, Any]:
    network = report["network"]
    return {
        **_data_facts(report, config["training"]),
        **_training_facts(config["training"]),
        "repo_id": repo_id,
        "network": network,
        "parameters": f"{network['parameters']:,}",
        "work": f"{network['multiply_adds'] / 1e6:.0f}",
        "image_size": config["preprocessing"]["image_size"],
        "classes": [(TITLES[t.name], ", ".join(map(t.display_name, t.classes))) for t in TASKS],
        "weights_sha256": report["weights_sha256"],
        "evaluator": report["created_by"]["faceattr"],
        "confidence": f"{100 * report['confidence']:.0f}",
        "few_faces": FEW_FACES,
        "overall_table": sections.overall_table(report),
        "duplicates": sections.duplicate_sentence(report),
        "class_table": sections.class_table(report),
        "subgroups": [sections.subgroup(*item) for item in report["subgroups"].items()],
        "gap_table": sections.gap_table(report),
        "selective_table": sections.selective_table(report),
        "confusions": [(TITLES[t.name], sections.confusions(report, t.name)) for t in TASKS],
        "teens": sections.teens_sentence(report),
        "figures": card_figures(report),
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
    """Fill the template, for the Hub repository `repo_id` ("user/name") where there is one.

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
        template_path=str(sections.TEMPLATES / "card.md"),
        title=name,
        **_context(report, config, repo_id),
    )
    return card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train card`."""
    parser.add_argument("--report", type=Path, required=True, help="of `python -m train evaluate`")
    parser.add_argument("--config", type=Path, required=True, help="config.json of these weights")
    parser.add_argument("--output", type=Path, required=True, metavar="README.md")
    parser.add_argument("--repo-id", metavar="USER/NAME", help="repository that the card is for")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train card`."""
    report = read_json(args.report)
    card = make_card(report, read_json(args.config), args.repo_id)
    card.save(args.output)
    write_figures(card_figures(report), args.output.parent / FIGURES)
    log.info("-> %s", args.output)
