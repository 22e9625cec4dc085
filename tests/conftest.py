"""Where test data lives, and a private, offline environment for every test."""

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "hf"
os.environ["HF_HOME"] = str(CACHE)
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def shared_dir() -> Path:
    """Folder of the optional test data: `FACEATTR_SHARED`, or `shared` beside the checkout."""
    configured = os.environ.get("FACEATTR_SHARED")
    return Path(configured) if configured else Path(__file__).resolve().parents[2] / "shared"


def _optional(relative: str) -> Path:
    path = shared_dir() / relative
    if not path.exists():
        pytest.skip(f"test data {relative!r} not found in {shared_dir()}; set FACEATTR_SHARED")
    return path


@pytest.fixture(scope="session")
def fairface_dir() -> Path:
    """Rows of FairFace in the Hub data set's layout, with `labels/*.csv`."""
    return _optional("fairface")


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """Group photos with labelled faces in `boxes.json`."""
    return _optional("photos")


@pytest.fixture(scope="session")
def yunet_path() -> Path:
    """A YuNet model file."""
    return next(iter(sorted(_optional("models").glob("*yunet*.onnx"))))


@pytest.fixture(scope="session")
def tiny_fairface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 + 30 made-up rows in FairFace's layout; needs no test data."""
    from synthetic import write_fairface

    return write_fairface(tmp_path_factory.mktemp("fairface"))
