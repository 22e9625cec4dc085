"""Targets, losses, schedule and averages, by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax

from faceattr.labels import AGE, RACE, TASKS
from faceattr.model import LightweightMTLNet224, ModelConfig
from train.config import Distillation, Mitigation, Stage
from train.evaluate.calibration import fit_temperature, negative_log_likelihood
from train.fit.losses import GroupLosses, RowLosses, class_shares, mix, target_tables
from train.fit.steps import learning_rate, make_average
from train.recipes import RECIPES, report, smoke

PLAIN = replace(smoke(), label_smoothing=0.0, age_spread=0.0, mixup=0.0)
CPU = torch.device("cpu")


def batch(rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.stack(
        [torch.randint(len(t.classes), (rows,), generator=generator) for t in TASKS], 1
    )
    logits = {t.name: torch.randn(rows, len(t.classes), generator=generator) for t in TASKS}
    return logits, targets


def losses_of(recipe, logits, targets, answers=None):
    losses = RowLosses(recipe, targets.numpy(), CPU)
    return losses(logits, losses.soft(targets, answers))


def test_targets_are_shared_with_neighbours_and_smoothed():
    tables = target_tables(replace(PLAIN, age_spread=0.6, label_smoothing=0.1))
    race = tables["race"].numpy()
    assert np.allclose(race, 0.9 * np.eye(7) + 0.1 / 7)
    weights = np.exp(-0.5 * ((np.arange(9) - 4) / 0.6) ** 2)
    assert np.allclose(tables["age"][4].numpy(), 0.9 * weights / weights.sum() + 0.1 / 9)


def test_row_losses_have_the_plain_ones_as_their_mean():
    logits, targets = batch()
    found = losses_of(PLAIN, logits, targets)
    for column, task in enumerate(TASKS):
        expected = F.cross_entropy(logits[task.name], targets[:, column])
        torch.testing.assert_close(found[task.name].mean(), expected)


def test_answers_add_the_scaled_divergence_at_the_temperature():
    logits, targets = batch()
    answers = {name: value.softmax(1).half() for name, value in batch(seed=1)[0].items()}
    recipe = replace(PLAIN, distillation=Distillation(weight=0.7, temperature=2.0))
    found = losses_of(recipe, logits, targets, answers)["race"].double().numpy()
    ours, given = logits["race"].double().numpy(), answers["race"].double().numpy()
    taught = softmax(np.log(given) / 2, axis=1)
    apart = (taught * (np.log(taught) - log_softmax(ours / 2, axis=1))).sum(1)
    label = -log_softmax(ours, axis=1)[np.arange(40), targets[:, 2]]
    assert found == pytest.approx(0.3 * label + 0.7 * 4 * apart, rel=1e-3, abs=1e-5)


def test_logit_adjustment_adds_the_log_frequencies():
    logits, targets = batch()
    recipe = replace(PLAIN, logit_adjustment={"age": 0.5})
    counts = np.bincount(targets[:, 1], minlength=9) + 1
    added = 0.5 * np.log(counts / counts.sum())
    assert 0.5 * np.log(class_shares(targets.numpy())["age"]) == pytest.approx(added, rel=1e-5)
    adjusted = {**logits, "age": logits["age"] + torch.from_numpy(added).float()}
    torch.testing.assert_close(
        losses_of(recipe, logits, targets)["age"], losses_of(PLAIN, adjusted, targets)["age"]
    )


def test_the_gender_of_children_weighs_more():
    logits, targets = batch()
    plain, weighted = (
        losses_of(replace(PLAIN, child_gender=w), logits, targets) for w in (1.0, 3.0)
    )
    child = targets[:, 1] <= AGE.classes.index("3-9")
    assert 0 < int(child.sum()) < 40
    torch.testing.assert_close(weighted["gender"], plain["gender"] * torch.where(child, 3.0, 1.0))
    torch.testing.assert_close(weighted["race"], plain["race"])


def test_mixing_mixes_images_and_what_they_are_taught_alike():
    images, soft = torch.eye(6).view(6, 1, 1, 6), {"x": torch.eye(6)}
    mixed, taught = mix(images, soft, 0.4, np.random.default_rng(0))
    assert torch.equal(mixed.view(6, 6), taught["x"])
    assert not torch.equal(taught["x"], soft["x"])


@pytest.mark.parametrize("names", [("race",), ("gender", "race", "child")])
def test_group_dro_agrees_with_the_algorithm_by_hand(names):
    groups = GroupLosses(Mitigation(names, 0.5), {"gender": 2.0})
    count = 7 if names == ("race",) else 28
    shares = np.full(count, 1 / count)
    for seed in range(3):
        logits, targets = batch(seed=seed)
        rows = losses_of(PLAIN, logits, targets)
        found = groups(rows, targets)
        place = targets[:, 2].numpy()
        if count == 28:
            gender_race = targets[:, 0].numpy() * len(RACE.classes) + place
            place = gender_race * 2 + (targets[:, 1].numpy() < 2)
        means = {
            name: np.array(
                [v.numpy()[place == g].mean() if (place == g).any() else 0 for g in range(count)]
            )
            for name, v in rows.items()
        }
        shares = shares * np.exp(0.5 * (2 * means["gender"] + means["age"] + means["race"]))
        shares /= shares.sum()
        assert groups.shares.numpy() == pytest.approx(shares, rel=1e-5)
        for name, loss in found.items():
            assert float(loss) == pytest.approx(float((shares * means[name]).sum()), rel=1e-5)


def test_schedule_warms_up_and_falls_to_zero():
    recipe = replace(PLAIN, epochs=10, learning_rate=1.0, warmup_epochs=2.0)
    assert [learning_rate(recipe, p) for p in (1.0, 2.0)] == [0.5, 1.0]
    assert learning_rate(recipe, 6.0) == pytest.approx(0.5)
    assert learning_rate(recipe, 10.0) == pytest.approx(0.0)
    assert learning_rate(replace(recipe, schedule="constant"), 9.0) == 1.0


def test_average_starts_fast_and_slows_to_its_decay():
    config = ModelConfig(sizes={"widths": (4,) * 7, "hidden": 4})
    model = LightweightMTLNet224(config)
    average = make_average(model, 0.5)
    expected = None
    for step in range(4):
        with torch.no_grad():
            model.fc.bias.fill_(float(step))
        average.update_parameters(model)
        share = 1 - min(0.5, (1 + step) / (10 + step))
        expected = step if expected is None else expected + share * (step - expected)
    assert float(average.module.fc.bias[0].detach()) == pytest.approx(expected)


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4_000, 5))
    targets = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    found = fit_temperature(logits * 3, targets)
    assert found == pytest.approx(3.0, rel=0.1)
    assert negative_log_likelihood(logits * 3, targets, found) < negative_log_likelihood(
        logits * 3, targets, 1.0
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_carry_their_own_name_and_can_be_written_as_json(name):
    recipe = RECIPES[name]()
    written = json.loads(json.dumps(recipe.to_dict(), allow_nan=False))
    assert written["name"] == recipe.name == name
    assert written["stages"][-1]["image_size"] == recipe.image_size
    assert recipe.size_at(recipe.epochs - 1) == recipe.image_size


def test_report_recipe_is_the_reports():
    recipe = report()
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs) == ("adam", 1e-3, 10)
    assert (recipe.architecture, recipe.min_gain, recipe.start) == (
        "LightweightMTLNet224",
        0.1,
        "random",
    )
    assert not recipe.augmentation.moves_pixels
    assert recipe.weight_decay == recipe.label_smoothing == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs, batch_size and views must be at least 1"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, came nan"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"loss_weights": {"height": 1.0}}, r"loss_weights must be of .*\['height'\]"),
        ({"loss_weights": {"race": 0.0}}, "loss_weights must be above 0"),
        ({"logit_adjustment": {"race": 3.0}}, "logit_adjustment must lie in 0 to 2"),
        ({"child_gender": 0.0}, r"child_gender must lie in \(0, 20\]"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \(0, 1\)"),
        ({"views": 0}, "epochs, batch_size and views must be at least 1"),
        ({"stages": (Stage(1, 32),)}, "stages must start at epoch 0"),
        ({"stages": (Stage(0, 32), Stage(2, 48))}, "last stage must start before epoch 2"),
        ({"min_gain": 0.1}, "min_gain compares losses of one input size"),
        ({"mitigation": Mitigation()}, "mitigation goes without mixup"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(smoke(), **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mitigation(("race",), 0.0), "step must lie in"),
        (lambda: Mitigation(("height",)), r"must be of .*\['height'\]"),
        (lambda: Mitigation(("race", "race")), "different groups"),
        (lambda: Distillation(weight=0.0), r"weight must lie in \(0, 1\]"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
