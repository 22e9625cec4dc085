"""Timings are taken in turn, and every run is shown as it is."""

import numpy as np

from scripts import benchmark


def made_run(resnet_ms):
    """What a run with two rounds leaves; all else takes a millisecond, a second or a MiB."""
    names = [f"{name}, 99 px" for name in (*benchmark.BUNDLED_NAMES, *benchmark.PEERS)]
    return {
        **dict.fromkeys(("date", "cpu", "threads", "load_before", "rounds", "versions"), "?"),
        "parameters": dict.fromkeys(names, 1000),
        "networks": {
            f"{name}|{kind}|{count}": [resnet_ms if name.startswith("ResNet") else 1.0] * 2
            for name in names
            for kind in benchmark.BACKENDS
            for count in benchmark.FACES
        },
        "images": {
            f"{name}, {width} px wide, 1 face|{part}": [1.0, 1.0]
            for name in benchmark.PHOTOS
            for width in benchmark.WIDTHS
            for part in benchmark.PARTS
        },
        "start": {
            command: {"seconds": [1.0] * 2, "peak_mib": [1.0] * 2} for command in benchmark.COMMANDS
        },
    }


def test_every_run_has_its_column_and_every_round_counts():
    page = benchmark.page({"runs": [made_run(12.5), made_run(0.5)]})
    ratios = [line for line in page.splitlines() if line.startswith("| ResNet-34 / ")]
    assert [line.split(" | ")[1:] for line in ratios] == [
        ["≥ 5", "12.50", "0.50 |"],
        ["≥ 12", "12.50", "0.50 |"],
    ]
    (times,) = (line for line in page.splitlines() if line.startswith("| ResNet-34, "))
    assert times.split(" | ")[2] == "6.5 (0.5 to 12.5)"


def test_calls_are_timed_in_turn_and_every_round_is_kept(monkeypatch):
    order, now = [], [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    costs = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 4.0, 4.0, 4.0])}

    def call(name):
        order.append(name)
        now[0] += next(costs[name])

    found = benchmark.interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert found == {"a": [1000.0, 5000.0, 2000.0], "b": [4000.0] * 3}


def test_chunks_cover_the_batch_once():
    seen = []
    benchmark.in_chunks(lambda part: seen.extend(part), np.arange(10), 4)()
    assert seen == list(range(10))
