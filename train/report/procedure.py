"""How weights came to be, in words: settings, teachers, what they started from, and the cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from train.report.sections import Json, duration, percent


def settings_words(settings: Json) -> str:
    """The recipe in a few words."""
    sizes = ", ".join(
        f"{s['image_size']} px from epoch {s['epoch'] + 1}" for s in settings["stages"]
    )
    words = [
        f"batches of {settings['batch_size']}",
        f"{settings['optimizer']} at {settings['learning_rate']:g} ({settings['schedule']})",
        f"warm-up of {settings['warmup_epochs']:g} epochs",
        f"weight decay {settings['weight_decay']:g}",
        f"label smoothing {settings['label_smoothing']:g}",
        f"averaged weights {settings['ema_decay'] or 'off'}",
        f"pictures at {sizes}",
    ]
    if distillation := settings.get("distillation"):
        words.append(
            f"distillation with weight {distillation['weight']:g} and temperature "
            f"{distillation['temperature']:g}"
            + (" on each view and its mirror image" if distillation.get("mirrored") else "")
        )
    if mitigation := settings.get("mitigation"):
        words.append(
            f"mitigation {mitigation['kind']} of strength {mitigation['strength']:g} over "
            + " × ".join(mitigation["groups"])
        )
    if weights := settings.get("loss_weights"):
        words.append("loss weights " + ", ".join(f"{t} {w:g}" for t, w in weights.items()))
    for name in ("age_spread", "class_balance", "mixup", "average_epochs"):
        if settings.get(name):
            words.append(f"{name.replace('_', ' ')} {settings[name]:g}")
    changes = [f"{k} {v:g}" for k, v in settings["augmentation"].items() if v]
    return "; ".join([*words, "augmentation " + (", ".join(changes) or "none")])


def _name(facts: Json) -> str:
    return f"`{facts['recipe']}` (seed {facts['seed']})"


def teachers_words(training: Json) -> str:
    """The teachers by recipe and seed; empty where there are none."""
    return " and ".join(map(_name, training.get("teachers") or []))


def start_words(training: Json) -> str:
    """The run whose weights this one went on from; empty where it began at random."""
    start = training.get("start")
    return _name(start) if start else ""


def earlier_words(training: Json) -> list[str]:
    """Every earlier run that the weights rest on, once each, with what it came from itself."""
    lines = []
    for facts in lineage(training)[:-1]:
        start, teachers = start_words(facts), teachers_words(facts)
        origin = f"started from {start}" if start else "from scratch"
        if teachers:
            origin += f", distilled from {teachers}"
        holdout = ", ".join(
            f"{name} {percent(v)} %" for name, v in facts["holdout_accuracy"].items()
        )
        lines.append(f"{_name(facts)}: {facts['architecture']}, {origin}; holdout {holdout}")
    return lines


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


def cost(training: Json) -> dict[str, Any]:
    """Time and hardware of all runs, ready for print: `runs` and `total`.

    A run's time ends with the epoch whose weights it kept.
    """
    found = lineage(training)
    words = [
        f"{_name(run)}: {duration(run['wall_seconds'])} on "
        f"{run.get('hardware') or 'hardware that was not recorded'}"
        for run in found
    ]
    return {"runs": words, "total": duration(sum(run["wall_seconds"] for run in found))}
