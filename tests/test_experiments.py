"""The experiments' page is made of their results, and short runs leave results."""

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from research import catalogue as experiments
from research import run as trials
from research import search
from research.catalogue import EXPERIMENTS, Experiment, load_results, make_page
from train.__main__ import main
from train.data.source import Source
from train.fit.trainer import Settings
from train.recipe import Distillation, smoke
from train.tables import TableError, read_json

ROOT = Path(__file__).resolve().parents[1]


def result(name, seed, gender, loss=1.0):
    accuracy = {"gender": gender, "age": 0.5, "race": 0.6}
    return {
        "name": name,
        "seed": seed,
        "recipe": {},
        "accuracy": accuracy,
        "accuracy_flip": {task: value + 0.01 for task, value in accuracy.items()},
        "loss": dict.fromkeys(accuracy, loss),
        "cpu_seconds": 100 if name == "baseline" else 150,
        "hardware": "CPU, 1 threads",
        "training_rows": 38_000,
        "holdout_rows": 2_000,
    }


@pytest.fixture
def results():
    losses = (0.99, 1.0, 1.01)
    base = [result("baseline", s, 0.80 + 0.01 * s, loss) for s, loss in enumerate(losses)]
    return {"baseline": base, "erase": [result("erase", 0, 0.84, loss=0.9)]}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """One tiny experiment and its distilled twin, with results under tmp_path."""
    plain = Experiment(
        "plain", "Group", "nothing", replace(smoke(), epochs=1, stages=smoke().stages[:1])
    )
    taught = replace(
        plain, name="taught", recipe=replace(plain.recipe, distillation=Distillation())
    )
    known = {"plain": plain, "taught": taught}
    for module in (trials, experiments):
        monkeypatch.setattr(module, "EXPERIMENTS", known)
    monkeypatch.setattr(trials, "RESULTS", tmp_path / "results")
    return known


