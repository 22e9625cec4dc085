"""How weights came to be, in words: teachers, what they started from, and the cost."""

from __future__ import annotations

from collections.abc import Iterator

from train.report.sections import Json, duration


def _name(facts: Json) -> str:
    return f"`{facts['recipe']}` (seed {facts['seed']})"


def teachers_words(training: Json) -> str:
    """The teachers by recipe and seed; empty where there are none."""
    return " and ".join(map(_name, training.get("teachers") or []))


def start_words(training: Json) -> str:
    """The run whose weights this one went on from; empty where it began at random."""
    start = training.get("start")
    return _name(start) if start else ""


def _earlier(facts: Json) -> Iterator[Json]:
    """All runs that a run rests on, the earliest first; one may come several times."""
    for origin in [*(facts.get("teachers") or []), *filter(None, [facts.get("start")])]:
        yield from _earlier(origin)
        yield origin


def lineage(training: Json) -> list[Json]:
    """Training facts of every run that the weights rest on, once each, itself last."""
    known: dict[str, Json] = {}
    for origin in _earlier(training):
        key = (
            origin.get("sha256") or f"{origin['recipe']} {origin['seed']} {origin['wall_seconds']}"
        )
        known.setdefault(key, origin)
    return [*known.values(), training]


def cost(training: Json) -> str:
    """Wall time of all runs that the weights rest on, each up to the epoch it kept."""
    runs = lineage(training)
    total = duration(sum(run["wall_seconds"] for run in runs))
    return total if len(runs) == 1 else f"{total} over {len(runs)} runs"
