"""Fit the temperatures and thresholds of finished weights again, on the holdout rows.

`fit` does this at its end; this command is for weights from elsewhere, or after the aimed
accuracies in `train/evaluate/calibration.py` have changed. `config.json` is rewritten, and
`model.onnx` where there is one; what else lies beside them and rests on the old ones is named.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from faceattr.audit.calibration import AUDIT_NAME
from faceattr.backends.export import export
from faceattr.config import ONNX_NAME
from faceattr.hub import find_weights
from faceattr.model import load_files
from faceattr.saving import CARD_NAME, REPORT_NAME
from train.data.source import Rows, Source, add_data_arguments, source_of
from train.device import choose_device
from train.fit.select import calibrated, logits_of
from train.tables import write_json

log = logging.getLogger("train")


def calibrate(folder: Path, source: Source, device: torch.device) -> None:
    """Rewrite `config.json`, and `model.onnx` if there is one, in a weights folder."""
    files = find_weights(folder)
    model = load_files(files).to(device).to(memory_format=torch.channels_last)
    rows = Rows(source, "holdout")
    logits = logits_of(model, rows, model.config.preprocessing, device)
    config = calibrated(model.config, logits, rows.targets)
    write_json(files.config, config.to_dict())
    if files.config.with_name(ONNX_NAME).is_file():
        export(folder)
    names = (AUDIT_NAME, REPORT_NAME, CARD_NAME)
    stale = [name for name in names if files.config.with_name(name).is_file()]
    if stale and config != model.config:
        log.warning("%s rest on the calibration before: write them anew", ", ".join(stale))
    log.info("temperatures %s", dict(config.temperatures))
    log.info("thresholds %s", dict(config.thresholds))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train calibrate`."""
    parser.add_argument("weights", type=Path, help="weights folder")
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train calibrate`."""
    calibrate(args.weights, source_of(args), choose_device(args.device))
