"""Every run behind the published weights, from nothing to their folders, in one resumable go.

    python -m train published DATA RUNS

DATA is a Hub id or a folder in FairFace's layout. What is finished is left as it is and what was
interrupted goes on, so the same command serves after a break. Several at once share the steps that
do not wait for one another, as suits a fast GPU. In the end RUNS/weights holds a folder for each
published network: weights, config, ONNX file, report, audit table, card, figures. --dry-run prints
what is done and what is left.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from faceattr.audit.calibration import AUDIT_NAME, write_table
from faceattr.backends.export import export
from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME
from faceattr.saving import CARD_NAME, REPORT_NAME
from train.answers import Answers, AnswersError, store
from train.config import Recipe
from train.data.source import Rows, Source, add_data_arguments, sha256, source_of
from train.device import choose_device, keep_freed_memory
from train.evaluate.audit_table import audit_table
from train.evaluate.predict import predict
from train.evaluate.predictions import read_predictions
from train.evaluate.report import evaluate, read_history
from train.fit.checkpoint import BusyError, checkpoints, load_checkpoint, only_run
from train.fit.command import fit
from train.fit.settings import Settings
from train.fit.trainer import HISTORY_NAME
from train.provenance import git_commit
from train.recipes import faceattrnet, large, lightweight, teacher, teacher_small
from train.report.card import FIGURES, make_card
from train.report.plots import write_figures
from train.report.plots_results import card_figures
from train.tables import read_json, write_json, write_report

log = logging.getLogger("train")
CHAIN_NAME = "chain.json"


@dataclass(frozen=True)
class Run:
    """One training run, in the folder `name`.

    Attributes:
        hours: about what it takes on two CPU cores with AVX2; an estimate.
        answers: name of the stored answers that it learns from.
    """

    name: str
    recipe: Callable[[], Recipe]
    seed: int
    hours: float
    answers: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps that come before."""
        return (self.answers,) if self.answers else ()


