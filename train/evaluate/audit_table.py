"""Predictions for labelled faces -> `audit.json`, by which audits correct what they count.

The rows must not have been trained on. The table of the holdout is the one to publish: the
validation rows stay out of it, so that what is measured on them tests it.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from faceattr.audit.calibration import CalibrationTable, write_table
from train.evaluate.predictions import Predictions, read_predictions
from train.tables import TableError

log = logging.getLogger("train")
SOURCE_KEYS = ("id", "config", "split", "revision")


def audit_table(predictions: Predictions) -> CalibrationTable:
    """The calibration table of some predictions.

    Raises:
        TableError: for rows that the weights were trained on, and averages over mirror images,
            which the pipeline does not compute.
    """
    facts = predictions.metadata
    if facts["dataset"]["split"] == "train":
        raise TableError(
            "these rows are of the part 'train', which weights are fitted to; predict the part "
            "'holdout' or 'validation'"
        )
    if facts["augmentation"] != "none":
        raise TableError("predict without --flip: an audit's answers are of single images")
    return CalibrationTable(
        facts["weights_sha256"],
        {key: facts["dataset"][key] for key in SOURCE_KEYS},
        predictions.true,
        predictions.probabilities,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train audit-table`."""
    parser.add_argument("predictions", type=Path, help="of `train predict --part holdout`")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="audit.json")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train audit-table`."""
    table = audit_table(read_predictions(args.predictions))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, args.output)
    log.info("%d faces, %d bytes -> %s", table.rows, args.output.stat().st_size, args.output)
