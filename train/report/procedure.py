"""How weights came to be, in words: teachers, what they started from, and the cost."""

from __future__ import annotations

from train.report.sections import Json, duration


def _name(facts: Json) -> str:
    if facts["recipe"] == "imagenet":
        return f"ImageNet ({facts['architecture']}, `{facts['package']}`, {facts['licence']})"
    return f"`{facts['recipe']}` (seed {facts['seed']})"


def _names(training: Json, digests: list[str]) -> list[str]:
    """Names of some of the runs that weights rest on."""
    return [_name(training["runs"][digest]) for digest in digests]


def teachers_words(training: Json) -> str:
    """The teachers by recipe and seed; empty where there are none."""
    return " and ".join(_names(training, training.get("teachers") or []))


def start_words(training: Json) -> str:
    """What the run went on from; empty where it began at random."""
    start = training.get("start")
    return _names(training, [start])[0] if start else ""


def lineage(training: Json) -> list[Json]:
    """Training facts of every run of ours that the weights rest on, itself last."""
    runs = training.get("runs", {}).values()
    return [*(run for run in runs if run["recipe"] != "imagenet"), training]


def cost(training: Json) -> str:
    """Wall time of all runs that the weights rest on, each up to the epoch it kept."""
    runs = lineage(training)
    total = duration(sum(run["wall_seconds"] for run in runs))
    return total if len(runs) == 1 else f"{total} over {len(runs)} runs"
