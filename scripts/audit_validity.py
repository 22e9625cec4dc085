"""Whether an audit's intervals hold what they say: docs/results/audit_validity.json.

Skewed collections are drawn from FairFace's validation rows, whose shares are then known, and
measured as `faceattr audit` does, by the calibration table beside the weights (holdout rows, which
are never drawn from). The same with the images blurred, darkened or compressed; and with some
faces of each draw labelled. Classes are drawn without replacement as far as their rows reach; a
row that is needed again counts as one more face of the same image.

    python -m scripts.audit_validity --data FOLDER --cache FOLDER --output JSON
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from faceattr.audit.answers import Answers, Axis, single
from faceattr.audit.calibration import CalibrationTable, find_table
from faceattr.audit.estimates import Estimates
from faceattr.audit.labelled import Labelled, label_sample, powered_shares
from faceattr.audit.prevalence import measure
from faceattr.audit.shift import LEVEL, shift_test
from faceattr.hub import find_weights
from faceattr.labels import TASKS, Task
from faceattr.labels import task as task_named
from train.tables import rounded, write_json

FACES = 1_500
LABELS = 300
CONCENTRATION = 1.5
WORSE: tuple[tuple[str, float], ...] = (
    ("jpeg", 5),
    ("blur", 3),
    ("low_light", 16),
    ("jpeg", 15),
    ("blur", 2),
    ("low_light", 8),
)
"""Corruptions of train/evaluate/corruptions.py with their levels: three severe, three mild."""
SEVERE = WORSE[:3]
CLEAN = ("clean", 0.0)
_BATCH = 64


def name_of(variant: tuple[str, float]) -> str:
    """What a kind of images is called in files."""
    return f"{variant[0]}-{variant[1]:g}"


def predict(data: str, weights: str | None, cache: Path) -> None:
    """Write the probabilities of the validation rows as they are and for each corruption.

    Nothing is done where the cache holds those of these weights.
    """
    from faceattr.backends.onnx import OnnxClassifier
    from train.data.batches import decode
    from train.data.source import Rows, Source, sha256
    from train.evaluate.corruptions import CORRUPTIONS

    files = find_weights(weights, file="model.onnx")
    digest = sha256(files.weights)
    told = cache / "weights.txt"
    if told.is_file() and told.read_text() == digest:
        return
    network = OnnxClassifier(files)
    found: dict[str, dict[str, list[NDArray[np.float32]]]] = {}
    targets: list[tuple[int, ...]] = []
    rows = Rows(Source(data), "validation")
    for start in tqdm(range(0, len(rows), _BATCH), unit="batch"):
        some = [rows[place] for place in range(start, min(start + _BATCH, len(rows)))]
        targets += [row.targets for row in some]
        chips = [decode(row.image) for row in some]
        for kind, level in (CLEAN, *WORSE):
            worse = chips
            if kind != "clean":
                worse = [CORRUPTIONS[kind].apply(chip, level) for chip in chips]
            pixels = network.config.preprocessing.to_pixels(worse)
            for task, values in network.probabilities(pixels).items():
                found.setdefault(name_of((kind, level)), {}).setdefault(task, []).append(values)
    cache.mkdir(parents=True, exist_ok=True)
    for name, parts in found.items():
        joined: dict[str, NDArray[Any]]
        joined = {task: np.concatenate(values) for task, values in parts.items()}
        joined["targets"] = np.array(targets)
        np.savez(cache / f"validation-{name}.npz", **joined)  # type: ignore[arg-type]
    told.write_text(digest)


Loaded = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.int64]]]


def load(cache: Path, variant: tuple[str, float]) -> Loaded:
    """Probabilities and labels by task of the validation rows."""
    with np.load(cache / f"validation-{name_of(variant)}.npz") as stored:
        probabilities = {task.name: stored[task.name].astype(np.float64) for task in TASKS}
        targets = stored["targets"]
    return probabilities, {task.name: targets[:, i] for i, task in enumerate(TASKS)}


def draw(true: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one collection of `FACES` faces whose class shares are Dirichlet distributed."""
    counts = rng.multinomial(FACES, rng.dirichlet(np.full(classes, CONCENTRATION)))
    chosen = []
    for cell, wanted in enumerate(counts):
        rows = np.flatnonzero(true == cell)
        while wanted > 0:
            chosen.append(rng.permutation(rows)[:wanted])
            wanted -= len(chosen[-1])
    return np.concatenate(chosen)


def collections_of(
    cache: Path, variant: tuple[str, float], task: Task, draws: int
) -> Iterator[tuple[Answers, NDArray[np.int64], dict[str, NDArray[np.int64]], int]]:
    """The same rows for each variant: answers, rows, labels and number of the draw."""
    probabilities, true = load(cache, variant)
    for number in range(draws):
        rng = np.random.default_rng([TASKS.index(task), number])
        rows = draw(true[task.name], len(task.classes), rng)
        answers = Answers({name: values[rows] for name, values in probabilities.items()}, rows)
        yield answers, rows, {name: codes[rows] for name, codes in true.items()}, number


class Tally:
    """Errors and hits of one estimator over the draws."""

    def __init__(self) -> None:
        self.errors: list[float] = []
        self.hits: list[float] = []
        self.widths: list[float] = []

    def add(self, found: Estimates, truth: NDArray[np.float64]) -> None:
        """One draw's estimates."""
        self.errors.append(float(np.abs(found.value - truth).mean()))
        inside = (found.low - 1e-12 <= truth) & (truth <= found.high + 1e-12)
        self.hits.append(float(inside.mean()))
        self.widths.append(float((found.high - found.low).mean()))

    def to_dict(self) -> dict[str, float]:
        """Means over draws and classes; `coverage_error` is the standard error of the coverage."""
        return {
            "mean_absolute_error": float(np.mean(self.errors)),
            "coverage": float(np.mean(self.hits)),
            "coverage_error": float(np.std(self.hits) / np.sqrt(len(self.hits))),
            "width": float(np.mean(self.widths)),
        }


