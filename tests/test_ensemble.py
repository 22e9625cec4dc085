import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from synthetic import TINY_FACEATTRNET

from faceattr.labels import TASKS
from faceattr.model import ModelConfig, build_model
from faceattr.preprocessing import Preprocessing
from research.catalogue import ensemble_section, ensembles_section, load_ensembles
from train.__main__ import main
from train.data.source import Source, count_rows
from train.evaluate.ensemble import mean_of, scores

COLUMNS = {task.name: position for position, task in enumerate(TASKS)}


def certain(position, share):
    """Two faces; each task gives `share` to class `position`, the rest to the next class."""
    found = {}
    for task in TASKS:
        found[task.name] = torch.zeros(2, len(task.classes), dtype=torch.float64)
        found[task.name][:, position] = share
        found[task.name][:, position + 1 if position == 0 else 0] = 1 - share
    return found


def test_the_mean_is_of_probabilities():
    both = mean_of([certain(0, 0.9), certain(1, 0.6)])
    torch.testing.assert_close(both["race"][0, :2], torch.tensor([0.65, 0.35]).double())


def test_scores_count_right_answers_and_average_their_loss():
    targets = torch.tensor([[0] * len(TASKS), [1] * len(TASKS)])
    found = scores(certain(0, 0.9), targets)
    assert found["accuracy"] == dict.fromkeys(COLUMNS, 0.5)
    expected = -(math.log(0.9) + math.log(0.1)) / 2
    assert found["loss"]["age"] == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def members(tmp_path, tiny_fairface):
    folders = []
    source = Source(str(tiny_fairface))
    dataset = source.describe("train", count_rows(source, "train"))
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = ModelConfig(
            "FaceAttrNet", TINY_FACEATTRNET, preprocessing=Preprocessing(image_size=32)
        )
        model = build_model(config)
        model.config = dataclasses.replace(
            config, training={"recipe": f"run-{seed}", "dataset": dataset}
        )
        model.save_pretrained(tmp_path / str(seed))
        folders.append(str(tmp_path / str(seed)))
    return folders


def test_the_command_measures_each_network_and_their_mean(members, tiny_fairface, tmp_path):
    output = tmp_path / "ours.json"
    arguments = [*members, "--data", str(tiny_fairface), "--device", "cpu"]
    assert main(["ensemble", *arguments, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert (found["part"], found["rows"]) == ("holdout", 6)
    assert [m["recipe"] for m in found["members"]] == ["run-0", "run-1"]
    for task in TASKS:
        single = [m["single"]["loss"][task.name] for m in found["members"]]
        # The logarithm is concave: the mean's loss is at most the mean of the losses.
        assert found["mean"]["single"]["loss"][task.name] <= sum(single) / 2 + 1e-6
        assert single[0] != single[1]
    table = ensemble_section(found).splitlines()
    assert len(table) == 2 + 9
    assert "`run-1`, with mirror image" in table[6]
    page = ensembles_section(load_ensembles(tmp_path)).splitlines()
    assert page == ["`ours` learned from:", "", *table]
    left_out = ensembles_section({"run-1": found}).splitlines()
    assert left_out == ["With `run-1`, tried and left out:", "", *table]
    assert ensembles_section({}) == "Not measured yet."


def test_a_network_of_other_rows_is_refused(members, tiny_fairface, capsys):
    path = Path(members[1]) / "config.json"
    config = json.loads(path.read_text())
    config["training"]["dataset"]["rows"] += 1
    path.write_text(json.dumps(config))
    assert main(["ensemble", *members, "--data", str(tiny_fairface)]) != 0
    assert "learned from other rows: rows" in capsys.readouterr().err


def test_one_network_is_its_own_mean(members, tiny_fairface, tmp_path):
    output = tmp_path / "one.json"
    main(["ensemble", members[0], "--data", str(tiny_fairface), "--output", str(output)])
    found = json.loads(output.read_text())
    (member,) = found["members"]
    assert found["mean"] == {key: member[key] for key in ("single", "mirrored", "training_rows")}
    assert member["single"] != member["mirrored"]
