"""The training loop: from a recipe to a weights folder."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from faceattr import __version__
from train.answers import Answers
from train.config import TASKS, Recipe
from train.data.batches import Batch, Order, Views, Wanted, load
from train.data.drawn import Replay, drawn
from train.data.source import HOLDOUT_EVERY, Rows
from train.device import hardware, keep_freed_memory
from train.fit.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_atomically
from train.fit.select import Measured, adjusted, best_size, keep, measure
from train.fit.settings import Settings, TrainingError
from train.fit.signals import Stopped, collected_signals
from train.fit.steps import Stepper
from train.provenance import git_commit
from train.start import started

log = logging.getLogger("train")
HISTORY_NAME = "history.jsonl"
_LOG_SECONDS = 60.0


@dataclass
class Progress:
    """Where a run stands: `epoch` whole epochs and `batch` batches are done.

    `loss_sums` are over the batches of this epoch by task, `best` is the `Measured.score` of the
    weights kept, `hardware` all that trained so far.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, float] | None = None
    best: float = math.inf
    hardware: str = ""
    finished: bool = False


class Trainer:
    """One run; `run()` trains to the end or until it is told to stop."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        settings.check(recipe)
        keep_freed_memory()
        torch.manual_seed(settings.seed)
        self.recipe, self.settings, self.device = recipe, settings, settings.device
        self.rows = Rows(settings.source, "train", settings.limit)
        self.holdout = Rows(settings.source, "holdout", settings.limit)
        self._check_counts()
        self._open_views()
        model, start, runs = started(recipe)
        answers = self.answers
        self.runs = {**runs, **(answers.runs if answers else {})}
        self.origins = {
            "start": start,
            "teachers": answers.facts["teachers"] if answers else [],
            "answers": answers and {key: answers.facts[key] for key in ("views", "seed")},
        }
        self.stepper = Stepper(model, recipe, settings, self.rows)
        self.progress = Progress()
        self.git_commit = git_commit()
        self.history: list[dict[str, Any]] = []

    def _check_counts(self) -> None:
        if len(self.rows) < (size := self.recipe.batch_size):
            raise TrainingError(f"{len(self.rows)} training rows do not fill one batch of {size}")
        if not self.holdout:
            raise TrainingError(f"no row is held out: fewer than {HOLDOUT_EVERY} training rows")

    def _open_views(self) -> None:
        """The rows' views, their order, and stored answers where the recipe learns from them."""
        recipe, settings = self.recipe, self.settings
        self.answers = Answers(settings.answers) if settings.answers else None
        self.view_count, seed = recipe.views, settings.seed
        if self.answers:
            self.answers.check(self.rows, recipe.augmentation)
            self.view_count, seed = self.answers.views, self.answers.seed
        self.views = Views(self.rows, recipe.augmentation, seed)
        self.replay = Replay(self.rows, self.device)
        place = {"rank": settings.rank, "world": settings.world}
        self.order = Order(self.rows, settings.seed, recipe.batch_size, **place)

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption."""
        facts = {
            "recipe": self.recipe.to_dict(),
            "seed": self.settings.seed,
            "data": [self.rows.sha256, len(self.rows), len(self.holdout)],
            "precision": self.stepper.precision,
            "processes": self.settings.world,
            **self.origins,
        }
        return dict(json.loads(json.dumps(facts)))

    def save(self) -> None:
        """Write a checkpoint; of several processes the first does."""
        state: dict[str, Any] = {
            "identity": self._identity(),
            "progress": dict(vars(self.progress)),
            "history": self.history,
            "git_commit": self.git_commit,
        }
        # Nothing goes on from a finished run.
        if not self.progress.finished:
            state |= {"torch_rng": torch.get_rng_state(), **self.stepper.state_dict()}
        if self.settings.is_first:
            save_checkpoint(self.settings.output, state)

    def resume(self) -> None:
        """Go back to the state of the newest checkpoint.

        Raises:
            CheckpointError: when it belongs to another recipe, seed, data set or teacher.
        """
        state = load_checkpoint(self.settings.output)
        mine, saved = self._identity(), state["identity"]
        if changed := [key for key in mine if mine[key] != saved.get(key)]:
            raise CheckpointError(
                f"the checkpoint in {self.settings.output} was written with another "
                f"{' and '.join(changed)}; resume with the same, or use another folder"
            )
        self.progress = Progress(**state["progress"])
        if not self.progress.finished:
            self.stepper.load_state_dict(state)
            torch.set_rng_state(state["torch_rng"])
        self.history, self.git_commit = state["history"], state["git_commit"]
        log.info("resumed at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def _batches(self) -> list[list[Wanted]]:
        """The rest of the epoch: which views make up which batch."""
        epoch, side = self.progress.epoch, self.recipe.size_at(self.progress.epoch)
        view = epoch % (self.view_count or epoch + 1)
        drawn = np.random.default_rng((self.settings.seed, epoch)).random(len(self.rows))
        # A stored answer is the mean of the view's and its mirror image's.
        mirrored = (drawn < 0.5) & (self.answers is not None)
        return [
            [Wanted(row, view, side, bool(mirrored[row])) for row in rows]
            for rows in self.order.epoch(epoch, self.progress.batch)
        ]

    def _loaded(self) -> Iterator[Batch]:
        """The rest of the epoch, from views that are kept where runs come back to them."""
        wanted = self._batches()
        if self.view_count and wanted:
            kept = drawn(self.views, wanted[0][0].view, wanted[0][0].side)
            if kept is not None:
                return self.replay.batches(kept, wanted)
        return load(self.views, wanted, self.device)

    def _step(self, batch: Batch) -> None:
        progress = self.progress
        place = (self.settings.seed, progress.epoch, progress.batch, self.settings.rank)
        answers = self.answers.of(batch.rows, batch.views) if self.answers else None
        done = progress.epoch + progress.batch / self.order.batches
        values = self.stepper.step(batch, answers, done, np.random.default_rng(place))
        sums = progress.loss_sums or dict.fromkeys(TASKS, 0.0)
        progress.loss_sums = {name: sums[name] + values[name] for name in TASKS}
        progress.batch += 1

    def _train_epoch(self, stop: Callable[[], bool]) -> None:
        """Train the rest of the current epoch, from `progress.batch` on."""
        progress, batches = self.progress, self.order.batches
        self.stepper.model.train()
        title = f"epoch {progress.epoch + 1}/{self.recipe.epochs}"
        quiet = not (self.settings.is_first and sys.stderr.isatty())
        before = progress.seconds
        said = started = time.monotonic()
        with tqdm(total=batches, initial=progress.batch, desc=title, disable=quiet) as bar:
            for batch in self._loaded():
                self._step(batch)
                bar.update()
                now = time.monotonic()
                progress.seconds = before + now - started
                if quiet and self.settings.is_first and now - said > _LOG_SECONDS:
                    log.info("%s: batch %d/%d %s", title, progress.batch, batches, self._means())
                    said = now
                if stop():
                    self.save()
                    raise Stopped
                if progress.batch % self.settings.checkpoint_every == 0:
                    self.save()

    def _means(self) -> dict[str, float]:
        sums = self.progress.loss_sums or {}
        return {name: round(value / self.progress.batch, 6) for name, value in sums.items()}

    def _shared(self, values: Iterable[float]) -> list[float]:
        """Means over all processes, with which they decide alike."""
        told = torch.tensor([*values], dtype=torch.float64, device=self.device)
        if self.settings.world > 1:
            torch.distributed.all_reduce(told)
        return list((told / self.settings.world).tolist())

    def _finish_epoch(self) -> None:
        """Measure on the holdout, keep the best weights, write history and checkpoint."""
        progress, recipe, settings = self.progress, self.recipe, self.settings
        started = time.monotonic()
        if sums := progress.loss_sums:
            progress.loss_sums = dict(zip(sums, self._shared(sums.values()), strict=True))
        side = recipe.size_at(progress.epoch)
        measured = measure(self.stepper.evaluated, self.holdout, side, self.device)
        entry = {"epoch": progress.epoch + 1, "image_size": side, "train_loss": self._means()}
        entry |= {"holdout_loss": measured.loss, "holdout_accuracy": measured.accuracy}
        entry["score"] = measured.score()
        self.history.append(entry)
        if side == recipe.image_size:
            evaluated = self.stepper.evaluated
            best = best_size(evaluated, measured, self.holdout, recipe.sides, self.device)
            if best.score() < progress.best:
                progress.best = best.score()
                if settings.is_first:
                    best, added, taus = adjusted(best, self.rows.targets, recipe.most_lost)
                    facts = self._facts(best) | ({"logit_adjustment": taus} if taus else {})
                    keep(evaluated, best, facts, settings.output / "model", added)
        progress.seconds += time.monotonic() - started
        progress.epoch, progress.batch, progress.loss_sums = progress.epoch + 1, 0, None
        progress.finished = self._gained_too_little() or progress.epoch == recipe.epochs
        if settings.is_first:
            lines = "".join(json.dumps(item, allow_nan=False) + "\n" for item in self.history)
            write_atomically(settings.output / HISTORY_NAME, lines.encode())
            log.info("%s", json.dumps({**entry, "minutes": round(progress.seconds / 60, 1)}))
        self.save()

    def _gained_too_little(self) -> bool:
        sums = [sum(entry["train_loss"].values()) for entry in self.history[-2:]]
        least = self.recipe.min_gain
        return least is not None and len(sums) == 2 and bool(sums[0] - sums[1] < least)

    def _facts(self, best: Measured) -> dict[str, Any]:
        """What `config.json` says of the run whose weights are kept now."""
        described = self.settings.source.describe("train", len(self.rows))
        return {
            "recipe": self.recipe.name,
            "seed": self.settings.seed,
            "epoch": self.progress.epoch + 1,
            "epochs": self.recipe.epochs,
            "image_size": best.image_size,
            "settings": json.loads(json.dumps(self.recipe.to_dict())),
            "dataset": {**described, "holdout_rows": len(self.holdout)},
            "holdout_accuracy": best.accuracy,
            **self.origins,
            "precision": self.stepper.precision,
            "hardware": self.progress.hardware,
            "processes": self.settings.world,
            "skipped_rows": len(self.rows.skipped),
            "wall_seconds": round(self.progress.seconds),
            "git_commit": self.git_commit,
            "versions": {"faceattr": __version__, "torch": str(torch.__version__)},
            "runs": self.runs,
        }

    def run(self, after_epoch: Callable[[dict[str, Any]], None] | None = None) -> Path:
        """Train until done; returns the folder with the best weights.

        Args:
            after_epoch: called with each epoch's line of the history; may end the run by raising.

        Raises:
            Stopped: on SIGTERM or SIGINT, with the checkpoint written.
        """
        before, here = self.progress.hardware, hardware(self.device, self.settings.world)
        if not before.endswith(here):
            self.progress.hardware = f"{before}, then {here}" if before else here
        with collected_signals() as signals:

            def stop() -> bool:
                told = [float(bool(signals))]
                return any(self._shared(told) if self.settings.world > 1 else told)

            while not self.progress.finished:
                self._train_epoch(stop)
                self._finish_epoch()
                if after_epoch is not None:
                    after_epoch(self.history[-1])
                if stop() and not self.progress.finished:
                    raise Stopped
        return self.settings.output / "model"
