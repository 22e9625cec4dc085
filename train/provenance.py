"""Where weights come from: one flat list of runs, keyed by the SHA-256 of their weights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faceattr.hub import find_weights, read_config
from train.data.source import sha256

Run = dict[str, Any]

KEPT = (
    "recipe",
    "seed",
    "epoch",
    "epochs",
    "image_size",
    "git_commit",
    "start",
    "teachers",
    "hardware",
    "wall_seconds",
    "holdout_accuracy",
)
"""Facts of a run that later runs say of it."""


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files differ from it; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head, changes = (
            subprocess.check_output([*git, *words], text=True, stderr=subprocess.DEVNULL)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("-dirty" if changes else "")


def runs_behind(folders: Iterable[Path]) -> dict[str, Run]:
    """The runs of some weights folders and all runs that those rest on, by digest."""
    found: dict[str, Run] = {}
    for folder in folders:
        files = find_weights(folder)
        config = read_config(files)
        found |= config.training.get("runs", {})
        own = {name: config.training.get(name) for name in KEPT}
        found[sha256(files.weights)] = {"architecture": config.architecture, **own}
    return found
