import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax

from faceattr.hub import load_model
from faceattr.labels import TASKS
from train.calibration import fit_temperature, negative_log_likelihood
from train.checkpoint import CheckpointError, load_checkpoint
from train.loop import Settings, Stopped, Trainer, TrainingError, fit
from train.recipe import RECIPES, Recipe, Stage, smoke
from train.samples import Source
from train.steps import learning_rate, make_average, task_losses

ROOT = Path(__file__).resolve().parents[1]
KILLED_AT_STEP = """
import os, signal, sys
from train import loop
from train.__main__ import main
step, calls = loop.Trainer._step, []
def killing(self, *args):
    calls.append(1)
    if len(calls) == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)
loop.Trainer._step = killing
main(sys.argv[1:])
"""


def settings(output, data, **changes):
    return replace(Settings(output=output, source=Source(str(data))), **changes)


def state(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same_run(one, other):
    first, second = load_checkpoint(one), load_checkpoint(other)
    for part in ("model", "average"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), (part, key)
    for index, moments in first["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, second["optimizer"]["state"][index][key])
    assert first["history"] == second["history"]
    assert all(torch.equal(v, state(other)[k]) for k, v in state(one).items())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_fairface):
    """A smoke run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(smoke(), settings(folder, tiny_fairface))
    return folder


def test_a_run_leaves_weights_history_and_facts(finished):
    model = load_model(finished / "model")
    assert model.config.preprocessing.image_size in {24, 32}
    facts = model.config.training
    assert facts["dataset"]["rows"] == 114
    assert facts["dataset"]["holdout_rows"] == 6
    history = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert [entry["image_size"] for entry in history] == [24, 32]
    assert set(history[0]["train_loss"]) == {"gender", "age", "race"}


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(finished, tmp_path, tiny_fairface):
    output = tmp_path / "killed"
    arguments = ["fit", "--recipe", "smoke", "--data", str(tiny_fairface), "--device", "cpu"]
    arguments += ["--output", str(output), "--checkpoint-every", "4"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED_AT_STEP.format(step=21), *arguments]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=False)
    assert killed.returncode == -signal.SIGKILL
    progress = load_checkpoint(output)["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 4)
    command = [sys.executable, "-m", "train", *arguments, "--resume"]
    subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=True, capture_output=True)
    assert_same_run(finished, output)


def test_memory_cache_changes_nothing(finished, tmp_path, tiny_fairface):
    fit(smoke(), settings(tmp_path / "cached", tiny_fairface, cache_memory=True))
    assert_same_run(finished, tmp_path / "cached")


def test_sigterm_saves_and_resuming_equals_uninterrupted(
    finished, tmp_path, tiny_fairface, monkeypatch
):
    step, calls = Trainer._step, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(Stopped):
        fit(smoke(), settings(tmp_path / "run", tiny_fairface))
    assert load_checkpoint(tmp_path / "run")["progress"]["batch"] == 6
    fit(smoke(), settings(tmp_path / "run", tiny_fairface, resume=True))
    assert_same_run(finished, tmp_path / "run")


def test_another_seed_gives_another_network(finished, tmp_path, tiny_fairface):
    fit(smoke(), settings(tmp_path / "other", tiny_fairface, seed=1))
    first, second = state(finished), state(tmp_path / "other")
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


def test_a_folder_that_holds_a_run_is_not_overwritten(finished, tiny_fairface):
    with pytest.raises(CheckpointError, match="already holds a run"):
        fit(smoke(), settings(finished, tiny_fairface))


def test_a_changed_recipe_or_seed_is_not_resumed(finished, tiny_fairface):
    with pytest.raises(CheckpointError, match="another recipe and seed"):
        fit(replace(smoke(), epochs=3), settings(finished, tiny_fairface, seed=1, resume=True))


def test_a_damaged_checkpoint_is_named(tmp_path, tiny_fairface):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
        fit(smoke(), settings(tmp_path, tiny_fairface, resume=True))


def test_resuming_nothing_says_so(tmp_path, tiny_fairface):
    with pytest.raises(CheckpointError, match="start without --resume"):
        fit(smoke(), settings(tmp_path, tiny_fairface, resume=True))


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path, tiny_fairface, monkeypatch):
    def broken(logits, targets, smoothing):
        return {n: v * float("nan") for n, v in task_losses(logits, targets, smoothing).items()}

    monkeypatch.setattr("train.loop.task_losses", broken)
    with pytest.raises(TrainingError, match=r"not finite at epoch 1, batch 1.*learning_rate"):
        fit(smoke(), settings(tmp_path, tiny_fairface))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path, tiny_fairface, monkeypatch
):
    step, calls = torch.optim.AdamW.step, []

    def counting(self, *args, **kwargs):
        calls.append(1)
        return step(self, *args, **kwargs)

    def exploding(logits, targets, smoothing):
        losses = task_losses(logits, targets, smoothing)
        if len(calls) == 3:
            logits["age"].register_hook(lambda gradient: gradient * float("inf"))
        return losses

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    monkeypatch.setattr("train.loop.task_losses", exploding)
    with pytest.raises(TrainingError, match=r"batch 4.*weights were not changed"):
        fit(smoke(), settings(tmp_path, tiny_fairface, checkpoint_every=1))
    assert len(calls) == 3
    saved = load_checkpoint(tmp_path)
    assert saved["progress"]["batch"] == 3
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_too_few_rows_for_a_batch_is_an_error(tmp_path, tiny_fairface):
    with pytest.raises(TrainingError, match="114 training rows do not fill one batch of 500"):
        fit(replace(smoke(), batch_size=500), settings(tmp_path, tiny_fairface))


def test_the_reports_rule_stops_when_the_loss_falls_too_little(tmp_path, tiny_fairface):
    lazy = replace(smoke(), epochs=9, min_gain=5.0, learning_rate=1e-6, stages=(Stage(0, 32),))
    fit(lazy, settings(tmp_path, tiny_fairface))
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_the_network_learns_rows_by_heart(tmp_path, tiny_fairface):
    plain = Recipe(
        "memorise",
        epochs=12,
        batch_size=19,
        learning_rate=1e-2,
        stages=(Stage(0, 32),),
        widths=(16, 16, 16, 32, 32, 64, 64),
        hidden=32,
    )
    fit(plain, settings(tmp_path, tiny_fairface))
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    losses = [sum(entry["train_loss"].values()) for entry in history]
    assert losses[-1] < 0.6 * losses[0]


def test_losses_are_mean_cross_entropies_by_task():
    rng = np.random.default_rng(0)
    logits = {t.name: torch.from_numpy(rng.normal(size=(5, len(t.classes)))) for t in TASKS}
    targets = torch.tensor([[i % len(t.classes) for t in TASKS] for i in range(5)])
    losses = task_losses(logits, targets)
    for column, task in enumerate(TASKS):
        chosen = log_softmax(logits[task.name].numpy(), axis=1)[range(5), targets[:, column]]
        assert float(losses[task.name]) == pytest.approx(-chosen.mean(), rel=1e-5)


def test_schedule_warms_up_and_falls_to_zero():
    recipe = replace(smoke(), epochs=10, warmup_epochs=2.0, learning_rate=1.0)
    assert learning_rate(recipe, 1.0) == pytest.approx(0.5)
    assert learning_rate(recipe, 2.0) == pytest.approx(1.0)
    assert learning_rate(recipe, 6.0) == pytest.approx(0.5)
    assert learning_rate(recipe, 10.0) == pytest.approx(0.0)
    constant = replace(recipe, schedule="constant", warmup_epochs=0.0)
    assert learning_rate(constant, 9.9) == 1.0


def test_average_starts_fast_and_slows_to_its_decay():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = make_average(layer, 0.9)
    expected = None
    for step in range(40):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        average.update_parameters(layer)
        weight = min(0.9, (1 + step) / (10 + step))
        expected = float(step) if expected is None else weight * expected + (1 - weight) * step
    assert float(average.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4000, 5)) * 1.5
    chances = np.exp(log_softmax(honest, axis=1))
    targets = np.array([rng.choice(5, p=row) for row in chances])
    found = fit_temperature(honest * 3, targets)
    assert found == pytest.approx(3.0, rel=0.1)
    below = negative_log_likelihood(honest * 3, targets, found)
    assert below < negative_log_likelihood(honest * 3, targets, 1.0)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_carry_their_own_name(name):
    assert RECIPES[name]().name == name


def test_report_recipe_is_the_reports():
    recipe = RECIPES["report"]()
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs) == ("adam", 1e-3, 10)
    assert recipe.min_gain == 0.1
    assert recipe.ema_decay is None
    assert not recipe.augmentation.moves_pixels


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"label_smoothing": 1.0},
        {"ema_decay": 1.0},
        {"stages": ()},
        {"stages": (Stage(1, 64),)},
        {"stages": (Stage(0, 24), Stage(2, 32))},
        {"min_gain": 0.1},
        {"stages": (Stage(0, 64), Stage(0, 96))},
    ],
)
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ValueError, match="must"):
        replace(smoke(), **changes)
