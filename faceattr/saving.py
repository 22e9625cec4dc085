"""A pipeline's weights, and what describes them, into a folder: `FacePipeline.save_pretrained`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from faceattr.audit.calibration import AUDIT_NAME
from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME
from faceattr.errors import WeightsError
from faceattr.hub import WeightsFiles, find_all_beside

if TYPE_CHECKING:
    from faceattr.model import FaceAttributeModel
    from faceattr.pipeline import FacePipeline

CARD_NAME = "README.md"
REPORT_NAME = "report.json"
COMPANIONS = (CARD_NAME, REPORT_NAME, ONNX_NAME, AUDIT_NAME)
"""Files that are of certain weights and go wherever these go, with the figures."""
FIGURES = "figures/*.png"


def save_pipeline(pipeline: FacePipeline, folder: str | Path) -> Path:
    """Write a pipeline's weights and config into a folder, made if needed; returns its path.

    A card, a report and `model.onnx` go along where they lie beside the weights that were loaded
    and these have not changed since. Where the folder held other weights, such files of theirs
    are removed, a card only where it names them.

    Raises:
        WeightsError: for a pipeline that was made from neither files nor a network, and where the
            Hub does not give what lies beside the weights.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = pipeline.files
    network: FaceAttributeModel | None = getattr(pipeline.classifier, "model", None)
    before = _identity(target)
    written: set[str] = set()
    if network is not None and (files is None or not _is_unchanged(network, files)):
        network.save_pretrained(target)
    elif files is None:
        raise WeightsError("this pipeline has neither a network nor files to save")
    else:
        written = _copy(files, target)
    if any(before) and _identity(target) != before:
        _remove_companions(target, before[1], written)
    return target


def _identity(folder: Path) -> list[str | None]:
    """Digests of the config and the weights in a folder; None where there is no such file."""
    paths = [folder / name for name in (CONFIG_NAME, WEIGHTS_NAME)]
    return [sha256(path) if path.is_file() else None for path in paths]


def _remove_companions(folder: Path, digest: str | None, kept: Collection[str]) -> None:
    """Remove what is there of other weights, lest it speaks for those that are there now.

    Card and figures only where the card names those weights' SHA-256: else somebody wrote it.
    """
    card, patterns = folder / CARD_NAME, [REPORT_NAME, ONNX_NAME, AUDIT_NAME]
    if digest and card.is_file() and digest in card.read_text(encoding="utf-8", errors="replace"):
        patterns += [CARD_NAME, FIGURES]
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in kept:
                path.unlink()


def _is_unchanged(network: FaceAttributeModel, files: WeightsFiles) -> bool:
    """Whether a network is still what was loaded from files."""
    from faceattr.model import load_files

    try:
        original = load_files(files)
    except WeightsError:
        return False
    before, now = original.state_dict(), network.state_dict()
    return (
        original.config.to_dict() == network.config.to_dict()
        and before.keys() == now.keys()
        and all(before[name].equal(values.cpu()) for name, values in now.items())
    )


def _copy(files: WeightsFiles, target: Path) -> set[str]:
    """Copy weights, config and what accompanies them; returns their paths in the target.

    Only the content: the cache's own files may be nobody else's to read.
    """
    found = find_all_beside(files, (CONFIG_NAME, WEIGHTS_NAME, *COMPANIONS, FIGURES))
    for name, path in found.items():
        copy = target / name
        copy.parent.mkdir(exist_ok=True)
        if not (copy.exists() and copy.samefile(path)):
            shutil.copyfile(path, copy)
    if WEIGHTS_NAME not in found:
        (target / WEIGHTS_NAME).unlink(missing_ok=True)
    return set(found)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
