"""Losses that look after groups: the formulas by hand, and runs that resume exactly."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from faceattr.labels import RACE, TASKS
from faceattr.model import load_model
from train.data.source import Source
from train.fit.checkpoint import load_checkpoint
from train.fit.mitigation import PRIOR_ROWS, GroupLosses, row_losses
from train.fit.signals import Stopped
from train.fit.steps import soft_losses
from train.fit.trainer import Settings, Trainer, fit
from train.recipe import Distillation, Mitigation, fair, fair_control, fair_dro, smoke

DRO = Mitigation("group_dro", 0.5)
REWEIGHT = Mitigation("reweight", 1.0)


def batch(rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack(
        [torch.randint(len(t.classes), (rows,), generator=generator) for t in TASKS], 1
    )
    logits = {t.name: torch.randn(rows, len(t.classes), generator=generator) for t in TASKS}
    return logits, targets


def losses_of(logits, targets):
    soft = {t.name: torch.eye(len(t.classes))[targets[:, c]] for c, t in enumerate(TASKS)}
    return row_losses(logits, soft, {t.name: torch.ones(len(t.classes)) for t in TASKS})


def test_row_losses_have_the_batch_losses_as_their_mean():
    logits, targets = batch()
    weights = {t.name: torch.linspace(0.5, 2, len(t.classes)) for t in TASKS}
    soft = {t.name: torch.eye(len(t.classes))[targets[:, c]] for c, t in enumerate(TASKS)}
    rows = row_losses(logits, soft, weights)
    for name, loss in soft_losses(logits, soft, weights).items():
        assert rows[name].shape == (40,)
        torch.testing.assert_close(rows[name].mean(), loss)


def test_group_dro_agrees_with_the_algorithm_by_hand():
    groups = GroupLosses(DRO, {"gender": 2.0})
    shares = np.full(14, 1 / 14)
    for seed in range(3):
        logits, targets = batch(seed=seed)
        rows = losses_of(logits, targets)
        found = groups(rows, targets)
        place = (targets[:, 0] * len(RACE.classes) + targets[:, 2]).numpy()
        means = {
            name: np.array(
                [v.numpy()[place == g].mean() if (place == g).any() else 0 for g in range(14)]
            )
            for name, v in rows.items()
        }
        total = 2 * means["gender"] + means["age"] + means["race"]
        shares = shares * np.exp(0.5 * total)
        shares /= shares.sum()
        assert groups.shares.numpy() == pytest.approx(shares, rel=1e-5)
        for name, loss in found.items():
            assert float(loss) == pytest.approx(float((shares * means[name]).sum()), rel=1e-5)


def test_group_dro_gives_the_worst_group_ever_more_weight():
    groups = GroupLosses(DRO, {})
    _, targets = batch(rows=280)
    place = groups.place(targets)
    rows = {t.name: torch.where(place == 3, 2.0, 0.5) for t in TASKS}
    for _ in range(8):
        groups(rows, targets)
    assert int(groups.shares.argmax()) == 3
    assert float(groups.shares[3]) > 0.9
    assert float(groups.shares.sum()) == pytest.approx(1.0)


def test_reweighting_agrees_with_accuracies_counted_by_hand():
    logits, targets = batch(rows=500)
    groups = GroupLosses(Mitigation("reweight", 0.5, ("race",)), {})
    assert groups.needs_accuracy
    groups.set_weights(logits, targets)
    assert not groups.needs_accuracy
    right = (logits["age"].argmax(1) == targets[:, 1]).double()
    mean = float(right.mean())

    def share(rows):
        return (float(right[rows].sum()) + PRIOR_ROWS * mean) / (int(rows.sum()) + PRIOR_ROWS)

    raw = torch.zeros(500, dtype=torch.float64)
    for k in range(500):
        of_class, of_group = targets[:, 1] == targets[k, 1], targets[:, 2] == targets[k, 2]
        raw[k] = (mean / share(of_class) * mean / share(of_group)) ** 0.5
    weights = raw / raw.mean()
    rows = losses_of(logits, targets)
    expected = float((weights * rows["age"]).mean())
    assert float(groups(rows, targets)["age"]) == pytest.approx(expected, rel=1e-5)


def test_equal_accuracies_change_nothing():
    _, targets = batch(rows=300)
    logits = {t.name: 9.0 * torch.eye(len(t.classes))[targets[:, c]] for c, t in enumerate(TASKS)}
    groups = GroupLosses(REWEIGHT, {})
    groups.set_weights(logits, targets)
    rows = losses_of(*batch(rows=300, seed=3))
    for name, loss in groups(rows, targets).items():
        torch.testing.assert_close(loss, rows[name].mean())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mitigation("reweight", 0.0), "strength must lie in"),
        (lambda: Mitigation("reweight", 1.0, ("height",)), r"must be of .*\['height'\]"),
        (lambda: Mitigation("reweight", 1.0, ("race", "race")), "different groups"),
        (lambda: replace(smoke(), mitigation=DRO, mixup=0.2), "neither mixup nor distillation"),
        (lambda: replace(smoke(), mitigation=DRO, distillation=Distillation()), "neither mixup"),
        (lambda: replace(smoke(), mitigation=REWEIGHT), "continues must be True"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fair_recipes_differ_from_their_control_in_the_mitigation_alone():
    for recipe, kind in ((fair(), "reweight"), (fair_dro(), "group_dro")):
        assert recipe.mitigation.kind == kind
        assert replace(recipe, name="fair-control", mitigation=None) == fair_control()
    assert fair_control().continues


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_fairface):
    folder = tmp_path_factory.mktemp("start")
    recipe = replace(smoke(), epochs=1, stages=(smoke().stages[0],))
    return fit(recipe, Settings(folder, Source(str(tiny_fairface))))


def run_in_parts(recipe, told, step_to_stop_at):
    """Stop in mid-epoch by a signal, then go on in a new trainer."""
    trainer, calls = Trainer(recipe, told), []
    step = trainer._step

    def interrupted(*args):
        calls.append(1)
        if len(calls) == step_to_stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    trainer._step = interrupted
    with pytest.raises(Stopped):
        trainer.run()
    return fit(recipe, replace(told, resume=True))


@pytest.mark.parametrize("mitigation", [DRO, REWEIGHT], ids=lambda m: m.kind)
def test_a_mitigated_run_resumes_exactly_and_differs_from_its_control(
    mitigation, start, tmp_path, tiny_fairface
):
    control = replace(smoke(), name="control", continues=True)
    recipe = replace(control, mitigation=mitigation)
    told = Settings(tmp_path / "whole", Source(str(tiny_fairface)), start=start)
    whole = fit(recipe, told)
    parts = run_in_parts(recipe, replace(told, output=tmp_path / "parts"), 18)
    plain = fit(control, replace(told, output=tmp_path / "control"))
    states = [load_file(folder / "model.safetensors") for folder in (whole, parts, plain)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())
    first, second = (
        load_checkpoint(tmp_path / name)["group_losses"] for name in ("whole", "parts")
    )
    assert torch.equal(first["shares"], second["shares"])
    assert all(torch.equal(v, second["tables"][k]) for k, v in first["tables"].items())
    moved = bool((first["shares"] != 1 / 14).any())
    assert (moved, bool(first["tables"])) == (mitigation is DRO, mitigation is REWEIGHT)
    settings = load_model(whole).config.training["settings"]["mitigation"]
    assert settings["kind"] == mitigation.kind
