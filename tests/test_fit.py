"""Runs: what they leave behind, how they are stopped, killed and gone on with, what they refuse."""

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
from synthetic import TINY_FACEATTRNET, write_fairface

import train.answers as answers_module
from faceattr import labels
from faceattr.config import ModelConfig
from faceattr.hub import find_weights, read_config
from faceattr.model import load_model
from train.__main__ import main
from train.answers import Answers, AnswersError, store
from train.config import Distillation, Mitigation, Stage
from train.data.batches import Views, Wanted
from train.data.source import Rows, Source, sha256
from train.fit import checkpoint as checkpoint_module
from train.fit.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    only_run,
    write_atomically,
)
from train.fit.command import fit
from train.fit.select import Measured, adjusted, keep
from train.fit.settings import Settings, TrainingError
from train.fit.signals import Stopped
from train.fit.trainer import Trainer
from train.provenance import runs_behind
from train.recipes import smoke

ROOT = Path(__file__).resolve().parents[1]
SHORT = replace(smoke(), epochs=1, stages=(Stage(0, 16),))
TAUGHT = replace(
    smoke(),
    name="taught",
    architecture="FaceAttrNet",
    sizes=TINY_FACEATTRNET,
    distillation=Distillation(),
    child_gender=2.0,
    logit_adjustment={"age": 0.5},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_fairface(tmp_path_factory.mktemp("rows"), train=67, validation=8, side=32)


def settings(output, data, **changes):
    return replace(Settings(output, Source(str(data)), checkpoint_every=2), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A smoke run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(smoke(), settings(folder, data))
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory, finished, data):
    """Answers of the finished run to two views of each row."""
    folder = tmp_path_factory.mktemp("answers")
    rows = Rows(Source(str(data)), "train")
    assert store([finished / "model"], rows, TAUGHT.augmentation, folder, seed=4, views=2)
    return folder


def last_state(folder):
    """The checkpoint before the last: a finished run keeps its weights only."""
    return torch.load(checkpoints(folder)[-2], weights_only=True)


def assert_same_run(one, other):
    first, second = last_state(one), last_state(other)
    assert first["progress"]["batch"] == second["progress"]["batch"] > 0
    for part in ("model", "average"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), (part, key)
    for index, moments in first["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, second["optimizer"]["state"][index][key])
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first["history"] == second["history"]
    states = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_run_leaves_weights_history_and_facts(finished):
    model = load_model(finished / "model")
    facts = model.config.training
    assert model.config.preprocessing.image_size in {24, 32}
    assert (facts["dataset"]["rows"], facts["dataset"]["holdout_rows"]) == (64, 3)
    assert (facts["recipe"], facts["start"], facts["teachers"], facts["runs"]) == (
        "smoke",
        None,
        [],
        {},
    )
    stored = load_file(finished / "model" / "model.safetensors")
    assert {v.dtype for v in stored.values()} == {torch.float16, torch.int64}
    assert next(model.parameters()).dtype == torch.float32
    history = [json.loads(line) for line in (finished / "history.jsonl").read_text().splitlines()]
    assert [entry["image_size"] for entry in history] == [24, 32]
    assert set(history[0]["train_loss"]) == {"gender", "age", "race"}
    assert len(checkpoints(finished)) == 2


KILLED_AT_RANDOM = """
import os, random, signal, sys, time
from pathlib import Path
from test_fit import checkpoints, fit, load_checkpoint, settings, smoke
output, data, kills = Path(sys.argv[1]), sys.argv[2], 0
while kills < 4:
    child = os.fork()
    if child == 0:
        fit(smoke(), settings(output, data, resume=bool(checkpoints(output))))
        os._exit(0)
    # The first falls into the run for certain, however fast the machine.
    while kills == 0 and not checkpoints(output):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1.5) if kills else 0)
    os.kill(child, signal.SIGKILL)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
    kills += 1
if not (checkpoints(output) and load_checkpoint(output)["progress"]["finished"]):
    fit(smoke(), settings(output, data, resume=bool(checkpoints(output))))
sys.exit(0 if kills else "no kill fell into the run")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_random_and_resumed_equals_uninterrupted(finished, tmp_path, data):
    """Bit for bit, wherever the kills fall."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": paths}
    output = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-c", KILLED_AT_RANDOM, str(output), str(data)]
    subprocess.run(command, cwd=ROOT, env=os.environ | threads, check=True)
    assert_same_run(finished, output)


def run_until_signal(recipe, told, number, after):
    """A run that is sent a signal after some steps; where it stands then."""
    trainer, steps = Trainer(recipe, told), []
    if told.resume:
        trainer.resume()
    step = trainer.stepper.step

    def counted(*args):
        steps.append(1)
        if len(steps) == after:
            os.kill(os.getpid(), number)
        return step(*args)

    trainer.stepper.step = counted
    told.output.mkdir(exist_ok=True)
    with pytest.raises(Stopped):
        trainer.run()
    progress = load_checkpoint(told.output)["progress"]
    return progress["epoch"], progress["batch"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_resuming_equals_uninterrupted(number, finished, tmp_path, data):
    output = tmp_path / "stopped"
    assert run_until_signal(smoke(), settings(output, data), number, 5) == (0, 5)
    fit(smoke(), settings(output, data, resume=True))
    assert_same_run(finished, output)


def test_a_run_that_moves_to_another_machine_says_both(tmp_path, data, monkeypatch):
    output = tmp_path / "moved"
    for number, machine in enumerate(["1 × GPU", "CPU", "CPU"]):
        monkeypatch.setattr("train.fit.trainer.hardware", lambda *_, machine=machine: machine)
        told = settings(output, data, resume=number > 0)
        if number < 2:
            run_until_signal(smoke(), told, signal.SIGTERM, 2)
        else:
            fit(smoke(), told)
    facts = read_config(find_weights(output / "model")).training
    assert facts["hardware"] == "1 × GPU, then CPU"


@pytest.mark.parametrize(
    "recipe",
    [TAUGHT, replace(smoke(), mixup=0.0, mitigation=Mitigation(("gender", "race", "child"), 0.5))],
    ids=["taught", "group dro"],
)
def test_every_feature_resumes_exactly(recipe, answers, tmp_path, data):
    given = answers if recipe.distillation else None
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(recipe, settings(whole, data, answers=given))
    told = settings(parts, data, answers=given)
    assert run_until_signal(recipe, told, signal.SIGTERM, 11) == (1, 3)
    fit(recipe, replace(told, resume=True))
    assert_same_run(whole, parts)
    shares = [last_state(folder)["groups"] for folder in (whole, parts)]
    assert shares[0] is None or torch.equal(*shares)


def test_views_that_are_drawn_once_teach_the_same(answers, tmp_path, data, monkeypatch):
    recipe = replace(TAUGHT, epochs=5, stages=(Stage(0, 24), Stage(2, 32)))
    fit(recipe, settings(tmp_path / "anew", data, answers=answers))
    monkeypatch.setenv("FACEATTR_VIEWS", str(tmp_path / "views"))
    command = ["views", "--recipe", "smoke", "--sides", "24", "--views", "1", "--seed", "4"]
    assert main([*command, "--data", str(data)]) == 0
    fit(recipe, settings(tmp_path / "once", data, answers=answers))
    assert_same_run(tmp_path / "anew", tmp_path / "once")
    # Epochs show views 0, 1 at 24 pixels and 0, 1, 0 at 32.
    names = sorted(path.name[17:] for path in (tmp_path / "views").glob("*.u8"))
    assert names == ["24-0.u8", "24-1.u8", "32-0.u8", "32-1.u8"]
    monkeypatch.delenv("FACEATTR_VIEWS")
    assert main([*command, "--data", str(data)]) == 1


def test_another_seed_gives_another_network(finished, tmp_path, data):
    fit(SHORT, settings(tmp_path / "a", data))
    fit(SHORT, settings(tmp_path / "b", data, seed=1))
    states = [last_state(tmp_path / name)["model"] for name in "ab"]
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_network_learns_rows_by_heart(tmp_path, data):
    recipe = replace(
        SHORT,
        epochs=30,
        architecture="FaceAttrNet",
        sizes=TINY_FACEATTRNET,
        augmentation=replace(smoke().augmentation, **dict.fromkeys(vars(smoke().augmentation), 0)),
        mixup=0.0,
        label_smoothing=0.0,
        age_spread=0.0,
        learning_rate=2e-2,
        stages=(Stage(0, 32),),
    )
    fit(recipe, settings(tmp_path / "run", data, limit=32))
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    first, last = (sum(json.loads(history[n])["train_loss"].values()) for n in (0, -1))
    assert last < 0.4 * first


def test_answers_are_the_teachers_means_and_are_replayed_by_row_and_view(answers, finished, data):
    stored = Answers(answers)
    rows = Rows(Source(str(data)), "train")
    stored.check(rows, TAUGHT.augmentation)
    views = Views(rows, TAUGHT.augmentation, 4, plain=True)
    model = load_model(finished / "model")
    side = model.config.preprocessing.image_size
    expected = []
    for row, view in ((5, 0), (5, 1), (40, 1)):
        both = np.stack([views.view(Wanted(row, view, side, m)) for m in (False, True)])
        with torch.inference_mode():
            found = model.probabilities(model.config.preprocessing.from_pixels(both))
        expected.append(found["race"].mean(0))
    got = stored.of(torch.tensor([5, 5, 40]), torch.tensor([0, 1, 1]))["race"]
    torch.testing.assert_close(got, torch.stack(expected), atol=2e-3, rtol=0)


def test_interrupted_answers_go_on_and_all_of_them_need_no_second_call(
    answers, finished, tmp_path, data, monkeypatch
):
    rows = Rows(Source(str(data)), "train")
    told = ([finished / "model"], rows, TAUGHT.augmentation, tmp_path)
    calls, answer = [], answers_module._mean_answer

    def told_to_stop(*given):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(*given)

    def assert_answered():
        found, expected = (np.fromfile(f / "answers.f16", np.float16) for f in (tmp_path, answers))
        np.testing.assert_allclose(found, expected, atol=1e-3)

    monkeypatch.setattr(answers_module, "_mean_answer", told_to_stop)
    monkeypatch.setitem(answers_module._BATCH, "cpu", 48)
    with pytest.raises(Stopped):
        store(*told, seed=4, views=2)
    with pytest.raises(AnswersError, match="holds 48 of 128 answers"):
        Answers(tmp_path)
    # Another device takes other batches.
    monkeypatch.setitem(answers_module._BATCH, "cpu", 40)
    assert store(*told, seed=4, views=2)
    assert len(calls) == 4
    assert not store(*told, seed=4, views=2)
    assert_answered()
    (tmp_path / "answers.f16").unlink()
    with pytest.raises(AnswersError, match="or has lost answers.f16"):
        Answers(tmp_path)
    assert store(*told, seed=4, views=2)
    assert_answered()
    with pytest.raises(AnswersError, match="about another seed and views"):
        store(*told, seed=5, views=3)


def test_answers_about_something_else_are_refused(answers, tmp_path, data):
    other = replace(TAUGHT, augmentation=replace(TAUGHT.augmentation, rotation=1.0))
    with pytest.raises(AnswersError, match="another augmentation"):
        fit(other, settings(tmp_path / "a", data, answers=answers))
    with pytest.raises(AnswersError, match="another rows"):
        fit(TAUGHT, settings(tmp_path / "b", data, answers=answers, limit=40))
    with pytest.raises(AnswersError, match="holds no stored answers"):
        fit(TAUGHT, settings(tmp_path / "c", data, answers=tmp_path))


def test_provenance_is_a_flat_list_of_runs_by_digest(finished, answers, tmp_path, data):
    taught = fit(TAUGHT, settings(tmp_path / "taught", data, answers=answers))
    teacher, student = (sha256(f / "model.safetensors") for f in (finished / "model", taught))
    facts = read_config(find_weights(taught)).training
    assert (facts["start"], facts["teachers"], set(facts["runs"])) == (None, [teacher], {teacher})
    runs = runs_behind([taught])
    assert set(runs) == {teacher, student}
    assert runs[student]["teachers"] == [teacher]
    assert runs[teacher]["recipe"] == "smoke"
    assert not any("runs" in run for run in runs.values())


def test_what_a_recipe_needs_and_is_given_must_go_together(finished, answers, tmp_path, data):
    for recipe, given, words in (
        (TAUGHT, {}, "needs --answers"),
        (smoke(), {"answers": answers}, "does not take --answers"),
        (replace(smoke(), batch_size=7), {"world": 2}, "evenly"),
        (smoke(), {"limit": 0}, "--limit"),
        (smoke(), {"checkpoint_every": 0}, "--checkpoint-every"),
        (replace(smoke(), batch_size=65), {}, "do not fill one batch"),
    ):
        with pytest.raises(TrainingError, match=words):
            fit(recipe, settings(tmp_path / "run", data, **given))


def test_what_does_not_fit_a_checkpoint_is_not_resumed(finished, data):
    for recipe, changes, words in (
        (replace(smoke(), learning_rate=1.0), {}, "recipe"),
        (smoke(), {"seed": 9}, "seed"),
        (smoke(), {"limit": 40}, "data"),
        (smoke(), {"precision": "bfloat16"}, "precision"),
    ):
        with pytest.raises(CheckpointError, match=f"another {words}"):
            fit(recipe, settings(finished, data, resume=True, **changes))
    with pytest.raises(CheckpointError, match="already holds a run"):
        fit(smoke(), settings(finished, data))


def test_a_damaged_checkpoint_is_named_and_a_missing_one_too(finished, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_checkpoint(tmp_path)
    for place, path in enumerate(checkpoints(finished)):
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if place else content)
    with pytest.raises(CheckpointError, match=r"0002-000000.pt is damaged.*go on from checkpoint"):
        load_checkpoint(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"before")

    def fails(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.os, "fsync", fails)
    with pytest.raises(CheckpointError, match="make room"):
        checkpoint_module.save_checkpoint(tmp_path, {"progress": {"epoch": 0, "batch": 1}})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_two_runs_in_one_folder_are_refused(tmp_path):
    words = "another process"
    with only_run(tmp_path), pytest.raises(CheckpointError, match=words), only_run(tmp_path):
        pass


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights(tmp_path, data):
    trainer = Trainer(SHORT, settings(tmp_path, data))
    with torch.no_grad():
        trainer.stepper.model.fc.bias.fill_(float("inf"))
    before = {key: value.clone() for key, value in trainer.stepper.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"not finite after 0\.000 epochs"):
        trainer.run()
    after = trainer.stepper.model.state_dict()
    names = [name for name, _ in trainer.stepper.model.named_parameters()]
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_the_reports_rule_stops_when_the_loss_falls_too_little(tmp_path, data):
    recipe = replace(SHORT, epochs=6, min_gain=5.0)
    fit(recipe, settings(tmp_path / "run", data))
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2


def test_weights_are_scored_by_calibrated_loss():
    rng = np.random.default_rng(0)
    targets = np.stack([rng.integers(0, n, 400) for n in (2, 9, 7)], 1)
    logits = {
        name: torch.from_numpy(rng.normal(size=(400, n)) + 2 * np.eye(n)[targets[:, c]]).float()
        for c, (name, n) in enumerate({"gender": 2, "age": 9, "race": 7}.items())
    }
    plain = Measured(32, {}, {}, logits, targets)
    sure = Measured(32, {}, {}, {name: 5 * value for name, value in logits.items()}, targets)
    assert sure.score() == pytest.approx(plain.score(), abs=1e-3)


TOGETHER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from test_fit import Trainer, settings, smoke
from train.fit.command import join
rank, world, device = join(torch.device("cpu"))
output, data = Path(sys.argv[1]), sys.argv[2]
output.mkdir(exist_ok=True)
trainer = Trainer(smoke(), settings(output, data, rank=rank, world=world))
trainer.run()
told = [None] * world
torch.distributed.all_gather_object(told, [entry["train_loss"] for entry in trainer.history])
assert told[0] == told[1], told
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_together_and_are_not_resumed_by_one(tmp_path, data):
    output = tmp_path / "together"
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run([*command, str(script), str(output), str(data)], env=environment, check=True)
    facts = read_config(find_weights(output / "model")).training
    assert (facts["processes"], facts["dataset"]["rows"]) == (2, 64)
    losses = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    with pytest.raises(CheckpointError, match="another processes"):
        fit(smoke(), settings(output, data, resume=True))


def test_a_config_that_fit_writes_is_small_and_read_strictly(finished):
    path = finished / "model" / "config.json"
    assert path.stat().st_size < 12_000
    assert ModelConfig.from_dict(json.loads(path.read_text())).training["recipe"] == "smoke"


def rare_class(rows, seed):
    """Race answers where the rare class's logits lie too low by the log of its share."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.07, 0.03])
    true = rng.choice(7, rows, p=shares)
    logits = rng.normal(0, 1, (rows, 7)) + 2.5 * np.eye(7)[true] + np.log(shares)
    targets = np.stack([rng.integers(0, len(t.classes), rows) for t in labels.TASKS], 1)
    column = [t.name for t in labels.TASKS].index("race")
    targets[:, column] = true
    values = {t.name: 9 * np.eye(len(t.classes))[targets[:, i]] for i, t in enumerate(labels.TASKS)}
    values["race"] = logits
    tensors = {name: torch.from_numpy(v).float() for name, v in values.items()}
    return Measured(32, {}, {}, tensors, targets), column


def test_rare_classes_are_answered_more_often_as_far_as_it_costs_little():
    measured, column = rare_class(4000, 1)
    true = measured.targets[:, column]

    def found(one):
        right = one.logits["race"].numpy().argmax(1) == true
        return right.mean(), min(right[true == c].mean() for c in range(7))

    before = found(measured)
    for most_lost in (0.0, 0.003, 0.02):
        after, added, taus = adjusted(measured, measured.targets, most_lost)
        overall, worst = found(after)
        assert overall >= before[0] - most_lost - 1e-9
        assert worst >= before[1]
        assert taus["gender"] == taus["age"] == 0.0  # Nothing to gain where all is right.
        torch.testing.assert_close(
            after.logits["race"] - measured.logits["race"], added["race"].expand(4000, 7)
        )
    assert taus["race"] > 0 and worst > before[1] + 0.05


def test_what_is_added_for_rare_classes_is_in_the_kept_weights(finished, tmp_path):
    model = load_model(finished / "model")
    measured, _ = rare_class(50, 2)
    added = {t.name: torch.arange(len(t.classes)).float() for t in labels.TASKS}
    keep(model, measured, model.config.training, tmp_path / "model", added)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        plain, kept = model(images), load_model(tmp_path / "model")(images)
    for name, values in added.items():
        torch.testing.assert_close(kept[name], plain[name] + values, atol=2e-2, rtol=1e-2)
