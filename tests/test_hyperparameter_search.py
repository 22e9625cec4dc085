"""The search: every trial kept, gone on with, and judged by what mattered."""

from dataclasses import replace

import pytest
from synthetic import TINY_FACEATTRNET, write_fairface

from research import search
from train.__main__ import main
from train.answers import store
from train.config import Distillation, Stage
from train.data.source import Rows, Source
from train.fit.command import fit
from train.fit.settings import Settings
from train.fit.signals import Stopped
from train.recipes import smoke
from train.tables import read_json


@pytest.mark.filterwarnings("ignore")
def test_trials_are_kept_gone_on_with_and_ranked(tmp_path, monkeypatch):
    data = write_fairface(tmp_path / "data", train=64, validation=4, side=24)
    brief = replace(smoke(), epochs=1, stages=(Stage(0, 16),))
    source = Source(str(data))
    teacher = fit(brief, Settings(tmp_path / "teacher", source))
    student = replace(
        brief, architecture="FaceAttrNet", sizes=TINY_FACEATTRNET, distillation=Distillation()
    )
    store([teacher], Rows(source, "train"), student.augmentation, tmp_path / "answers", views=1)
    monkeypatch.setattr(search, "faceattrnet", lambda: student)
    monkeypatch.setattr(search, "EPOCHS", 1)
    monkeypatch.setattr(search, "BATCH", 8)
    monkeypatch.setattr(search, "ENOUGH", 3)
    summary = tmp_path / "out" / "search.json"
    command = ["search", "--data", str(data), "--answers", str(tmp_path / "answers")]
    command += ["--output", str(tmp_path / "journal"), "--summary", str(summary), "--side", "16"]
    objective, calls = search.objective, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 1:
            raise Stopped
        return objective(*given)

    monkeypatch.setattr(search, "objective", interrupted)
    assert main([*command, "--trials", "2"]) == 3
    assert main([*command, "--trials", "2"]) == 0
    assert len(calls) == 3
    assert read_json(summary)["finished"] == 2
    assert main([*command, "--trials", "4"]) == 0
    found = read_json(summary)
    assert found["finished"] == len(found["trials"]) == 4
    assert [t["loss"] for t in found["trials"]] == sorted(t["loss"] for t in found["trials"])
    assert sum(found["importance"].values()) == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "out" / "search.png").is_file()
    assert "learning_rate" in (tmp_path / "out" / "search.md").read_text()
    assert main([*command[:-1], "32", "--trials", "5"]) == 1
