"""`python -m train published`: a short table of runs, killed on the way, gone on with, finished."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import pytest
from synthetic import TINY_FACEATTRNET, write_fairface

from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import ONNX_NAME, WEIGHTS_NAME
from faceattr.hub import find_weights
from faceattr.model import load_model
from train.__main__ import main
from train.config import Distillation, Recipe, Stage
from train.data.source import Source
from train.published import TABLE, Chain, ChainError, Publish, Run, Teach, check_commit, make, plan
from train.recipes import smoke
from train.tables import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]


def first() -> Recipe:
    """The teacher."""
    return replace(smoke(), stages=(Stage(0, 24), Stage(1, 32)))


def second() -> Recipe:
    """The student."""
    return replace(
        smoke(),
        name="taught",
        epochs=1,
        architecture="FaceAttrNet",
        sizes=TINY_FACEATTRNET,
        distillation=Distillation(),
        stages=(Stage(0, 32),),
    )


TINY = (
    Run("first", first, 0, hours=0.1),
    Teach("answers", ("first",), second, seed=0, views=2, hours=0.1),
    Run("second", second, 0, hours=0.1, answers="answers"),
    Publish("FaceAttrNet", "second"),
)


def run_until_killed(chain: Chain, seconds: float) -> bool:
    """Make a chain in a process of its own that is killed after a while; whether it was."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            make(chain)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore")
def test_a_chain_that_is_killed_goes_on_to_its_end_and_a_second_call_does_nothing(tmp_path):
    # As many rows as give the holdout, and so the audit table, every class.
    data = write_fairface(tmp_path / "data", train=500, validation=24, side=32)
    chain = Chain(TINY, Source(str(data)), tmp_path / "runs")
    rng = random.Random()
    # The first comes early: a fast machine needs little more than a second for the whole chain.
    kills = [run_until_killed(chain, rng.uniform(0.05, most)) for most in (0.2, 1.0, 2.5)]
    assert any(kills)
    make(chain)
    assert not make(chain)
    folder = tmp_path / "runs" / "weights" / "FaceAttrNet"
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "audit.json",
        "config.json",
        "figures",
        "history.jsonl",
        "model.onnx",
        "model.safetensors",
        "report.json",
    }
    report = read_json(folder / "report.json")
    assert (report["dataset"]["rows"], "runs" in report["training"]) == (24, False)
    assert len(load_model(folder).config.training["runs"]) == 1
    assert OnnxClassifier(find_weights(folder, file=ONNX_NAME)).config.architecture == "FaceAttrNet"
    assert plan(chain).count("done") == 4
    (folder / "report.json").unlink()
    assert plan(chain).count("done") == 3
    alone = Chain(TINY[:1], Source(str(data)), tmp_path / "alone")
    make(alone)
    found = [tmp_path / name / "first" / "model" / WEIGHTS_NAME for name in ("runs", "alone")]
    assert found[0].read_bytes() == found[1].read_bytes()


SHARED = (TINY[0], Run("third", first, 1, hours=0.1), *TINY[1:])
ONE_OF_SEVERAL = """
import logging, sys
from pathlib import Path
from test_chain import SHARED, Chain, Source, make
logging.basicConfig(level=logging.INFO, format="%(message)s")
make(Chain(SHARED, Source(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_two_calls_at_once_share_the_steps(tmp_path):
    data = write_fairface(tmp_path / "data", train=500, validation=24, side=32)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        ONE_OF_SEVERAL,
        str(data),
        str(tmp_path / "runs"),
    ]
    calls = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, text=True, stderr=PIPE
        )
        for _ in range(2)
    ]
    said = [call.communicate()[1] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], said
    chain = Chain(SHARED, Source(str(data)), tmp_path / "runs")
    assert plan(chain).count("done") == 5
    # Neither was refused, and no epoch was trained twice: two runs of two and one of one.
    assert sum(words.count('{"epoch"') for words in said) == 5


def test_runs_of_another_commit_are_not_gone_on_with(tmp_path):
    write_json(tmp_path / "chain.json", {"git_commit": "0123"})
    check_commit(tmp_path, "0123")
    with pytest.raises(ChainError, match="begun at commit 0123, this is 4567"):
        check_commit(tmp_path, "4567")


def test_a_dry_run_says_what_is_left_and_does_nothing(tmp_path, tiny_fairface, capsys):
    command = ["published", str(tiny_fairface), str(tmp_path / "runs"), "--dry-run"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [step.name for step in TABLE]
    assert lines[-1].startswith("left: about")
    assert not Path(tmp_path / "runs").exists()


def test_the_table_makes_each_published_network_once_from_steps_that_come_before():
    made: set[str] = set()
    for step in TABLE:
        assert set(step.needs) <= made
        made.add(step.name)
    published = [step.name for step in TABLE if isinstance(step, Publish)]
    assert sorted(published) == ["FaceAttrNet", "FaceAttrNetLarge", "LightweightMTLNet224"]
