import hashlib
import json
import os
import shutil
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
from synthetic import TINY_FACEATTRNET

from faceattr.labels import TASKS
from faceattr.model import load_model
from train.data.order import Chunk
from train.data.source import Rows, Source, class_counts
from train.evaluate.calibration import fit_temperature, negative_log_likelihood
from train.fit import trainer as loop
from train.fit.checkpoint import CheckpointError, load_checkpoint
from train.fit.device import choose_precision
from train.fit.signals import Stopped
from train.fit.steps import (
    class_weights,
    distilled,
    learning_rate,
    make_average,
    make_equal_average,
    mix,
    resized,
    soft_losses,
    target_tables,
    task_losses,
    teacher_targets,
)
from train.fit.trainer import Measured, Settings, Trainer, TrainingError, fit
from train.recipe import RECIPES, Distillation, Recipe, Stage, smoke

ROOT = Path(__file__).resolve().parents[1]
KILLED_AT_STEP = """
import os, signal, sys
from train.fit import trainer as loop
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


def everything():
    """A recipe with the features that `smoke` leaves out."""
    return replace(
        smoke(),
        architecture="FaceAttrNet",
        sizes=TINY_FACEATTRNET,
        optimizer="sgd",
        age_spread=0.6,
        class_balance=0.5,
        loss_weights={"race": 2.0},
        mixup=0.2,
        ema_decay=None,
        average_epochs=2,
        distillation=Distillation(weight=0.5, temperature=3.0, mirrored=True),
    )


def test_distilling_with_every_feature_resumes_exactly(finished, tmp_path, tiny_fairface):
    teachers = (finished / "model", finished / "model")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(everything(), settings(whole, tiny_fairface, teachers=teachers, cache_memory=True))
    told = settings(parts, tiny_fairface, teachers=teachers)
    trainer, calls = Trainer(everything(), told), []
    step = trainer._step

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 18:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    trainer._step = interrupted
    with pytest.raises(Stopped):
        trainer.run()
    progress = load_checkpoint(parts)["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 4)
    fit(everything(), replace(told, resume=True))
    first, second = load_checkpoint(whole), load_checkpoint(parts)
    for part in ("model", "tail"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), (part, key)
    assert first["history"] == second["history"]
    facts = load_model(whole / "model").config.training["teachers"]
    assert [fact["recipe"] for fact in facts] == ["smoke", "smoke"]


def test_teachers_are_asked_about_the_same_mix_without_a_canvas(
    finished, tmp_path, tiny_fairface, monkeypatch
):
    asked, seen = [], []

    def note(teachers, images, distillation):
        asked.append(images.clone())
        return teacher_targets(teachers, images, distillation)

    monkeypatch.setattr(loop, "teacher_targets", note)
    for canvas in (0.0, 1.0):
        recipe = everything()
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, canvas=canvas))
        told = settings(tmp_path / f"{canvas}", tiny_fairface, teachers=(finished / "model",))
        trainer = Trainer(recipe, told)
        rows = list(Rows(told.source, "train").in_order())[: recipe.batch_size]
        chunk = Chunk(rows, range(len(rows)))
        images, plain, _, _ = trainer._own_batch(chunk, 24)
        trainer._step(chunk, 24)
        assert torch.equal(asked[-1], plain)
        seen.append(images)
    assert torch.equal(asked[0], seen[0])
    assert torch.equal(asked[1], asked[0])
    assert not torch.equal(seen[1], seen[0])


def test_mirrored_teachers_teach_both_views_of_a_row(finished, tmp_path, tiny_fairface):
    told = Distillation(weight=0.6, temperature=3.0, mirrored=True)
    recipe = replace(everything(), mixup=0.0, class_balance=0.0, distillation=told)
    trainer = Trainer(recipe, settings(tmp_path, tiny_fairface, teachers=(finished / "model",)))
    rows = list(Rows(trainer.settings.source, "train").in_order())[: recipe.batch_size]
    images, plain, soft, targets = trainer._own_batch(Chunk(rows, range(len(rows))), 24)
    network, shown, answered = trainer.network, [], []

    def noting(pictures):
        shown.append(pictures)
        answered.append(network(pictures))
        return answered[-1]

    trainer.network = noting
    losses = trainer._losses(images, plain, soft, targets, 24)
    torch.testing.assert_close(
        shown[0], torch.cat([resized(images, 24), resized(images.flip(3), 24)])
    )
    taught = teacher_targets(trainer.teachers, plain, told)
    for name, loss in losses.items():
        each = []
        for half in answered[0][name].chunk(2):
            plain_loss = {name: torch.nn.functional.cross_entropy(half.float(), soft[name])}
            each.append(distilled(plain_loss, {name: half}, taught, told)[name])
        torch.testing.assert_close(loss, torch.stack(each).mean())


def test_teachers_and_recipe_must_go_together(finished, tmp_path, tiny_fairface):
    with pytest.raises(TrainingError, match="learns from teachers, but 0"):
        fit(everything(), settings(tmp_path, tiny_fairface))
    with pytest.raises(TrainingError, match="has no distillation, but 1"):
        fit(smoke(), settings(tmp_path, tiny_fairface, teachers=(finished / "model",)))


def test_a_teacher_of_other_rows_or_from_elsewhere_is_refused(finished, tmp_path, tiny_fairface):
    copied = tmp_path / "other"
    shutil.copytree(finished / "model", copied)
    config = json.loads((copied / "config.json").read_text())
    config["training"]["dataset"]["rows"] = 86_000
    (copied / "config.json").write_text(json.dumps(config))
    told = settings(tmp_path / "run", tiny_fairface, teachers=(copied,))
    with pytest.raises(TrainingError, match="learned from other rows: rows"):
        fit(everything(), told)
    config["classes"]["race"].reverse()
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match="other classes"):
        fit(everything(), told)
    with pytest.raises(TrainingError, match="no folder 'user/teacher'"):
        fit(everything(), replace(told, teachers=(Path("user/teacher"),)))


def measured(rng, sharpness, scale=1.0):
    """Made-up answers on 200 holdout faces; the sharper, the closer to the labels."""
    targets = torch.from_numpy(
        np.stack([rng.integers(len(task.classes), size=200) for task in TASKS], 1)
    )
    logits = {
        task.name: scale
        * torch.from_numpy(
            rng.normal(size=(200, len(task.classes)))
            + sharpness * np.eye(len(task.classes))[targets[:, column]]
        )
        for column, task in enumerate(TASKS)
    }
    return Measured(32, {}, {}, logits, targets)


def test_weights_are_kept_by_calibrated_holdout_loss(tmp_path, tiny_fairface):
    kept = []
    trainer = Trainer(replace(smoke(), stages=(Stage(0, 32),)), settings(tmp_path, tiny_fairface))
    trainer._keep = kept.append
    good, better, worse = (measured(np.random.default_rng(0), s) for s in (1.0, 1.5, 0.5))
    softer = measured(np.random.default_rng(0), 1.0, scale=0.1)
    assert softer.score() == pytest.approx(good.score(), abs=1e-3)
    for one in (good, worse, better, good):
        trainer._keep_if_best(one)
    assert kept == [good, better]


def again(**changes):
    """`smoke` as a recipe that goes on from finished weights."""
    return replace(smoke(), continues=True, **changes)


def test_a_run_may_start_from_finished_weights(finished, tmp_path, tiny_fairface):
    start = finished / "model"
    still = again(learning_rate=1e-12, warmup_epochs=0.0, ema_decay=None, weight_decay=0.0)
    model = load_model(fit(still, settings(tmp_path, tiny_fairface, start=start)))
    first = load_model(start)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, dict(first.named_parameters())[name], atol=1e-6), name
    facts = model.config.training["start"]
    assert (facts["recipe"], facts["seed"]) == ("smoke", 0)
    assert facts["sha256"] == hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()


def test_start_and_recipe_must_go_together(finished, tmp_path, tiny_fairface):
    with pytest.raises(TrainingError, match="starts from given weights, but --start was not"):
        fit(again(), settings(tmp_path, tiny_fairface))
    with pytest.raises(TrainingError, match="starts at random, but --start was given"):
        fit(smoke(), settings(tmp_path, tiny_fairface, start=finished / "model"))


def test_another_networks_weights_are_no_start(finished, tmp_path, tiny_fairface):
    other = again(architecture="FaceAttrNet", sizes=TINY_FACEATTRNET)
    with pytest.raises(TrainingError, match="another network: LightweightMTLNet224"):
        fit(other, settings(tmp_path, tiny_fairface, start=finished / "model"))


def test_another_teacher_is_not_resumed(finished, tmp_path, tiny_fairface):
    told = settings(tmp_path / "run", tiny_fairface, teachers=(finished / "model",))
    fit(everything(), told)
    two = replace(told, teachers=(finished / "model",) * 2, resume=True)
    with pytest.raises(CheckpointError, match="another teachers"):
        fit(everything(), two)


def test_class_counts_are_of_the_rows_trained_on(tiny_fairface):
    rows = list(Rows(Source(str(tiny_fairface)), "train").in_order())
    counts = class_counts(rows)
    for column, task in enumerate(TASKS):
        assert sum(counts[task.name]) == len(rows) == 114
        for index, count in enumerate(counts[task.name]):
            assert count == sum(row.targets[column] == index for row in rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"age_spread": 0.6},
        {"loss_weights": {"race": 2.0}},
        {"class_balance": 0.5},
        {"mixup": 0.2},
        {"label_smoothing": 0.3},
        {"average_epochs": 2},
        {"augmentation": replace(smoke().augmentation, degrade=0.0)},
        {"augmentation": replace(smoke().augmentation, grey=0.9)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_knob_changes_the_weights(changes, finished, tmp_path, tiny_fairface):
    fit(replace(smoke(), **changes), settings(tmp_path, tiny_fairface, cache_memory=True))
    first, second = state(finished), state(tmp_path)
    assert not torch.equal(first["heads.race.weight"], second["heads.race.weight"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_resumes_exactly_and_saves_plain_weights(tmp_path, tiny_fairface):
    recipe = replace(smoke(), epochs=1, stages=(Stage(0, 24),))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(recipe, settings(whole, tiny_fairface, compile=True))
    told = settings(parts, tiny_fairface, compile=True)
    trainer = Trainer(recipe, told)
    with pytest.raises(Stopped):
        trainer._train_epoch(signals=[signal.SIGTERM])
    fit(recipe, replace(told, resume=True))
    assert_same_run(whole, parts)
    assert load_model(whole / "model").config.training["compile"]


def test_class_weights_have_mean_one_over_rows_and_favour_the_rare():
    weights = class_weights({"x": [100, 25]}, 0.5)["x"]
    assert float(weights[1] / weights[0]) == pytest.approx(2.0)
    assert float(100 * weights[0] + 25 * weights[1]) == pytest.approx(125.0, rel=1e-5)
    with pytest.raises(ValueError, match="rows of every class"):
        class_weights({"x": [3, 0]}, 0.5)


def test_targets_are_shared_with_neighbours_and_smoothed():
    hard = target_tables(replace(smoke(), label_smoothing=0.0))
    assert all(torch.equal(table, torch.eye(len(table))) for table in hard.values())
    tables = target_tables(replace(smoke(), label_smoothing=0.1, age_spread=0.6))
    for table in tables.values():
        torch.testing.assert_close(table.sum(1), torch.ones(len(table)))
    assert float(tables["race"][2, 2]) == pytest.approx(0.9 + 0.1 / 7)
    age = tables["age"][4]
    near = np.exp(-0.5 / 0.36)
    assert float(age[3]) == pytest.approx(float(age[5]))
    assert float((age[5] - 0.1 / 9) / (age[4] - 0.1 / 9)) == pytest.approx(near, rel=1e-4)


def test_soft_losses_of_one_hot_targets_are_the_plain_ones():
    generator = torch.Generator().manual_seed(0)
    logits = {t.name: torch.randn(5, len(t.classes), generator=generator) for t in TASKS}
    targets = torch.tensor([[i % len(t.classes) for t in TASKS] for i in range(5)])
    soft = {t.name: torch.eye(len(t.classes))[targets[:, c]] for c, t in enumerate(TASKS)}
    ones = {t.name: torch.ones(len(t.classes)) for t in TASKS}
    plain = task_losses(logits, targets)
    for name, loss in soft_losses(logits, soft, ones).items():
        torch.testing.assert_close(loss, plain[name])


def test_distillation_adds_the_scaled_divergence():
    logits = {"x": torch.tensor([[2.0, 0.0], [0.0, 1.0]])}
    teacher = {"x": torch.tensor([[0.8, 0.2], [0.5, 0.5]])}
    label_loss = torch.tensor(0.7)
    found = distilled({"x": label_loss}, logits, teacher, Distillation(0.6, 2.0))["x"]
    answers = log_softmax(logits["x"].numpy() / 2, axis=1)
    wanted = teacher["x"].numpy()
    divergence = (wanted * (np.log(wanted) - answers)).sum(1).mean()
    assert float(found) == pytest.approx(0.4 * 0.7 + 0.6 * 4 * divergence, rel=1e-5)
    same = {"x": (logits["x"] / 2).softmax(1)}
    nothing = distilled({"x": label_loss}, logits, same, Distillation(0.6, 2.0))["x"]
    assert float(nothing) == pytest.approx(0.4 * 0.7, rel=1e-5)


def test_teachers_answer_in_the_mean_at_their_own_size(finished):
    teacher = load_model(finished / "model")
    side = teacher.config.preprocessing.image_size
    images = torch.randn(2, 3, 2 * side, 2 * side)
    found = teacher_targets([teacher, teacher], images, Distillation(temperature=2.0))
    expected = {n: (v / 2).softmax(1) for n, v in teacher(resized(images, side)).items()}
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name])
        assert not values.requires_grad


def test_mirrored_teachers_teach_a_picture_and_its_mirror_image_the_same(finished):
    teacher = load_model(finished / "model")
    side = teacher.config.preprocessing.image_size
    images = torch.randn(2, 3, side, side)
    told = Distillation(temperature=2.0, mirrored=True)
    found, turned = (teacher_targets([teacher], x, told) for x in (images, images.flip(3)))
    one, other = (teacher(x) for x in (images, images.flip(3)))
    for name, values in found.items():
        torch.testing.assert_close(values, turned[name])
        mean = ((one[name] / 2).softmax(1) + (other[name] / 2).softmax(1)) / 2
        torch.testing.assert_close(values, mean)
        assert not torch.allclose(values, (one[name] / 2).softmax(1), atol=1e-5)


def test_mixing_mixes_pictures_and_targets_alike():
    images = torch.eye(4).view(4, 1, 2, 2)
    mixed, soft = mix(images, {"x": torch.eye(4)}, 1.0, np.random.default_rng(0))
    torch.testing.assert_close(mixed.view(4, 4), soft["x"])
    torch.testing.assert_close(soft["x"].sum(1), torch.ones(4))
    assert 0 < float(soft["x"].diagonal().min()) < 1


def test_the_equal_average_is_the_mean():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = make_equal_average(layer)
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update_parameters(layer)
    assert float(average.module.weight.detach()) == pytest.approx(3.0)


def test_precision_is_bfloat16_only_where_it_is_native(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    assert choose_precision(torch.device("cpu")) == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert choose_precision(torch.device("cpu")) == "bfloat16"
    assert choose_precision(torch.device("cuda")) == "bfloat16"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_precision_trains_and_is_recorded(precision, finished, tmp_path, tiny_fairface):
    fit(smoke(), settings(tmp_path, tiny_fairface, precision=precision))
    assert load_model(tmp_path / "model").config.training["precision"] == precision
    own = choose_precision(torch.device("cpu"))
    same = torch.equal(state(finished)["fc.weight"], state(tmp_path)["fc.weight"])
    assert same == (precision == own)
    other = "float32" if precision == "bfloat16" else "bfloat16"
    with pytest.raises(CheckpointError, match="another precision"):
        fit(smoke(), settings(tmp_path, tiny_fairface, precision=other, resume=True))


def test_a_folder_that_holds_a_run_is_not_overwritten(finished, tiny_fairface):
    with pytest.raises(CheckpointError, match="already holds a run"):
        fit(smoke(), settings(finished, tiny_fairface))


def test_a_changed_recipe_or_seed_is_not_resumed(finished, tiny_fairface):
    with pytest.raises(CheckpointError, match="another recipe and seed"):
        fit(replace(smoke(), epochs=3), settings(finished, tiny_fairface, seed=1, resume=True))


def test_a_checkpoint_from_before_recipes_gained_a_field_is_resumed(
    finished, tiny_fairface, monkeypatch
):
    state = load_checkpoint(finished)
    recipe = state["identity"]["recipe"]
    del recipe["stop_after"], recipe["augmentation"]["canvas"]
    monkeypatch.setattr(loop, "load_checkpoint", lambda *_, **__: state)
    plain = replace(smoke(), augmentation=replace(smoke().augmentation, canvas=0.0))
    trainer = Trainer(plain, settings(finished, tiny_fairface))
    trainer.resume()
    assert trainer.progress.finished
    with pytest.raises(CheckpointError, match="another recipe"):
        Trainer(smoke(), settings(finished, tiny_fairface)).resume()


def test_a_damaged_checkpoint_is_named(tmp_path, tiny_fairface):
    (tmp_path / "checkpoint-0000-000004.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"000004\.pt is damaged.*start the run again"):
        fit(smoke(), settings(tmp_path, tiny_fairface, resume=True))


def test_resuming_nothing_says_so(tmp_path, tiny_fairface):
    with pytest.raises(CheckpointError, match="start without --resume"):
        fit(smoke(), settings(tmp_path, tiny_fairface, resume=True))


def test_a_loss_that_is_not_finite_stops_with_its_place(tmp_path, tiny_fairface, monkeypatch):
    def broken(*args):
        return {name: loss * float("nan") for name, loss in soft_losses(*args).items()}

    monkeypatch.setattr("train.fit.trainer.soft_losses", broken)
    with pytest.raises(TrainingError, match=r"not finite at epoch 1, batch 1.*learning_rate"):
        fit(smoke(), settings(tmp_path, tiny_fairface))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tmp_path, tiny_fairface, monkeypatch
):
    step, calls = torch.optim.AdamW.step, []

    def counting(self, *args, **kwargs):
        calls.append(1)
        return step(self, *args, **kwargs)

    def exploding(logits, *args):
        losses = soft_losses(logits, *args)
        if len(calls) == 3:
            logits["age"].register_hook(lambda gradient: gradient * float("inf"))
        return losses

    monkeypatch.setattr(torch.optim.AdamW, "step", counting)
    monkeypatch.setattr("train.fit.trainer.soft_losses", exploding)
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


def test_a_run_that_stops_early_is_the_beginning_of_the_whole(tmp_path, tiny_fairface):
    both = (Stage(0, 24),)
    whole, part = replace(smoke(), stages=both), replace(smoke(), stages=both, stop_after=1)
    fit(whole, settings(tmp_path / "whole", tiny_fairface))
    fit(part, settings(tmp_path / "part", tiny_fairface))
    histories = [
        (tmp_path / n / "history.jsonl").read_text().splitlines() for n in ("whole", "part")
    ]
    assert len(histories[0]) == 2
    assert histories[1] == histories[0][:1]
    assert load_checkpoint(tmp_path / "part")["progress"]["finished"]
    assert load_model(tmp_path / "part" / "model").config.training["epochs"] == 1


def test_the_network_learns_rows_by_heart(tmp_path, tiny_fairface):
    plain = Recipe(
        "memorise",
        epochs=12,
        batch_size=19,
        learning_rate=1e-2,
        stages=(Stage(0, 32),),
        sizes={"widths": (16, 16, 16, 32, 32, 64, 64), "hidden": 32},
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
        {"age_spread": -1.0},
        {"class_balance": 2.0},
        {"mixup": -0.1},
        {"loss_weights": {"colour": 1.0}},
        {"loss_weights": {"age": 0.0}},
        {"average_epochs": 3},
        {"stop_after": 0},
        {"stop_after": 3},
        {"stop_after": 1},
    ],
)
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ValueError, match="must"):
        replace(smoke(), **changes)
