"""The import rules of CONTRIBUTING.md, by folder."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("faceattr", "page", "train", "research")
RUNS_A_NETWORK = {"predict", "robustness", "duplicates", "calibrate"}
"""The modules of `train/evaluate` that may import PyTorch."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for package in PACKAGES for p in (ROOT / package).rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Modules imported at the top of a file (not within functions)."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def within(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_no_circle_of_imports_is_left():
    # `from package import module` names the package as well: it is no edge of its own here.
    packages = {module_name(p) for p in MODULES.values() if p.name == "__init__.py"}
    graph = {name: (imported(p) & set(MODULES)) - packages for name, p in MODULES.items()}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("faceattr", {"train", "research", "app", "page", "gradio", "datasets", "matplotlib"}),
        ("page", {"train", "research", "app", "torch", "torchvision", "cv2", "datasets"}),
        ("train", {"research", "app", "page", "gradio"}),
        ("research", {"app", "page", "gradio"}),
    ],
)
def test_a_package_imports_only_what_lies_below_it(folder, forbidden):
    wrong = {p.relative_to(ROOT).as_posix(): roots(p) & forbidden for p in within(folder)}
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize("folder", ["train/evaluate", "train/report"])
def test_evaluation_and_reports_run_without_torch(folder):
    names = [
        module_name(path)
        for path in within(folder)
        if folder == "train/report" or path.stem not in RUNS_A_NETWORK
    ]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