def shares(
    cache: Path,
    variant: tuple[str, float],
    task: Task,
    table: CalibrationTable,
    draws: int,
    corrected: int,
) -> dict[str, Any]:
    """Errors and coverage of the labelled shares, and of the others over `corrected` draws."""
    tallies = {name: Tally() for name in ("counted", "matrix", "em", "labelled")}
    axis = single(task)
    for answers, _, true, number in collections_of(cache, variant, task, draws):
        truth = np.bincount(true[task.name], minlength=len(task.classes)) / FACES
        if number < corrected:
            _add_corrected(tallies, answers, table, axis, truth, number)
        sample = label_sample(answers, LABELS, seed=number)
        labels = {name: codes[sample.rows] for name, codes in true.items()}
        known = Labelled(sample.rows, sample.inclusion, labels)
        tallies["labelled"].add(powered_shares(answers, known, axis), truth)
    return {name: tally.to_dict() for name, tally in tallies.items()}


def _add_corrected(
    tallies: dict[str, Tally],
    answers: Answers,
    table: CalibrationTable,
    axis: Axis,
    truth: NDArray[np.float64],
    seed: int,
) -> None:
    found = measure(answers, table, axes=(axis,), seed=seed)[axis.name]
    # What somebody would say who took the classifier for right: the error of sampling only.
    naive = measure(answers, None, axes=(axis,), population=True, seed=seed)[axis.name]
    assert found.matrix is not None and found.em is not None
    tallies["counted"].add(naive.counted, truth)
    tallies["matrix"].add(found.matrix, truth)
    tallies["em"].add(found.em, truth)


def warnings(
    cache: Path, variant: tuple[str, float], table: CalibrationTable, draws: int
) -> dict[str, Any]:
    """How often the shift test warns, over draws of each head."""
    found = [
        shift_test(answers, table, seed=number)
        for task in TASKS
        for answers, _, _, number in collections_of(cache, variant, task, draws)
    ]
    raised = sum(not one.trusted for one in found)
    # The report warns of single heads as well.
    any_head = sum(min([one.p_value or 0.0, *one.by_task.values()]) < LEVEL for one in found)
    rate = raised / len(found)
    return {"draws": len(found), "warnings": raised, "rate": rate, "with_heads": any_head}


def _part(
    cache: Path,
    weights: str | None,
    variant: tuple[str, float],
    head: str | None,
    draws: list[int],
) -> dict[str, Any]:
    """One head's shares of one variant, or the warnings if `head` is None."""
    table = find_table(find_weights(weights))
    if table is None:
        raise SystemExit(f"there is no audit.json beside {weights or 'the default weights'}")
    if head is None:
        return warnings(cache, variant, table, draws[1])
    return shares(
        cache, variant, task_named(head), table, draws[0], draws[0 if variant == CLEAN else 1]
    )


def measure_all(
    cache: Path, weights: str | None, draws: int, shift_draws: int, workers: int
) -> dict[str, Any]:
    """The whole content of the JSON file."""
    files = find_weights(weights)
    jobs: list[tuple[tuple[str, float], str | None]] = [
        (variant, head)
        for variant in (CLEAN, *WORSE)
        for head in (*(task.name for task in TASKS), None)
        if head is None or variant in (CLEAN, *SEVERE)
    ]
    with ProcessPoolExecutor(workers) as pool:
        running = [
            pool.submit(_part, cache, weights, variant, head, [draws, shift_draws])
            for variant, head in jobs
        ]
        variants: dict[str, Any] = {}
        for (variant, head), job in zip(jobs, running, strict=True):
            facts = variants.setdefault(name_of(variant), {"kind": variant[0], "level": variant[1]})
            if head is None:
                facts["shift"] = job.result()
            else:
                facts.setdefault("shares", {})[head] = job.result()
            said = json.dumps(rounded(job.result(), 4))
            print(name_of(variant), head, said, file=sys.stderr, flush=True)
    table = find_table(files)
    assert table is not None
    return {
        "schema": 1,
        "command": "python -m scripts.audit_validity",
        "model": files.name,
        "weights_sha256": table.weights_sha256,
        "calibration": {**table.source, "rows": table.rows},
        "drawn_from": "validation",
        "faces": FACES,
        "labels": LABELS,
        "draws": draws,
        "draws_of_worse_images": {"corrected": shift_draws, "labelled": draws},
        "concentration": CONCENTRATION,
        "shift_level": LEVEL,
        "variants": variants,
    }


def main() -> None:
    """Parse the command line and carry it out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="FairFace: Hub id or folder of its layout")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the predictions")
    parser.add_argument("--weights", help="folder or Hub id; the default weights if left out")
    parser.add_argument("--draws", type=int, default=400, help="of each head (%(default)s)")
    parser.add_argument(
        "--shift-draws",
        type=int,
        default=20,
        help="of each head for the test, and for corrections of worse images (%(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    predict(args.data, args.weights, args.cache)
    found = measure_all(args.cache, args.weights, args.draws, args.shift_draws, args.workers)
    write_json(args.output, rounded(found))


if __name__ == "__main__":
    main()
