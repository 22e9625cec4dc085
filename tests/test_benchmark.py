"""The pages on speed are made of their result files, and say what was not met."""

from pathlib import Path

import numpy as np

from scripts import benchmark
from train.tables import read_json

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_made_of_the_result():
    assert benchmark.page(read_json(benchmark.RESULT)) == benchmark.PAGE.read_text()


def test_an_aim_that_is_missed_is_shown():
    result = read_json(benchmark.RESULT)
    for row in result["networks"]:
        if row["network"] == "ResNet-34":
            row["ms"] = 0.5
    (first, *_) = benchmark.aims(result)
    assert not first["met"]
    assert "**no**" in benchmark.page(result)


def test_calls_are_timed_in_turn_and_medians_kept(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    costs = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 4.0, 4.0, 4.0])}

    def call(name):
        order.append(name)
        now[0] += next(costs[name])

    found = benchmark.interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert found == {"a": 2000.0, "b": 4000.0}


def test_chunks_cover_the_batch_once():
    seen = []
    benchmark.in_chunks(lambda part: seen.extend(part), np.arange(10), 4)()
    assert seen == list(range(10))
