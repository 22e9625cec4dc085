"""A checked folder of weights to one commit of a Hub repository, proven by loading it back."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from faceattr.audit.calibration import AUDIT_NAME, read_table
from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.hub import find_weights
from faceattr.model import load_model
from faceattr.publishing import (
    AGAIN,
    PublishError,
    PublishResult,
    load_card,
    log_plan,
    publish_files,
)
from faceattr.saving import CARD_NAME, FIGURES, REPORT_NAME, sha256

REQUIRED = (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, REPORT_NAME)
CALIBRATION = ("temperatures", "thresholds")
MESSAGE = "Publish weights, card and report"

log = logging.getLogger("train")


def check_folder(folder: Path) -> dict[str, Path]:
    """Check everything that can be checked without the Hub.

    Returns:
        The files to publish by their path in the repository: the four required ones, the
        pictures under `figures/`, and `model.onnx` and `audit.json` where there are any.

    Raises:
        PublishError: naming missing files, a card without metadata, or a report of other weights
            or another calibration.
        WeightsError: when the weights do not load strictly, or `model.onnx` is of others.
    """
    if not folder.is_dir():
        raise PublishError(f"{folder} is no folder; expected one with {', '.join(REQUIRED)}")
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise PublishError(
            f"{folder} lacks {', '.join(missing)}. `python -m train evaluate` writes "
            f"{REPORT_NAME}, `python -m train card` writes {CARD_NAME}."
        )
    digest = _check_report(folder, load_model(folder).config)
    card = load_card(folder / CARD_NAME, ModelCard)
    if digest not in card.text:
        raise PublishError(
            f"{CARD_NAME} is not about these weights: it does not name their SHA-256 {digest}. "
            "Write it again with `python -m train card`."
        )
    figures = sorted(folder.glob(FIGURES))
    paths = [folder / name for name in REQUIRED] + figures + _checked_onnx(folder)
    paths += _checked_table(folder, digest)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _checked_onnx(folder: Path) -> list[Path]:
    """`model.onnx`, if there is one; `faceattr export` writes it."""
    if not (folder / ONNX_NAME).is_file():
        return []
    OnnxClassifier(find_weights(folder, file=ONNX_NAME))
    return [folder / ONNX_NAME]


def _checked_table(folder: Path, weights_sha256: str) -> list[Path]:
    """`audit.json`, if there is one; `python -m train audit-table` writes it."""
    path = folder / AUDIT_NAME
    if not path.is_file():
        return []
    if (found := read_table(path).weights_sha256) != weights_sha256:
        raise PublishError(
            f"{AUDIT_NAME} is of the weights with SHA-256 {found}, not of these. Write it again "
            "with `python -m train audit-table`."
        )
    return [path]


def _check_report(folder: Path, config: ModelConfig) -> str:
    """SHA-256 of the weights, if the report describes them as their config does."""
    report, weights = folder / REPORT_NAME, folder / WEIGHTS_NAME
    try:
        facts = json.loads(report.read_text(encoding="utf-8"))
        described = facts["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(
            f"{report} is not a report with the key 'weights_sha256'. "
            "Write it again with `python -m train evaluate`."
        ) from error
    found = sha256(weights)
    if described != found:
        raise PublishError(
            f"the report describes other weights: {report} was written for SHA-256 {described}, "
            f"{weights.name} has {found}. Evaluate these weights and write the card again."
        )
    mine = {name: config.to_dict()[name] for name in CALIBRATION}
    if changed := [name for name in mine if facts.get(name, mine[name]) != mine[name]]:
        raise PublishError(
            f"{REPORT_NAME} was written with other {' and '.join(changed)} than {CONFIG_NAME} has. "
            "Predict and evaluate with these weights, then write the card again."
        )
    return found


def publish(folder: str | Path, repo_id: str, **options: Any) -> PublishResult:
    """Publish a folder of weights that `check_folder` finds in order.

    Args:
        folder: holds the files that `check_folder` asks for.
        repo_id: as `publish_files`.
        options: as `publish_files`.

    Raises:
        PublishError: saying what to do next. A failed upload leaves no half commit.
        WeightsError: when the folder's weights do not load strictly.
    """
    return publish_files(check_folder(Path(folder)), repo_id, **{"message": MESSAGE} | options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m train publish`."""
    parser.add_argument("folder", type=Path, help=f"with {', '.join(REQUIRED)}")
    parser.add_argument("--repo-id", required=True, metavar="USER/NAME", help="model repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="(%(default)s)")
    parser.add_argument("--message", default=MESSAGE, help="of the commit (%(default)r)")
    dry = "do the local checks and list what would be uploaded; nothing is sent"
    parser.add_argument("--dry-run", action="store_true", help=dry)


def run(args: argparse.Namespace) -> int:
    """Carry out `python -m train publish`; returns the exit status."""
    if args.dry_run:
        log_plan(check_folder(args.folder))
        log.info("dry run: the folder is in order; nothing was sent to %s", args.repo_id)
        return 0
    chosen = {name: getattr(args, name) for name in ("revision", "private", "message")}
    try:
        result = publish(args.folder, args.repo_id, **chosen)
    except KeyboardInterrupt:
        sys.stderr.write(f"Interrupted. {AGAIN}\n")
        return 130
    log.info("%s", result.url)
    log.info("pin it: from_pretrained(%r, revision=%r)", result.repo_id, result.commit)
    return 0