@dataclass(frozen=True)
class Teach:
    """Answers of finished runs to be stored in the folder `name`.

    Attributes:
        teachers: names of runs.
        recipe: whose views are answered.
        views: of each row.
        hours: about what it takes on two CPU cores with AVX2; an estimate.
    """

    name: str
    teachers: tuple[str, ...]
    recipe: Callable[[], Recipe]
    seed: int
    views: int
    hours: float

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps that come before."""
        return self.teachers


@dataclass(frozen=True)
class Publish:
    """A run's weights, measured on the validation rows, to the folder `weights/NAME`."""

    name: str
    run: str
    hours: float = 0.1

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps that come before."""
        return (self.run,)


Step = Run | Teach | Publish
Table = Sequence[Step]

TABLE: Table = (
    Run("teacher", teacher, 0, hours=7.0),
    Run("teacher-small", teacher_small, 0, hours=3.0),
    Teach("answers", ("teacher", "teacher-small"), faceattrnet, seed=0, views=8, hours=6.0),
    Run("faceattrnet", faceattrnet, 0, hours=10.0, answers="answers"),
    Run("lightweight", lightweight, 0, hours=21.0, answers="answers"),
    Run("large", large, 0, hours=10.0, answers="answers"),
    Publish("FaceAttrNetLarge", "large"),
    Publish("FaceAttrNet", "faceattrnet"),
    Publish("LightweightMTLNet224", "lightweight"),
)
_WAIT_S = 2.0


class ChainError(RuntimeError):
    """The runs of a folder were begun otherwise; the message says what to do."""


@dataclass(frozen=True)
class Chain:
    """A table of runs, the data and the folder that they are made in."""

    table: Table
    source: Source
    folder: Path
    device: torch.device = torch.device("cpu")

    def model(self, name: str) -> Path:
        """The weights of a run."""
        return self.folder / name / "model"

    def is_done(self, step: Step) -> bool:
        """Whether there is nothing left to do for a step."""
        folder = self.folder / step.name
        if isinstance(step, Publish):
            return self._is_published(step)
        if isinstance(step, Run):
            return bool(checkpoints(folder) and load_checkpoint(folder)["progress"]["finished"])
        try:
            return bool(Answers(folder))
        except AnswersError:
            return False

    def _is_published(self, step: Publish) -> bool:
        target = self.folder / "weights" / step.name
        try:
            report = read_json(target / REPORT_NAME)
            made = sha256(self.model(step.run) / WEIGHTS_NAME)
        except FileNotFoundError:
            return False
        return bool(report["weights_sha256"] == made)

    def ready(self) -> list[Step]:
        """Steps that are not done and wait for none, in order."""
        left = [step for step in self.table if not self.is_done(step)]
        names = {step.name for step in left}
        return [step for step in left if not names & set(step.needs)]

    def carry_out(self, step: Step) -> None:
        """Do a step, or go on with it.

        Raises:
            BusyError: when another process is at it.
        """
        if isinstance(step, Publish):
            with only_run(self.folder / step.run):
                self._publish(step)
        elif isinstance(step, Teach):
            self._answer(step)
        else:
            self._train(step)

    def _answer(self, step: Teach) -> None:
        teachers = [self.model(name) for name in step.teachers]
        rows, changes = Rows(self.source, "train"), step.recipe().augmentation
        views = {"seed": step.seed, "views": step.views}
        output = self.folder / step.name
        with only_run(output):
            store(teachers, rows, changes, output, device=self.device, **views)

    def _train(self, step: Run) -> None:
        output = self.folder / step.name
        more: dict[str, Any] = {
            "answers": None if step.answers is None else self.folder / step.answers,
            "resume": bool(checkpoints(output)),
        }
        fit(step.recipe(), Settings(output, self.source, step.seed, self.device, **more))

    def _publish(self, step: Publish) -> None:
        target = self.folder / "weights" / step.name
        new = self.folder / "new" / step.name
        run = self.folder / step.run
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            shutil.copyfile(run / "model" / name, new / name)
        shutil.copyfile(run / HISTORY_NAME, new / HISTORY_NAME)
        export(new)
        tables = {}
        for part in ("holdout", "validation"):
            path = run / f"{part}.parquet"
            predict(str(new), self.source, part, path, self.device)
            tables[part] = read_predictions(path)
        write_table(audit_table(tables["holdout"]), new / AUDIT_NAME)
        history = read_history(new / HISTORY_NAME)
        write_report(new / REPORT_NAME, evaluate(tables["validation"], history=history))
        report = read_json(new / REPORT_NAME)
        make_card(report, read_json(new / CONFIG_NAME)).save(new / CARD_NAME)
        write_figures(card_figures(report), new / FIGURES)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            old = new.with_name(new.name + ".old")
            target.replace(old)
            shutil.rmtree(old)
        new.replace(target)
        log.info("%s: %s, %s -> %s", step.run, WEIGHTS_NAME, ONNX_NAME, target)


def check_commit(folder: Path, commit: str | None) -> None:
    """All runs of a folder are made by one commit, which the first call notes.

    Raises:
        ChainError: when they were begun by another.
    """
    path = folder / CHAIN_NAME
    if not path.is_file():
        write_json(path, {"git_commit": commit})
    elif (begun := read_json(path)["git_commit"]) != commit:
        raise ChainError(
            f"the runs in {folder} were begun at commit {begun}, this is {commit}; check that "
            "commit out, or choose another folder"
        )


def plan(chain: Chain) -> str:
    """What is done and what is left, with the hours it takes on two CPU cores, a line a step."""
    lines, left = [], 0.0
    for step in chain.table:
        done = chain.is_done(step)
        left += 0 if done else step.hours
        words = "measured, to weights/"
        if not isinstance(step, Publish):
            words = (
                f"{step.recipe().epochs} epochs" if isinstance(step, Run) else f"{step.views} views"
            )
        state = "done" if done else f"about {step.hours:g} h"
        lines.append(f"{step.name:<20} {words:<21} {state}")
    return "\n".join([*lines, f"left: about {left:g} h on two CPU cores with AVX2"])


def make(chain: Chain) -> bool:
    """Carry out what is not done yet; returns whether there was anything to do.

    Raises:
        ChainError: when the folder's runs were begun by another commit.
        Stopped: on SIGTERM or SIGINT; the same call goes on.
    """
    keep_freed_memory()
    chain.folder.mkdir(parents=True, exist_ok=True)
    found = False
    while ready := chain.ready():
        if not found:
            check_commit(chain.folder, git_commit())
            found = True
        if not any(_tried(chain, step) for step in ready):
            # Others are at all of them.
            time.sleep(_WAIT_S)
    return found


def _tried(chain: Chain, step: Step) -> bool:
    """Whether a step was carried out; not where another process is at it."""
    if chain.is_done(step):
        return True  # By another process, meanwhile.
    try:
        chain.carry_out(step)
    except BusyError:
        return False
    log.info("== %s is done", step.name)
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train published`."""
    add_data_arguments(parser, positional=True)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder for the runs")
    parser.add_argument("--dry-run", action="store_true", help="only print the plan")


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train published`."""
    chain = Chain(TABLE, source_of(args), args.runs, choose_device(args.device))
    if args.dry_run:
        sys.stdout.write(plan(chain) + "\n")
    elif make(chain):
        log.info("weights -> %s", args.runs / "weights")
    else:
        log.info("nothing to do: all %d steps in %s are finished", len(TABLE), args.runs)
