"""Where test data lives; no setting or token of the developer's reaches a test."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from page.server import Site

# Each process of pytest-xdist has caches of its own.
CACHES = Path(__file__).resolve().parents[1] / ".pytest_cache" / "faceattr"
CACHES /= os.environ.get("PYTEST_XDIST_WORKER", "one")
os.environ["HF_HOME"] = str(CACHES / "hf")
os.environ["FACEATTR_ROWS"] = str(CACHES / "rows")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for _name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(_name, None)
for _name in ("FACEATTR_MODEL", "FACEATTR_REVISION", "FACEATTR_DETECTOR", "FACEATTR_YUNET"):
    os.environ.pop(_name, None)


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
def report_text() -> str:
    """The text of the report that is being rebuilt."""
    return _optional("reference/multitask-report.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_fairface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 + 30 made-up rows in FairFace's layout; needs no test data."""
    from synthetic import write_fairface

    return write_fairface(tmp_path_factory.mktemp("fairface"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator["tuple[str, Site]"]:
    """The address and the parts of one running server, with a small network and default limits."""
    from site_fixtures import running, tiny_service

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        with running(tiny_service()) as found:
            yield found


@pytest.fixture(scope="session")
def exported_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny weights for 32 px and their `model.onnx`; copy it before you change it."""
    import torch

    from faceattr.backends.export import export
    from faceattr.config import ModelConfig
    from faceattr.model import LightweightMTLNet224
    from faceattr.preprocessing import Preprocessing

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    sizes = {"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}
    config = ModelConfig(sizes=sizes, preprocessing=Preprocessing(image_size=32))
    LightweightMTLNet224(config).save_pretrained(folder)
    export(folder)
    return folder
