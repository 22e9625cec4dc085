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
from train.evaluate.fairness import GROUPINGS, title
from train.evaluate.report import SCHEMA
from train.report import sections
from train.report.plots import write_figures
from train.report.plots_results import card_figures
from train.report.procedure import cost, earlier_words, settings_words, start_words, teachers_words
from train.report.sections import TITLES, Json, duration, percent
from train.tables import TableError, read_json

log = logging.getLogger("train")

TEMPLATE = Path(__file__).parent / "templates" / "card.md"
FIGURES = "figures"
"""Folder beside the card that its pictures go to."""

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
    same = ("training", "preprocessing", "temperatures", "thresholds")
    if changed := [key for key in same if report.get(key) != config.get(key)]:
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


def _arithmetic(training: Json) -> str:
    """Precision and compilation of the training steps."""
    fused = ", torch.compile" if training.get("compile") else ""
    return f"{training.get('precision', 'float32')}{fused}"


def _network_facts(report: Json, config: Json) -> dict[str, Any]:
    network = report["network"]
    return {
        "network": network,
        "parameters": f"{network['parameters']:,}",
        "megabytes": f"{network['parameters'] * 4 / 1e6:.1f}",
        "work": f"{network['multiply_adds'] / 1e6:.0f}",
        "image_size": config["preprocessing"]["image_size"],
        "temperatures": _by_task(config["temperatures"]),
        "thresholds": _by_task(config["thresholds"]),
    }


def _by_task(values: Json) -> str:
    return ", ".join(f"{TITLES[name].lower()} {value:g}" for name, value in values.items())


def _training_facts(training: Json) -> dict[str, Any]:
    return {
        "training": training,
        "teachers": teachers_words(training),
        "start": start_words(training),
        "earlier": earlier_words(training),
        "settings": settings_words(training["settings"]),
        "cost": cost(training),
        "arithmetic": _arithmetic(training),
        "duration": duration(training["wall_seconds"]),
        "versions": ", ".join(f"{name} {v}" for name, v in sorted(training["versions"].items())),
    }


def _fairness_facts(report: Json) -> dict[str, Any]:
    """The largest gaps of the report's fairness section, and the tables of the card."""
    return {
        "gap_tables": [sections.accuracy_gap_table(report, task.name) for task in TASKS],
        "criteria_table": sections.criteria_table(report),
        "groupings": len(GROUPINGS),
        "all_three": sections.grouping_title(title(GROUPINGS[-1])),
        "draws": f"{report['bootstrap']['draws']:,}",
    }


def _context(report: Json, config: Json, repo_id: str | None) -> dict[str, Any]:
    return {
        **_data_facts(report, config["training"]),
        **_network_facts(report, config),
        **_training_facts(config["training"]),
        **_fairness_facts(report),
        "repo_id": repo_id,
        "classes": [(TITLES[t.name], ", ".join(map(t.display_name, t.classes))) for t in TASKS],
        "weights_sha256": report["weights_sha256"],
        "evaluator": report["created_by"]["faceattr"],
        "confidence": f"{100 * report['confidence']:.0f}",
        "few_faces": FEW_FACES,
        "bins": report["calibration"]["bins"],
        "report_rows": f"{report['report_comparison']['rows']:,}",
        "overall_table": sections.overall_table(report),
        "service_table": sections.service_table(report),
        "duplicates": sections.duplicate_sentence(report),
        "across_counted": "data_duplicates" in report,
        "class_tables": [sections.class_table(report, task.name) for task in TASKS],
        "subgroups": [sections.subgroup(*item) for item in report["subgroups"].items()],
        "calibration_table": sections.calibration_table(report),
        "group_calibration": [
            sections.group_calibration_table(report, name) for name in ("gender", "race", "age")
        ],
        "selective_table": sections.selective_table(report),
        "selective_spread": sections.selective_spread(report),
        "robustness": _robustness_facts(report),
        "remarks": sections.remark_lines(report),
        "failures": [sections.failures(report, task.name) for task in TASKS],
        "figures": [{"name": figure.name, "alt": figure.alt} for figure in card_figures(report)],
    }


def _robustness_facts(report: Json) -> dict[str, Any] | None:
    if "robustness" not in report:
        return None
    return {
        "table": sections.robustness_table(report),
        "worst": sections.robustness_worst(report),
        "rows": f"{report['robustness']['dataset']['rows']:,}",
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
    report = read_json(args.report)
    card = make_card(report, read_json(args.config), args.repo_id)
    card.save(args.output)
    write_figures(card_figures(report), args.output.parent / FIGURES, ("png",))
    log.info("-> %s", args.output)
