"""Kill training at random, resume it, and compare with a run that nothing interrupted.

    python -m scripts.resume_torture --kills 200 --output docs/results/resume.json

Each case takes a set of recipe features and a tiny made-up data set, kills the run with SIGKILL
(before or after a step, while a checkpoint or the weights are being written, or at any moment),
sometimes again after it was resumed, and lets it finish. Weights, averages, optimiser, random
state, history and the rows left out must then equal the uninterrupted run's, bit for bit.

Processes are forked from one that has only imported the libraries, so a kill costs a second.
Linux and macOS only; one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import train.fit.checkpoint as checkpoint_module
import train.fit.trainer as loop_module
from tests.synthetic import TINY_FACEATTRNET, write_fairface
from train.data.source import Source
from train.fit.checkpoint import checkpoints, load_checkpoint
from train.fit.parallel import join, leave
from train.fit.trainer import Settings, Trainer, fit
from train.recipe import Distillation, Mitigation, Recipe, smoke
from train.tables import read_json, write_json

KINDS = ("before a step", "after a step", "half a file", "before renaming", "any moment")
EVERY = 4
AGAIN = 0.3
"""Chance that a resumed run is killed too."""
PATIENCE_S = 900.0
"""After which a run that does not end is killed; a few seconds are usual."""


@dataclass(frozen=True)
class Features:
    """What a case trains with.

    Attributes:
        recipe: of the run.
        changes: of its settings.
        teacher: whether it learns from a finished run.
        processes: how many train together.
        damaged: whether some rows do not decode.
    """

    recipe: Recipe
    changes: dict[str, Any]
    teacher: bool = False
    processes: int = 1
    damaged: bool = False


def features() -> dict[str, Features]:
    """The sets of features by name."""
    rich = replace(
        smoke(),
        architecture="FaceAttrNet",
        sizes=TINY_FACEATTRNET,
        optimizer="sgd",
        age_spread=0.6,
        class_balance=0.5,
        loss_weights={"race": 2.0},
        mixup=0.2,
        ema_decay=None,
        average_epochs=2,
    )
    distilled = replace(smoke(), distillation=Distillation(0.5, 3.0))
    groups = replace(smoke(), mitigation=Mitigation("group_dro", 0.5))
    return {
        "average, schedule, augmentation": Features(smoke(), {}),
        "memory cache": Features(smoke(), {"cache_memory": True}),
        "mixing, weights, equal average": Features(rich, {}),
        "distillation": Features(distilled, {}, teacher=True),
        "group losses": Features(groups, {}),
        "damaged rows": Features(smoke(), {}, damaged=True),
        "damaged rows in memory": Features(smoke(), {"cache_memory": True}, damaged=True),
        "two processes": Features(smoke(), {}, processes=2),
    }


def damage(source: Path, target: Path, count: int = 3) -> Path:
    """A copy of a data set in which some training pictures do not decode."""
    for path in source.rglob("*"):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.name.startswith("train-00000"):
            table = pq.read_table(path)
            rows = table.to_pylist()
            for index in range(1, 1 + count):
                rows[index * 7]["image"]["bytes"] = b"no picture"
            pq.write_table(type(table).from_pylist(rows, schema=table.schema), copy)
        else:
            copy.write_bytes(path.read_bytes())
    return target


def digest(folder: Path) -> str:
    """SHA-256 of all that must be equal at the end of a run."""
    state = load_checkpoint(folder)
    state["progress"].pop("seconds")
    hashed = hashlib.sha256((folder / "model" / "model.safetensors").read_bytes())

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            hashed.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                hashed.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            hashed.update(repr(value).encode())

    # The checkout may change between two runs; what they compute may not.
    add({key: state[key] for key in state if key not in ("versions", "git_commit")})
    return hashed.hexdigest()


def code_digest() -> str:
    """SHA-256 of the modules that a run goes through: kills say something about these only."""
    names = ("batches", "checkpoint", "loop", "order", "parallel", "samples", "signals", "steps")
    folder = Path(loop_module.__file__).parent
    return hashlib.sha256(
        b"".join((folder / f"{name}.py").read_bytes() for name in names)
    ).hexdigest()


def die() -> None:
    """End as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: str, count: int) -> None:
    """In a child: die at the `count`-th step or write."""
    calls = Counter[str]()

    def due() -> bool:
        calls["all"] += 1
        return calls["all"] == count

    if kind in ("before a step", "after a step"):
        step = Trainer._step

        def killing(self: Trainer, *args: Any) -> Any:
            now = due()
            if now and kind == "before a step":
                die()
            result = step(self, *args)
            if now:
                die()
            return result

        Trainer._step = killing  # type: ignore[method-assign]
    elif kind in ("half a file", "before renaming"):
        write = checkpoint_module.write_atomically

        def cut(path: Path, content: bytes) -> None:
            if due():
                part = len(content) // 2 if kind == "half a file" else len(content)
                path.with_name(path.name + ".tmp").write_bytes(content[:part])
                die()
            write(path, content)

        checkpoint_module.write_atomically = loop_module.write_atomically = cut


