"""What `pip install` brings: the package alone, light, described without a Space's settings."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "gradio", "datasets", "matplotlib", "pandas", "scipy")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("faceattr", "page", "train", "research"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE", "app.py"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-q", "-w", source / "dist", source], check=True)
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "faceattr").rglob("*") if path.is_file())
    here = {path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts}
    assert names == {path.as_posix() for path in here}


@pytest.mark.slow
def test_a_plain_install_is_light_and_says_what_it_is(wheel):
    found = metadata(wheel)
    needed = [line for line in found.get_all("Requires-Dist") if "extra ==" not in line]
    names = [line.split(">")[0].split("<")[0].split("~")[0].strip() for line in needed]
    assert "onnxruntime" in names
    assert not set(names) & set(HEAVY)
    assert found["Author"] and found.get_all("Project-URL") and found.get_all("Classifier")
    assert found.get_payload().lstrip().startswith("# faceattr")
