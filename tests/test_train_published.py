"""The script that trains the published weights gives each recipe what it asks for."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from train.recipe import RECIPES

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "train_published"


def runs():
    """(recipe, seed, rest of the line) of each `fit` line, in order."""
    text = SCRIPT.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^ *fit ([\w-]+) (\d+)(.*)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name, _, rest", runs(), ids=[run[0] for run in runs()])
def test_each_run_gets_the_start_and_the_teachers_its_recipe_needs(name, _, rest):
    recipe = RECIPES[name]()
    assert recipe.continues == ("--start" in rest)
    assert (recipe.distillation is not None) == ("--teacher" in rest)


def test_the_table_of_the_docs_names_the_same_runs():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    told = {}
    for line in re.findall(r"^\| \**`.*$", page, flags=re.MULTILINE):
        name, _, start, teachers = (
            re.findall(r"`([\w-]+)`", cell) for cell in line.split("|")[1:5]
        )
        seed = re.search(r"\(seed (\d+)\)", line)
        told[name[0]] = (seed[1] if seed else "0", start, teachers)
    assert told == {
        name: (
            seed,
            re.findall(r'--start "\$\(weights ([\w-]+)\)', rest),
            re.findall(r'--teacher "\$\(weights ([\w-]+)\)', rest),
        )
        for name, seed, rest in runs()
    }


def test_runs_need_only_earlier_runs():
    done = set()
    for name, _, rest in runs():
        assert set(re.findall(r"\$\(weights ([\w-]+)\)", rest)) <= done
        done.add(name)


@pytest.mark.parametrize("network", ["FaceAttrNet", "LightweightMTLNet224"])
def test_the_published_weights_come_from_it(network):
    config = json.loads((ROOT / "faceattr/weights" / network / "config.json").read_text())
    known = {(name, int(seed)) for name, seed, _ in runs()}

    def check(training):
        assert (training["recipe"], training["seed"]) in known
        for origin in [*(training.get("teachers") or []), training.get("start")]:
            if origin:
                check(origin)

    check(config["training"])


def test_it_refuses_an_unknown_network(tmp_path):
    command = [str(SCRIPT), "data", str(tmp_path / "runs"), "ResNet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected FaceAttrNet or LightweightMTLNet224, came 'ResNet'" in done.stderr
