"""How differently a classifier treats groups: multiclass definitions with intervals. No torch.

A face has a label Y, an answer A, both one of the classes c, and a group g: its labelled gender,
race or age, or an intersection of them. Fairlearn's named criteria are binary; here each class is
taken against the rest, and for two classes the values equal fairlearn's:

- **accuracy** of a group: P(A = Y | g). Difference: largest minus smallest group; ratio: smallest
  over largest; and the worst group by name.
- **demographic parity** of class c: P(A = c | g). Difference: largest minus smallest over the
  groups; ratio: smallest over largest, "disparate impact" (Feldman et al., KDD 2015; the binary
  forms: Dwork et al., ITCS 2012). Over the classes: the largest difference, the smallest ratio.
  Where labels themselves are spread unevenly over groups, right answers are too, so the same
  figures of the labels, P(Y = c | g), stand beside.
- **equal opportunity** of class c: P(A = c | Y = c, g), the true positive rate; difference over
  the groups (Hardt, Price and Srebro, NeurIPS 2016, definition 2.2). Over the classes: the largest.
- **equalized odds** of class c: the larger of the differences of the true positive rate and of the
  false positive rate P(A = c | Y ≠ c, g) (ibid., definition 2.1; as a difference: fairlearn,
  `equalized_odds_difference`). Over the classes: the largest.

Within a group of one class of a task the label is constant, so the last three are given for groups
that do not involve the task itself. A rate enters only if it rests on at least `FEW_FACES` faces of
the group; how many groups are left out is said. Largest-minus-smallest grows with the number and
the smallness of groups even for a perfectly fair classifier: `if_equal` says how large the accuracy
difference would be by chance alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.labels import AGE, GENDER, RACE, TASKS, Task
from train.evaluate.bootstrap import DRAWS, SEED, Floats, Resamples, estimates
from train.evaluate.cells import FEW_FACES, Cell
from train.evaluate.predictions import Predictions

ATTRIBUTES = (GENDER, RACE, AGE)
GROUPINGS: tuple[tuple[Task, ...], ...] = tuple(
    chosen for size in (1, 2, 3) for chosen in combinations(ATTRIBUTES, size)
)
"""Every attribute and every intersection."""

CHANCE_DRAWS = 1_000


def title(grouping: Sequence[Task]) -> str:
    """Key of a grouping in reports, e.g. "gender × race"."""
    return " × ".join(task.name for task in grouping)


def group_counts(
    grouping: Sequence[Task],
    task: Task,
    true: Mapping[str, NDArray[np.int64]],
    predicted: NDArray[np.int64],
) -> tuple[list[tuple[int, ...]], NDArray[np.int64], NDArray[np.int64]]:
    """Confusion counts of every group that has faces.

    Returns:
        The groups' class positions, in canonical order; counts `(groups, classes, classes)` with
        labels down and answers across; and each face's place among the groups `(n,)`.
    """
    size = len(task.classes)
    shape = tuple(len(t.classes) for t in grouping)
    place = np.ravel_multi_index([true[t.name] for t in grouping], shape)
    cells = (place * size + true[task.name]) * size + predicted
    counts = np.bincount(cells, minlength=int(np.prod(shape)) * size**2).reshape(-1, size, size)
    present = np.flatnonzero(counts.sum(axis=(1, 2)))
    groups = [tuple(map(int, np.unravel_index(flat, shape))) for flat in present]
    return groups, counts[present], np.searchsorted(present, place)


def _spread(rates: Floats, enough: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Difference and ratio over the groups (axis 1) of rates `(draws, groups, ...)`.

    Only groups marked in `enough` `(groups, ...)` take part; NaN where there are not two.
    """
    enough = np.broadcast_to(enough, rates.shape[1:])
    usable = enough & (enough.sum(axis=0) >= 2)
    # A draw may hold no face of a rate; it is then left out of that draw's extremes.
    top = np.where(usable & np.isfinite(rates), rates, -np.inf).max(axis=1)
    low = np.where(usable & np.isfinite(rates), rates, np.inf).min(axis=1)
    known = np.isfinite(top) & np.isfinite(low)
    top, low = np.where(known, top, np.nan), np.where(known, low, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return top - low, low / top


def _largest(values: Floats) -> Floats:
    """Largest over the classes (axis 1), NaN left out; NaN where all are."""
    found = np.where(np.isfinite(values), values, -np.inf).max(axis=1)
    return np.where(np.isfinite(found), found, np.nan)


def _rates(counts: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Rates by class and the faces each rests on, from counts `(draws, groups, K, K)`."""
    labels, answers = counts.sum(axis=3), counts.sum(axis=2)
    faces = counts.sum(axis=(2, 3))[..., None]
    hits = np.diagonal(counts, axis1=2, axis2=3)
    bases = {
        "answers": (answers, np.broadcast_to(faces, answers.shape)),
        "labels": (labels, np.broadcast_to(faces, labels.shape)),
        "true_positives": (hits, labels),
        "false_positives": (answers - hits, faces - labels),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: (part / base, base) for name, (part, base) in bases.items()}


class _Criteria:
    """The three criteria of one task and grouping, from counts `(draws, groups, K, K)`."""

    def __init__(self, task: Task, counts: Floats) -> None:
        self.task = task
        self.enough = {name: base[0] >= FEW_FACES for name, (_, base) in _rates(counts).items()}

    def __call__(self, counts: Floats) -> dict[str, Floats]:
        """Named values `(draws,)`; by class "criterion:class", over the classes "criterion"."""
        spreads = {
            name: _spread(rates, self.enough[name]) for name, (rates, _) in _rates(counts).items()
        }
        positives, _ = spreads["true_positives"]
        odds = np.fmax(positives, spreads["false_positives"][0])
        by_class = {
            "parity_difference": spreads["answers"][0],
            "parity_ratio": spreads["answers"][1],
            "label_difference": spreads["labels"][0],
            "label_ratio": spreads["labels"][1],
            "opportunity_difference": positives,
            "odds_difference": odds,
        }
        found = {}
        for name, values in by_class.items():
            worst = -_largest(-values) if name.endswith("ratio") else _largest(values)
            found[name] = worst
            for index, label in enumerate(self.task.classes):
                found[f"{name}:{label}"] = values[:, index]
        return found


def _criteria(task: Task, counts: Floats, drawn: Floats) -> dict[str, Any]:
    """Demographic parity, equal opportunity and equalized odds with intervals, JSON-ready."""
    criteria = _Criteria(task, counts)
    found = estimates(criteria, counts, drawn)
    names = {
        "demographic_parity": ("parity_difference", "parity_ratio"),
        "labels": ("label_difference", "label_ratio"),
        "equal_opportunity": ("opportunity_difference",),
        "equalized_odds": ("odds_difference",),
    }
    return {
        criterion: {
            **{name.split("_")[1]: found[name] for name in parts},
            "by_class": [
                {"class": label} | {name.split("_")[1]: found[f"{name}:{label}"] for name in parts}
                for label in task.classes
            ],
        }
        for criterion, parts in names.items()
    }


def difference_if_equal(faces: Sequence[int], accuracy: float) -> dict[str, float]:
    """Largest-minus-smallest accuracy by chance alone, were all groups equally accurate.

    Each group's right answers are drawn from a binomial distribution; mean and 95th percentile
    over `CHANCE_DRAWS` draws.
    """
    rng = np.random.default_rng(SEED)
    shares = rng.binomial(faces, accuracy, size=(CHANCE_DRAWS, len(faces))) / np.array(faces)
    gaps = shares.max(axis=1) - shares.min(axis=1)
    return {"mean": float(gaps.mean()), "p95": float(np.quantile(gaps, 0.95))}


def _accuracy(
    grouping: Sequence[Task],
    groups: Sequence[tuple[int, ...]],
    counts: NDArray[np.int64],
    drawn: Floats,
) -> dict[str, Any]:
    """Accuracy by group; `drawn` holds wrong and right answers `(draws, groups, 2)`."""
    right = np.trace(counts, axis1=1, axis2=2)
    faces = counts.sum(axis=(1, 2))
    enough = faces >= FEW_FACES
    cells = [
        {
            "group": [task.classes[i] for task, i in zip(grouping, group, strict=True)],
            **Cell(int(n), int(correct)).to_dict(),
        }
        for group, n, correct in zip(groups, faces, right, strict=True)
    ]
    compared = sorted(
        (cell for cell in cells if cell["n"] >= FEW_FACES), key=lambda cell: float(cell["accuracy"])
    )

    def statistics(answers: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = answers[..., 1] / answers.sum(axis=2)
        difference, ratio = _spread(shares, enough)
        return {"difference": difference, "ratio": ratio}

    once = np.stack([faces - right, right], axis=1)[None].astype(np.float64)
    chance = None
    if len(compared) > 1:
        chance = difference_if_equal(faces[enough].tolist(), float(right.sum() / faces.sum()))
    return {
        "groups": len(cells),
        "few": int((~enough).sum()),
        **estimates(statistics, once, drawn),
        "if_equal": chance,
        "worst": compared[0] if compared else None,
        "best": compared[-1] if compared else None,
        # The 126 cells of all three would fill pages; most hold few faces.
        "by_group": cells if len(grouping) < len(ATTRIBUTES) else [],
    }


def _of_grouping(
    predictions: Predictions, task: Task, grouping: Sequence[Task], resamples: Resamples
) -> dict[str, Any]:
    true, predicted = predictions.true, predictions.predicted(task)
    size = len(task.classes)
    groups, counts, code = group_counts(grouping, task, true, predicted)
    answers = resamples.counts(code * 2 + predictions.correct(task), (len(groups), 2))
    found: dict[str, Any] = {"accuracy": _accuracy(grouping, groups, counts, answers)}
    if task not in grouping:
        place = (code * size + true[task.name]) * size + predicted
        drawn = resamples.counts(place, counts.shape)
        found |= _criteria(task, counts[None].astype(np.float64), drawn)
    return found


def fairness(predictions: Predictions, draws: int = DRAWS) -> dict[str, Any]:
    """All criteria by task and grouping, JSON-ready; see the module for the definitions."""
    resamples = Resamples.draw(predictions.rows, draws)
    return {
        "few_faces": FEW_FACES,
        "draws": draws,
        **{
            task.name: {
                title(grouping): _of_grouping(predictions, task, grouping, resamples)
                for grouping in GROUPINGS
            }
            for task in TASKS
        },
    }
