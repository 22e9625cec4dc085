"""Measure what the loader keeps of the decoder's rate, and the step of its synthetic rate.

    python -m scripts.benchmark_training --data DATA

DATA is a Hub id or a folder in FairFace's layout. All is timed in turn, medians of several rounds,
by CPU seconds of one thread, so that other work on the machine hardly matters. Writes
docs/results/training_speed.json, and docs/training_speed.md from it (`--page-only`: only that).
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from faceattr import labels
from faceattr.config import ModelConfig
from faceattr.model import build_model
from faceattr.preprocessing import Preprocessing
from train.data.batches import MemoryRows, training_batch
from train.data.order import Chunk, epoch_chunks
from train.data.source import Row, Rows, add_data_arguments, source_of
from train.fit.device import keep_freed_memory
from train.fit.networks import NETWORKS
from train.fit.parallel import Group
from train.fit.steps import make_optimizer, soft_losses, target_tables
from train.recipe import RECIPES, Augmentation, Recipe
from train.tables import markdown_table, read_json, rounded, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "docs" / "results" / "training_speed.json"
PAGE = ROOT / "docs" / "training_speed.md"
BATCH, BUFFER = 128, 2048
AUGMENTATIONS = {
    "none": Augmentation(),
    "colour": Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, grey=0.02),
    "recipe lightweight": RECIPES["lightweight"]().augmentation,
    "recipe ours": RECIPES["ours"]().augmentation,
}
SIDES = (64, 112)
NETWORK_SIDES = {"FaceAttrNet": 112, "LightweightMTLNet224": 96}


def rate(work: Callable[[], int]) -> float:
    """Pictures a CPU second."""
    started = time.process_time()
    count = work()
    return count / (time.process_time() - started)


def decoding(rows: list[Row]) -> int:
    """The fastest decoder, and nothing else."""
    for row in rows:
        cv2.imdecode(np.frombuffer(row.image, np.uint8), cv2.IMREAD_COLOR)
    return len(rows)


def endless(rows: Rows, buffer_size: int, group: Group = Group()) -> Iterator[Chunk]:  # noqa: B008
    """Epoch after epoch."""
    return itertools.chain.from_iterable(
        epoch_chunks(rows, 0, epoch, buffer_size, BATCH, group=group) for epoch in itertools.count()
    )


def loading(
    rows: Rows, augmentation: Augmentation, side: int, count: int, group: Group
) -> Callable[[], int]:
    """Batches as `fit` makes them, of a stream whose shuffle buffer is full."""
    chunks = endless(rows, BUFFER, group)
    settings, device = Preprocessing(image_size=side), torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    next(chunks)

    def work() -> int:
        made = 0
        while made < count:
            chunk, part = next(chunks)
            training_batch(chunk, settings, augmentation, side, generator, device, part)
            made += len(part)
        return made

    return work


def loader_rates(source: Any, count: int, rounds: int, group: Group) -> dict[str, float]:
    """Median pictures a CPU second: decoding alone, and each way of loading."""
    rows = Rows(source, "train")
    sample = list(itertools.islice(rows.in_order(), count))
    works: dict[str, Callable[[], int]] = {"decode": lambda: decoding(sample)}
    for name, augmentation in AUGMENTATIONS.items():
        for side in SIDES:
            works[f"{name}|{side}"] = loading(rows, augmentation, side, count, group)
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(rate(work))
    return {name: statistics.median(rates) for name, rates in found.items()}


def step_of(recipe: Recipe, side: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """One training step of a network without teachers."""
    torch.manual_seed(0)
    config = ModelConfig(recipe.architecture, recipe.sizes)
    model = build_model(config, NETWORKS).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, recipe)
    tables = target_tables(recipe)
    ones = {task.name: torch.ones(len(task.classes)) for task in labels.TASKS}

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        assert images.shape[-1] == side
        soft = {
            task.name: tables[task.name][targets[:, column]]
            for column, task in enumerate(labels.TASKS)
        }
        optimizer.zero_grad(set_to_none=True)
        sum(soft_losses(model(images), soft, ones).values()).backward()
        optimizer.step()

    return step


def step_shares(source: Any, rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of a step on a batch at hand, and with the loader before it."""
    rows = []
    for name, side in NETWORK_SIDES.items():
        recipe = RECIPES["ours" if name == "FaceAttrNet" else "lightweight"]()
        step = step_of(replace(recipe, distillation=None), side)
        aug, settings = recipe.augmentation, Preprocessing(image_size=side)
        cpu = torch.device("cpu")
        sources = {
            "stream": endless(Rows(source, "train"), 512),
            "memory cache": endless(MemoryRows(source, "holdout", side), 512),
        }
        for chunks in sources.values():
            for _ in range(16):
                next(chunks)
        generator = torch.Generator().manual_seed(0)
        made = training_batch(next(sources["stream"]).rows, settings, aug, side, generator, cpu)
        step(made.images, made.targets)
        taken: dict[str, list[float]] = {"synthetic": [], **{kind: [] for kind in sources}}
        for _ in range(rounds):
            started = time.process_time()
            step(made.images, made.targets)
            taken["synthetic"].append(time.process_time() - started)
            for kind, chunks in sources.items():
                started = time.process_time()
                batch = training_batch(next(chunks).rows, settings, aug, side, generator, cpu)
                step(batch.images, batch.targets)
                taken[kind].append(time.process_time() - started)
        medians = {kind: statistics.median(times) for kind, times in taken.items()}
        rows.append({"network": name, "side": side, "recipe": recipe.name, "seconds": medians})
    return rows


