"""`faceattr export FOLDER...`: options, and what is printed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from faceattr.config import CONFIG_NAME, WEIGHTS_NAME
from faceattr.errors import FaceAttrError
from faceattr.hub import BUNDLED, BUNDLED_NAMES

DESCRIPTION = """Write model.onnx beside weights, for prediction without PyTorch. Run it again
whenever model.safetensors or config.json change."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help=f"with {CONFIG_NAME} and {WEIGHTS_NAME}; by default those that come with the package",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        The exit status.
    """
    # The help needs no PyTorch.
    from faceattr.backends.export import export

    try:
        for folder in args.folders or [BUNDLED / name for name in BUNDLED_NAMES]:
            path = export(folder)
            sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    except (FaceAttrError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
