"""What is known about the weights in use: their config, report and card."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from faceattr import labels
from faceattr.config import ModelConfig
from faceattr.errors import WeightsError
from faceattr.hub import WeightsFiles, find_beside
from faceattr.pipeline import FacePipeline

log = logging.getLogger("faceattr")


def read_beside(files: WeightsFiles | None, name: str) -> str | None:
    """The text of a file beside the weights; None where there is none that can be read."""
    path = None if files is None else find_beside(files, name)
    try:
        return None if path is None else path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        log.warning("%s beside the weights cannot be read", name)
        return None


def read_report(files: WeightsFiles | None) -> dict[str, Any] | None:
    """The content of `report.json` beside the weights; None where there is none that is readable.

    Keys this page does not know are left alone, keys it lacks are left out of the page.
    """
    try:
        report = json.loads(read_beside(files, "report.json") or "null")
    except ValueError:
        log.warning("the report beside the weights is not readable JSON")
        return None
    return report if isinstance(report, dict) else None


def read_licence(files: WeightsFiles | None) -> str | None:
    """The licence that the front matter of the weights' card names."""
    card = read_beside(files, "README.md") or ""
    found = re.search(r"^license:\s*([\w.-]+)\s*$", card, re.M)
    return found.group(1) if found else None


def dig(values: Any, *keys: str) -> Any:
    """The value under nested keys, or None."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def measured(cell: Any) -> dict[str, Any] | None:
    """A share with its interval and count, or None for what is none."""
    names = ("accuracy", "low", "high", "n")
    known = isinstance(cell, dict) and all(isinstance(cell.get(n), (int, float)) for n in names)
    return {name: cell[name] for name in names} if known else None


def parameters(pipeline: FacePipeline, report: dict[str, Any] | None) -> int | None:
    """Trainable numbers of the network; None where neither PyTorch nor a report counts them."""
    try:
        return sum(values.numel() for values in pipeline.model.parameters())
    except WeightsError:
        counted = dig(report, "network", "parameters")
        return counted if isinstance(counted, int) else None


def task_info(config: ModelConfig, report: dict[str, Any] | None) -> dict[str, Any]:
    """Classes, names for people, threshold and accuracy of every task."""
    return {
        task.name: {
            "classes": list(task.classes),
            "display": {name: task.display_name(name) for name in task.classes},
            "ordered": task.ordinal,
            "unsure_below": config.thresholds[task.name],
            "accuracy": measured(dig(report, "overall", task.name)),
        }
        for task in labels.TASKS
    }
