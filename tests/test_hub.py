"""Loading from the Hub: bounded waits, the cache, and either file of weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

from faceattr.hub import DEFAULT_MODEL, HUB_LIMIT_S

ROOT = Path(__file__).resolve().parents[1]
REPO = "user/faces"
LOAD = """
import json, sys, time
from faceattr.errors import FaceAttrError
from faceattr.pipeline import FacePipeline
answers = []
for backend, revision in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        info = FacePipeline.from_pretrained("user/faces", revision, "haar", backend=backend).info
        answer = [info.backend, info.revision]
    except FaceAttrError as error:
        answer = [str(error), None]
    answers.append([*answer, "torch" in sys.modules, time.monotonic() - started])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def files(exported_weights):
    """Tiny weights and their ONNX file, by name."""
    return {path.name: path.read_bytes() for path in exported_weights.iterdir()}


def load(hub, home, *wanted):
    """Load in a process of its own, whose client asks `hub` only."""
    command = [sys.executable, "-c", LOAD, json.dumps(wanted)]
    done = subprocess.run(
        command, cwd=ROOT, env=hub.environment(home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_onnx_comes_from_the_hub_without_pytorch_and_then_from_the_cache(files, tmp_path):
    with HubServer() as hub:
        repo = hub.add_repo(REPO)
        commit = repo.commit("main", files)
        (first,) = load(hub, tmp_path, ("onnx", None))
        assert first[:3] == ["onnx", commit, False]
        assert not any("safetensors" in path for _, path in hub.requests)
        hub.requests.clear()
        (pinned,) = load(hub, tmp_path, ("onnx", commit))
        assert pinned[:3] == ["onnx", commit, False]
        assert not any(REPO in path for _, path in hub.requests)
    started_again, unknown = load(hub, tmp_path, ("onnx", None), ("torch", None))
    assert started_again[:2] == ["onnx", commit]
    assert started_again[3] < HUB_LIMIT_S + 1
    assert "cannot be reached" in unknown[0]
    assert unknown[3] < HUB_LIMIT_S + 4


def test_a_repository_without_an_onnx_file_is_explained_or_done_with_pytorch(files, tmp_path):
    with HubServer() as hub:
        repo = hub.add_repo(REPO)
        commit = repo.commit("main", {k: v for k, v in files.items() if k != "model.onnx"})
        insists, automatic = load(hub, tmp_path, ("onnx", None), ("auto", None))
    assert "cannot download model.onnx of 'user/faces'" in insists[0]
    assert "HTTP 404" in insists[0]
    assert automatic[:2] == ["torch", commit]


def test_a_fault_of_the_hub_is_not_taken_for_a_missing_onnx_file(files, tmp_path):
    with HubServer() as hub:
        hub.add_repo(REPO).commit("main", files)
        hub.fail_next("HEAD", "model.onnx", 403)
        (automatic,) = load(hub, tmp_path, ("auto", None))
    assert "model.onnx of 'user/faces' is not in the local cache" in automatic[0]


def test_what_is_in_the_cache_is_used_at_once_when_the_hub_is_gone(files, tmp_path):
    """A cached commit without its ONNX file: one short wait, not the client's 23 s of retries."""
    with HubServer() as hub:
        commit = hub.add_repo(REPO).commit("main", files)
        assert load(hub, tmp_path, ("torch", commit))[0][:2] == ["torch", commit]
    (automatic,) = load(hub, tmp_path, ("auto", commit))
    assert automatic[:2] == ["torch", commit]
    assert automatic[3] < HUB_LIMIT_S + 12


START = """
import json, sys, time
import app
from page.service import FaceService
started = time.monotonic()
pipeline, note = app.load_pipeline()
service = FaceService(pipeline)
took = time.monotonic() - started
print(json.dumps([pipeline.info.model, pipeline.info.detector, note, took]))
"""


@pytest.mark.parametrize("known", [True, False])
def test_the_page_waits_only_once_for_a_hub_that_does_not_answer(files, tmp_path, known):
    """Weights, ONNX file, report and licence are all looked for there."""
    with HubServer() as hub:
        hub.add_repo(REPO).commit("main", files)
        if known:
            load(hub, tmp_path, ("onnx", None))
        hub.requests.clear()
        hub.hang()
        environment = {**hub.environment(tmp_path), "FACEATTR_MODEL": REPO}
        done = subprocess.run(
            [sys.executable, "-c", START], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        model, detector, note, took = json.loads(done.stdout)
        assert len([path for _, path in hub.requests if "/resolve/" in path]) <= 1
    assert (model, note is None) == ((REPO, True) if known else (DEFAULT_MODEL, False))
    assert detector == "yunet"
    assert took < HUB_LIMIT_S + 4


def test_the_file_that_is_missing_is_named_and_what_keeps_the_hub_away(files, tmp_path):
    with HubServer() as hub:
        hub.add_repo(REPO).commit("main", {k: v for k, v in files.items() if k != "config.json"})
        (bare,) = load(hub, tmp_path, ("onnx", None))
        switched_off = {**hub.environment(tmp_path), "HF_HUB_OFFLINE": "1"}
        hub.environment = lambda home: switched_off
        (offline,) = load(hub, tmp_path, ("onnx", None))
    assert "cannot download config.json of 'user/faces'" in bare[0]
    assert offline[0].startswith("the Hub is switched off by HF_HUB_OFFLINE and config.json of")
