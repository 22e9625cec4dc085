"""Two processes do what one does, up to rounding, and share predictions without loss."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from synthetic import TINY_FACEATTRNET

from scripts.resume_torture import damage
from train.data.source import Source
from train.evaluate.predict import predict
from train.fit.checkpoint import CheckpointError, load_checkpoint
from train.fit.parallel import Group, WholeBatchNorm2d, join_batch_norms
from train.fit.trainer import Settings, TrainingError, fit
from train.recipe import Distillation, Mitigation, smoke

ROOT = Path(__file__).resolve().parents[1]
RICH = {
    "architecture": "FaceAttrNet",
    "sizes": TINY_FACEATTRNET,
    "optimizer": "sgd",
    "class_balance": 0.5,
    "mixup": 0.2,
    "average_epochs": 1,
    "distillation": Distillation(mirrored=True),
}
# Not Adam: where gradients all but vanish, its steps are as large as elsewhere, and of either sign.
RUNS = {"smoke": {"optimizer": "sgd", "learning_rate": 0.05}, "rich": RICH}
TOGETHER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from test_parallel import RUNS, whole
from train.fit.trainer import fit
from train.fit.parallel import join, leave
from train.evaluate.predict import predict
from train.data.source import Source
folder, data = Path(sys.argv[1]), Source(sys.argv[2])
group, device = join(torch.device("cpu"))
for name in RUNS:
    recipe, settings = whole(name, folder / name, data.path, folder / "smoke" / "model")
    fit(recipe, replace(settings, group=group))
predict(str(folder / "smoke" / "model"), data, "holdout", folder / "table.parquet", device,
        group=group)
leave(group)
"""


def whole(name, output, data, teacher=None):
    """Recipe and settings of a run of this name, by one process; `smoke` teaches `rich`."""
    recipe = replace(smoke(), **RUNS[name])
    teachers = (teacher,) if recipe.distillation else ()
    told = Settings(output, Source(str(data)), precision="float32", teachers=teachers)
    return recipe, told


@pytest.fixture(scope="module")
def data(tiny_fairface, tmp_path_factory):
    """With rows that do not decode, so that the parts of a batch differ in size."""
    return damage(tiny_fairface, tmp_path_factory.mktemp("damaged"))


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """Both runs by two gloo processes that torchrun started."""
    folder = tmp_path_factory.mktemp("together")
    script = folder / "run.py"
    script.write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [*command, "--standalone", str(script), str(folder), str(data)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_the_network_of_one(together, data, tmp_path, name):
    fit(*whole(name, tmp_path, data, together / "smoke" / "model"))
    one, two = load_checkpoint(tmp_path), load_checkpoint(together / name)
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-3, atol=1e-4)
    for first, second in zip(one["history"], two["history"], strict=True):
        for task, loss in first["train_loss"].items():
            assert second["train_loss"][task] == pytest.approx(loss, abs=1e-4)
    assert one["progress"]["skipped"] == two["progress"]["skipped"] != []
    kept = load_file(together / name / "model" / "model.safetensors")
    assert set(kept) == set(one["model"])
    config = json.loads((together / name / "model" / "config.json").read_text())
    assert config["training"]["processes"] == 2
    assert config["training"]["hardware"] == "2 processes, each CPU, 1 thread"


def test_two_processes_predict_each_row_once_in_order(together, data, tmp_path):
    alone = tmp_path / "alone.parquet"
    weights = str(together / "smoke" / "model")
    predict(weights, Source(str(data)), "holdout", alone, torch.device("cpu"))
    one, two = pq.read_table(alone), pq.read_table(together / "table.parquet")
    assert two["row"].to_pylist() == list(range(6))
    assert one.schema.equals(two.schema, check_metadata=True)
    for name in one.column_names:
        # Batches of another size, or another number of threads, round the last bits otherwise.
        exact = ":" not in name
        values, others = one[name].to_pylist(), two[name].to_pylist()
        assert values == (others if exact else pytest.approx(others, abs=1e-6)), name


def test_a_run_of_two_processes_is_not_resumed_by_one(together, data):
    recipe, settings = whole("smoke", together / "smoke", data)
    with pytest.raises(CheckpointError, match="another processes"):
        fit(recipe, replace(settings, resume=True))


def test_what_several_processes_cannot_do_is_refused(tmp_path, tiny_fairface):
    recipe, settings = whole("smoke", tmp_path, tiny_fairface)
    settings = replace(settings, group=Group(1, 9))
    with pytest.raises(TrainingError, match="cannot share batches of 8"):
        fit(recipe, settings)
    with pytest.raises(TrainingError, match="one process only"):
        fit(recipe, replace(settings, group=Group(0, 2), compile=True))
    fair = replace(recipe, mitigation=Mitigation("group_dro", 0.01))
    with pytest.raises(TrainingError, match="weighs groups by what one process sees"):
        fit(fair, replace(settings, group=Group(0, 2)))


@pytest.mark.parametrize(("count", "size"), [(8, 2), (7, 3), (2, 3)])
def test_parts_cover_everything_once(count, size):
    parts = [list(Group(rank, size).part(count)) for rank in range(size)]
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_joined_batch_norms_keep_the_parameters_and_evaluate_alike():
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    parameters = list(map(id, layer.parameters()))
    images = torch.randn(2, 3, 5, 5)
    expected = layer.eval()(images)
    join_batch_norms(layer)
    assert isinstance(layer[1], WholeBatchNorm2d)
    assert list(map(id, layer.parameters())) == parameters
    assert torch.equal(layer.eval()(images), expected)