def test_gains_are_paired_with_the_spread_of_the_baseline(results):
    page = make_page(results, [], None, {}, [])
    line = next(line for line in page.splitlines() if line.startswith("| random erasing"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    gains = ["+3.0 ± 1.2", "+0.0 ± 0.0", "+0.0 ± 0.0"]
    assert cells[1:] == ["1", *gains, "-0.100", "better", "at 0.15", "1.5"]
    assert "| Gender | 81.00 | 1.00 | 1.0000 |" in page
    assert "| Gender | 4 | +1.00 | +1.00 to +1.00 |" in page


def test_the_page_says_what_the_baseline_gives_with_later_code(results):
    assert "was not repeated" in make_page(results, [], None, {}, [])
    page = make_page(results, [], None, {}, [result("baseline", 0, 0.8, 0.75)])
    assert "Repeated with it, the baseline has 0.7500 nats; before, " in page


def test_one_seed_of_the_baseline_does_not_tell_noise(results):
    results["baseline"] = results["baseline"][:1]
    with pytest.raises(TableError, match="at least two seeds"):
        make_page(results, [], None, {}, [])
    with pytest.raises(TableError, match="no result of the baseline"):
        make_page({}, [], None, {}, [])


def test_a_long_run_says_what_its_losses_did_after_the_least_holdout_loss(tmp_path):
    def epoch(number, train, holdout, side=64):
        losses = {"train_loss": train, "holdout_loss": holdout}
        return {"epoch": number, "image_size": side} | {
            key: dict.fromkeys(("gender", "age", "race"), value) for key, value in losses.items()
        }

    histories = {
        "early": [(0.9, 0.6), (0.5, 0.5), (0.3, 0.7), (0.2, 0.9, 96)],
        "late": [(0.9, 0.8), (0.6, 0.6)],
    }
    for name, losses in histories.items():
        lines = [json.dumps(epoch(number + 1, *pair)) for number, pair in enumerate(losses)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    runs = experiments.long_runs(tmp_path)
    assert [line.split(" | ")[:2] for line in experiments.fit_section(runs).splitlines()[2:]] == [
        ["| early", "2"],
        ["| early", "3"],
        ["| early", "4"],
        ["| late", "2"],
    ]
    early, late = experiments.overfit_section(runs).splitlines()
    assert "from epoch 2 to 3, of 64 px, the training loss changes by -0.600 nats" in early
    assert "the holdout's by +0.600" in early
    assert "least at the last epoch of 64 px" in late


def test_experiments_change_the_baseline_and_have_distinct_recipes():
    recipes = {name: replace(e.recipe, name="x") for name, e in EXPERIMENTS.items()}
    assert all(recipes[name] != recipes["baseline"] for name in recipes if name != "baseline")
    assert len({json.dumps(r.to_dict()) for r in recipes.values()}) == len(recipes)


def test_missing_results_are_trained_and_present_ones_kept(small, tmp_path, tiny_fairface):
    settings = Settings(tmp_path / "unused", Source(str(tiny_fairface)))
    trials.run_missing(small, [0, 1], settings)
    folder = tmp_path / "results"
    assert sorted(path.name for path in folder.iterdir()) == ["plain-0.json", "plain-1.json"]
    found = load_results(folder)["plain"]
    assert [entry["seed"] for entry in found] == [0, 1]
    assert set(found[0]["accuracy"]) == set(found[0]["accuracy_flip"]) == {"gender", "age", "race"}
    before = (folder / "plain-0.json").read_bytes()
    trials.run_missing(small, [0], settings)
    assert (folder / "plain-0.json").read_bytes() == before


def test_a_result_of_a_changed_recipe_is_refused(small, tmp_path):
    stale = result("plain", 0, 0.8) | {"recipe": small["taught"].recipe.to_dict()}
    (tmp_path / "plain-0.json").write_text(json.dumps(stale))
    with pytest.raises(TableError, match=r"plain-0\.json is the result of another recipe"):
        load_results(tmp_path)


def test_options_that_would_do_nothing_are_refused(tiny_fairface, capsys):
    told = ["--run", "--only", "distilled", "--data", str(tiny_fairface)]
    assert main(["experiments", *told]) == 1
    assert "needs --teacher" in capsys.readouterr().err
    assert main(["experiments", "--only", "erase", "--seeds", "1"]) == 1
    assert "--only and --seeds need --run" in capsys.readouterr().err


def test_a_study_of_other_runs_is_not_continued():
    study = optuna.create_study()
    search.check_study(study, {"precision": "float32", "epochs": 3})
    search.check_study(study, {"precision": "float32", "epochs": 3})
    with pytest.raises(ValueError, match="another epochs"):
        search.check_study(study, {"precision": "float32", "epochs": 4})


def test_a_search_goes_on_where_it_ended(monkeypatch, tmp_path, tiny_fairface):
    monkeypatch.setattr(search, "BASELINE", smoke())
    monkeypatch.setattr(search, "EPOCHS", 2)
    told = ["--output", str(tmp_path / "study.log"), "--summary", str(tmp_path / "search.json")]
    told += ["--data", str(tiny_fairface), "--trials", "2"]
    import argparse

    parser = argparse.ArgumentParser()
    search.add_arguments(parser)
    search.run(parser.parse_args(told))
    search.run(parser.parse_args(told))
    summary = read_json(tmp_path / "search.json")
    assert summary["finished"] + summary["pruned"] == 4
    rates = [trial["settings"]["learning_rate"] for trial in summary["trials"]]
    assert len(set(rates)) == len(rates)
    losses = [trial["loss"] for trial in summary["trials"]]
    assert losses == sorted(losses)
    assert "trials of 2 epochs finished" in experiments.search_section(summary)
    optuna.logging.set_verbosity(optuna.logging.INFO)


def test_the_page_in_the_tree_is_made_of_the_results_in_the_tree():
    weights, measured = ROOT / "faceattr/weights", ROOT / "docs/results/reports"
    reports = experiments.load_reports(weights, measured)
    assert [r["augmentation"] for r in reports] == ["none", "none", "flip", "flip"]
    folder = ROOT / experiments.RESULTS
    summary = read_json(folder / experiments.SEARCH_NAME)
    ensembles = experiments.load_ensembles(folder / "ensembles")
    repeats = load_results(folder / "repeats")["baseline"]
    page = make_page(load_results(folder), reports, summary, ensembles, repeats)
    assert (ROOT / experiments.PAGE).read_text(encoding="utf-8") == page


def test_a_search_says_which_settings_matter_only_after_enough_trials():
    def value(trial):
        trial.set_user_attr("accuracy", {})
        return trial.suggest_float("rate", 0, 1) ** 2

    study = optuna.create_study()
    study.set_user_attr("epochs", 2)
    study.optimize(value, n_trials=search.ENOUGH - 1)
    few = search.summarise(study, "CPU")
    assert few["importance"] == {}
    assert "too few to say" in experiments.search_section(few)
    study.optimize(value, n_trials=1)
    enough = search.summarise(study, "CPU")
    assert list(enough["importance"]) == ["rate"]
    assert "rate 1.00" in experiments.search_section(enough)