def two_workers(arguments: list[str]) -> dict[str, float]:
    """Rates of two processes that share each batch, the slower one's counted for both."""
    command = [sys.executable, "-m", "scripts.benchmark_training", *arguments, "--worker"]
    started = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a worker failed; its message stands above")
    found = [json.loads(output) for output in outputs]
    return {name: 2 * min(one[name] for one in found) for name in found[0]}


def aims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, what was found, and whether it was met."""
    rows = []
    for workers, low in (("one", 0.8), ("two", 0.7)):
        rates = result["loader"][workers]
        for name, value in rates.items():
            if name != "decode":
                kind, side = name.split("|")
                processes = f"{workers} process" + ("es" if workers == "two" else "")
                what = f"Loader / decoding alone, {processes}, augmentation: {kind}, {side} px"
                rows.append((what, low, value / rates["decode"]))
    for row in result["steps"]:
        for kind in ("stream", "memory cache"):
            share = row["seconds"]["synthetic"] / row["seconds"][kind]
            what = f"Step with loader / step alone, {row['network']}, {row['side']} px, {kind}"
            rows.append((what, 0.9, share))
    return [{"what": w, "aim": low, "found": f, "met": f >= low} for w, low, f in rows]


PAGE_TEXT = """# What an epoch costs

Written by `python -m scripts.benchmark_training` from
[results/training_speed.json](results/training_speed.json); no number here is typed by hand.
Measured on {machine}, one thread a process, by CPU time: medians of {rounds} rounds.

The loader streams, shuffles, decodes, resizes, augments, normalises and batches, resumable at any
step. Its rate is a share of what OpenCV decodes when nothing else is done: {decode:,.0f} pictures
of 224 px a second here. The loader decodes JPEG at half size where the network's side allows, so
its share may pass 100%. The augmentations that move pixels resample each picture once; their share
of decoding shows that price, and the share of a whole training step what it matters.

{table}
"""


def page(result: dict[str, Any]) -> str:
    """The Markdown page of a result file."""
    rows = [
        [
            row["what"],
            f"{row['aim']:.0%}",
            f"{row['found']:.0%}",
            "yes" if row["met"] else "**no**",
        ]
        for row in aims(result)
    ]
    return PAGE_TEXT.format(
        machine=result["machine"],
        rounds=result["rounds"],
        decode=result["loader"]["one"]["decode"],
        table=markdown_table(["Share", "Aim", "Found", "Met"], rows),
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, PyTorch {torch.__version__}"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--count", type=int, default=1024, help="pictures a round (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT, help="(%(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="(%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="write the page again")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    if args.worker is not None:
        group = Group(args.worker, 2)
        rates = loader_rates(source_of(args), args.count // 2, args.rounds, group)
        print(json.dumps(rates))
        return 0
    if not args.page_only:
        source = source_of(args)
        result = {
            "machine": _cpu(),
            "rounds": args.rounds,
            "loader": {
                "one": loader_rates(source, args.count, args.rounds, Group()),
                "two": two_workers(given),
            },
            "steps": step_shares(source, args.rounds),
        }
        write_json(args.output, rounded(result, 4))
    write_text(args.page, page(read_json(args.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
