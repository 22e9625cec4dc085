"""The import rules of CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    "errors",
    "labels",
    "images",
    "results",
    "drawing",
    "alignment",
    "preprocessing",
    "config",
    "reach",
    "detection",
    "model",
    "hub",
    "torch_backend",
    "onnx_backend",
    "pipeline",
    "export",
    "__main__",
]
AFTER_PREDICTION = [
    "imbalance",
    "subgroups",
    "tables",
    "evaluate",
    "card",
    "calibration",
    "results",
    "experiments",
    "predictions",
    "published",
    "bootstrap",
    "reliability",
    "remarks",
    "fairness",
    "sections",
    "procedure",
    "plots",
    "plots_data",
    "plots_results",
    "figures",
    "mitigation",
]


def imported(path: Path) -> set[str]:
    """Modules imported at the top of a file (not within functions)."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", ORDER)
def test_library_modules_import_only_from_those_above(name):
    later = {f"faceattr.{other}" for other in ORDER[ORDER.index(name) :]}
    assert not imported(ROOT / "faceattr" / f"{name}.py") & later


def test_every_library_module_has_its_place():
    present = {path.stem for path in (ROOT / "faceattr").glob("*.py")} - {"__init__"}
    assert present == set(ORDER)


@pytest.mark.parametrize("path", sorted((ROOT / "faceattr").glob("*.py")), ids=lambda p: p.stem)
def test_library_knows_nothing_of_training_or_the_page(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"train", "app", "page", "gradio", "captum", "datasets", "matplotlib"}


@pytest.mark.parametrize("name", AFTER_PREDICTION)
def test_evaluation_runs_without_torch(name):
    code = f"import sys, train.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "path", [ROOT / "app.py", *sorted((ROOT / "page").glob("*.py"))], ids=lambda p: p.stem
)
def test_page_uses_the_library_only(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"train", "torch", "torchvision", "cv2", "datasets", "app"}
    if path.stem not in ("server", "blocks", "front_door", "theme"):
        assert "gradio" not in roots
    if path.stem != "explain":
        assert "captum" not in roots
    if path.stem != "tools":
        assert "mcp" not in roots