def _child(work: Callable[[], None]) -> int:
    """Fork; the child works and ends. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        logging.disable(logging.CRITICAL)
        work()
        status = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(status)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Bench:
    """Where the cases run.

    Attributes:
        folder: of everything.
        data: the tiny data set.
        broken: the same with damaged rows.
    """

    folder: Path
    data: Path
    broken: Path

    def _train(self, case: Features, output: Path, rank: int, port: int) -> None:
        if case.processes > 1:
            os.environ |= {
                "WORLD_SIZE": str(case.processes),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        group, device = join(torch.device("cpu"))
        teachers = (self.folder / "teacher" / "model",) if case.teacher else ()
        settings = Settings(
            output,
            Source(str(self.broken if case.damaged else self.data)),
            device=device,
            checkpoint_every=EVERY,
            precision="float32",
            teachers=teachers,
            group=group,
        )
        settings = replace(settings, resume=bool(checkpoints(output)), **case.changes)
        fit(case.recipe, settings)
        leave(group)

    def run(
        self, case: Features, output: Path, kill: tuple[str, int, float] | None = None
    ) -> tuple[bool, float]:
        """Train, from the newest checkpoint where there is one.

        Args:
            case: what to train with.
            output: folder of the run.
            kill: kind, number of the call, and seconds, for the one that the kind goes by.

        Returns:
            Whether the run ended by itself, and its seconds.
        """
        port, started = _free_port(), time.monotonic()
        # The first process alone writes files.
        steps = kill is not None and kill[0].endswith("step")
        victim = kill[1] % case.processes if kill is not None and steps else 0

        def work(rank: int) -> Callable[[], None]:
            def train() -> None:
                if kill is not None and rank == victim:
                    arm(kill[0], kill[1])
                self._train(case, output, rank, port)

            return train

        left = {_child(work(rank)) for rank in range(case.processes)}
        sent = kill is None or kill[0] != "any moment"
        clean = True
        while left:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                left.discard(pid)
                clean = clean and status == 0
                if status:
                    # As torchrun does when one of its processes ends badly.
                    for other in left:
                        os.kill(other, signal.SIGKILL)
                continue
            waited = time.monotonic() - started
            if (not sent and kill is not None and waited > kill[2]) or waited > PATIENCE_S:
                sent = True
                for other in left:
                    os.kill(other, signal.SIGKILL)
            time.sleep(0.005)
        return clean, time.monotonic() - started

    def digest(self, output: Path) -> str:
        """`digest` of a run's folder, in a child: this process computes nothing."""
        target = output / "digest"
        pid = _child(lambda: target.write_text(digest(output)) and None)
        os.waitpid(pid, 0)
        return target.read_text() if target.exists() else f"no run in {output.name}"


def killed(bench: Bench, case: Features, output: Path, seconds: float, seed: Any) -> list[Any]:
    """Train to the end through kills drawn from `seed`; what they were: [kind, count, moment]."""
    rng = np.random.default_rng(seed)
    # In turn, so that every kind meets every set of features.
    turn = int(rng.integers(len(KINDS)))
    told: list[list[Any]] = []
    while len(told) <= 20:
        kind = KINDS[(turn + len(told)) % len(KINDS)]
        # 28 steps and 10 writes in a whole run.
        count = int(rng.integers(1, 29 if kind.endswith("step") else 11))
        moment = float(rng.uniform(0, seconds))
        again = not told or rng.random() < AGAIN
        clean, _ = bench.run(case, output, (kind, count, moment) if again else None)
        if clean:
            break
        told.append([kind, count, round(moment, 2)])
    return told


def torture(
    kills: int, seed: int, folder: Path, only: list[str] | None = None, output: Path | None = None
) -> dict[str, Any]:
    """Run cases until `kills` have happened; the JSON-ready report.

    It is written to `output` after every case. One found there is gone on with if it is of the same
    seed, features and code: each case depends on the seed and its number only.
    """
    bench = Bench(folder, folder / "data", folder / "broken")
    os.waitpid(_child(lambda: write_fairface(bench.data) and None), 0)
    os.waitpid(_child(lambda: damage(bench.data, bench.broken) and None), 0)
    cases = {k: v for k, v in features().items() if only is None or k in only}
    report = {
        "command": "python -m scripts.resume_torture",
        "seed": seed,
        "kills": 0,
        "runs": 0,
        "equal": 0,
        "differing": [],
        "by_kind": dict.fromkeys(KINDS, 0),
        "by_features": dict.fromkeys(cases, 0),
        "torch": str(torch.__version__),
        "code": code_digest(),
    }
    if output is not None and output.exists():
        found = read_json(output)
        same = [found.get(key) == report[key] for key in ("seed", "torch", "code")]
        if all(same) and set(found["by_features"]) == set(cases):
            report = found
    bench.run(Features(smoke(), {}), folder / "teacher")
    whole: dict[str, tuple[str, float]] = {}
    while report["kills"] < kills:
        name = list(cases)[report["runs"] % len(cases)]
        if name not in whole:
            finished, seconds = bench.run(cases[name], folder / f"whole-{name}")
            if not finished:
                raise RuntimeError(f"the uninterrupted run of {name!r} failed")
            whole[name] = bench.digest(folder / f"whole-{name}"), seconds
        digest, seconds = whole[name]
        case = folder / f"case-{report['runs']}"
        told = killed(bench, cases[name], case, seconds, (seed, report["runs"]))
        if bench.digest(case) == digest:
            report["equal"] += 1
        else:
            report["differing"].append({"features": name, "kills": told})
        report["runs"] += 1
        report["kills"] += len(told)
        report["by_features"][name] += len(told)
        for kind, _, _ in told:
            report["by_kind"][kind] += 1
        if output is not None:
            write_json(output, report)
        shutil.rmtree(case)
        sys.stderr.write(f"{report['kills']} kills, {report['runs']} runs, ")
        sys.stderr.write(f"{len(report['differing'])} differ\n")
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns 0 when every run was equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="at least (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and places (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=sorted(features()), help="sets of features")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file, gone on with if it has begun; by default the report is printed",
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = torture(args.kills, args.seed, Path(folder), args.only, args.output)
    if args.output is None:
        print(json.dumps(report, indent=1))
    return 0 if report["equal"] == report["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
