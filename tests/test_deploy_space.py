"""Deploying the Space: the real huggingface_hub client against a Hub on the loopback interface."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

from faceattr.hub import DEFAULT_MODEL
from faceattr.publishing import PublishError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "deploy_space.py"
SPACE = "user/demo"
FRONT = "---\ntitle: Faces\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n# Faces\n"

# huggingface_hub 2.4 uploads LFS files through a parameter that httpx2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("deploy_space", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with what a Space needs and what it must not get."""
    files = {
        "app.py": "demo = None\n",
        "requirements.txt": "torch\n",
        "README.md": "# The repository's\n",
        "page/space.md": FRONT,
        "LICENSE": "Apache-2.0\n",
        "faceattr/__init__.py": "",
        "faceattr/labels.py": "",
        f"faceattr/weights/{DEFAULT_MODEL}/config.json": "{}",
        f"faceattr/weights/{DEFAULT_MODEL}/model.onnx": "network",
        f"faceattr/weights/{DEFAULT_MODEL}/model.safetensors": "weights",
        f"faceattr/weights/{DEFAULT_MODEL}/figures/losses.png": "the card's",
        "page/__init__.py": "",
        "page/view/static/page.css": "",
        "faceattr/__pycache__/labels.cpython-311.pyc": "stale",
        "train/fit/command.py": "",
        "tests/test_app.py": "",
        ".env": "HF_TOKEN=secret",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        server.admit(monkeypatch)
        yield server


def deploy(script, hub, checkout, **options):
    options.setdefault("token", hub.token)
    return script.deploy(checkout, SPACE, endpoint=hub.url, **options)


def test_a_space_gets_exactly_the_files_it_needs(script, hub, checkout):
    commit = deploy(script, hub, checkout)
    assert set(hub.repo(SPACE, "space").files(commit)) == {
        ".gitattributes",
        "app.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "faceattr/__init__.py",
        "faceattr/labels.py",
        f"faceattr/weights/{DEFAULT_MODEL}/config.json",
        f"faceattr/weights/{DEFAULT_MODEL}/figures/losses.png",
        f"faceattr/weights/{DEFAULT_MODEL}/model.onnx",
        f"faceattr/weights/{DEFAULT_MODEL}/model.safetensors",
        "page/__init__.py",
        "page/view/static/page.css",
    }
    assert hub.repo(SPACE, "space").files(commit)["README.md"] == FRONT.encode()
    assert hub.repo(SPACE, "space").variables == {}


def test_a_module_removed_here_is_removed_there_in_the_same_commit(script, hub, checkout):
    deploy(script, hub, checkout)
    (checkout / "faceattr" / "labels.py").unlink()
    (checkout / "page" / "view" / "static" / "page.css").unlink()
    hub.requests.clear()
    commit = deploy(script, hub, checkout)
    there = hub.repo(SPACE, "space").files(commit)
    assert not {"faceattr/labels.py", "page/view/static/page.css"} & set(there)
    assert hub.asked("POST", "/commit/") == 1


def test_a_second_deployment_of_the_same_changes_nothing(script, hub, checkout):
    model = hub.add_repo("user/faces")
    first = deploy(script, hub, checkout, model=model.id)
    hub.requests.clear()
    assert deploy(script, hub, checkout, model=model.id) == first
    assert hub.asked("PUT", "") == hub.asked("POST", "/commit/") == 0
    assert hub.asked("POST", "/variables") == 0


@pytest.mark.parametrize("revision", [None, "main", "trial"])
def test_the_model_is_pinned_to_the_commit_its_revision_stands_for(script, hub, checkout, revision):
    model = hub.add_repo("user/faces")
    expected = {"main": model.resolve("main"), "trial": model.commit("trial", {"a": b"b"})}
    deploy(script, hub, checkout, model=model.id, revision=revision)
    assert hub.repo(SPACE, "space").variables == {
        "FACEATTR_MODEL": "user/faces",
        "FACEATTR_REVISION": expected[revision or "main"],
    }


def test_an_unknown_model_is_refused_before_the_space_is_touched(script, hub, checkout):
    with pytest.raises(PublishError, match="user/missing: HTTP 404.*spelling"):
        deploy(script, hub, checkout, model="user/missing")
    assert not hub.repos


def test_a_token_without_permission_is_explained(script, hub, checkout):
    with pytest.raises(PublishError, match="does not accept this token"):
        deploy(script, hub, checkout, token="hf_unknown")


@pytest.mark.parametrize(
    "name",
    [
        "app.py",
        "requirements.txt",
        "page/space.md",
        "LICENSE",
        "faceattr/__init__.py",
        f"faceattr/weights/{DEFAULT_MODEL}/model.onnx",
        "page/__init__.py",
    ],
)
def test_a_missing_file_is_named(script, checkout, name):
    (checkout / name).unlink()
    with pytest.raises(PublishError, match=f"lacks {name}"):
        script.space_files(checkout)


def test_a_card_that_describes_no_gradio_space_is_refused(script, checkout):
    (checkout / "page" / "space.md").write_text(FRONT.replace("gradio", "docker"))
    with pytest.raises(PublishError, match="`sdk: gradio`.*'docker'"):
        script.space_files(checkout)


def test_dry_run_of_this_repository_lists_the_bundled_weights_and_needs_no_torch(tmp_path):
    assert os.access(SCRIPT, os.X_OK)
    code = f"""
import runpy, sys
sys.modules["torch"] = None
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--repo-id", SPACE, "--dry-run"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split()[1] for line in done.stderr.splitlines()}
    assert {
        "app.py",
        "page/server.py",
        "page/view/static/page.js",
        "README.md",
        f"faceattr/weights/{DEFAULT_MODEL}/model.safetensors",
    } <= listed
    assert not any(path.startswith(("train/", "tests/")) for path in listed)


def test_a_revision_without_a_model_is_a_usage_error(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(["--repo-id", SPACE, "--revision", "main"])
    assert caught.value.code == 2
    assert "--revision belongs to --model" in capsys.readouterr().err
