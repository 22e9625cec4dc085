"""`fit`: the training loop, from a recipe to a weights folder."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from faceattr import __version__, labels
from faceattr.backends.torch import fold_batch_norms
from faceattr.hub import find_weights
from faceattr.model import WEIGHTS_NAME, FaceAttributeModel, ModelConfig, build_model, load_files
from faceattr.preprocessing import Preprocessing
from train.data.batches import memory_rows, training_batch
from train.data.order import Chunk, epoch_chunks
from train.data.source import HOLDOUT_EVERY, DataError, Rows, Source, class_counts, count_rows
from train.evaluate.calibration import fit as fit_calibration
from train.evaluate.calibration import fit_temperature, negative_log_likelihood
from train.evaluate.predict import logits_of, sha256
from train.fit.checkpoint import (
    KEEP,
    CheckpointError,
    checkpoints,
    forget_after,
    load_checkpoint,
    only_run,
    save_checkpoint,
    write_atomically,
)
from train.fit.device import (
    Precision,
    autocast,
    choose_precision,
    hardware,
    keep_freed_memory,
)
from train.fit.mitigation import GroupLosses, row_losses
from train.fit.networks import NETWORKS, slice_strided
from train.fit.parallel import Group, join_batch_norms, sum_gradients
from train.fit.signals import Stopped, collected_signals
from train.fit.steps import (
    class_weights,
    distilled,
    learning_rate,
    make_average,
    make_equal_average,
    make_optimizer,
    mix,
    resized,
    soft_losses,
    target_tables,
    task_losses,
    teacher_targets,
    twice,
)
from train.recipe import Recipe, with_defaults

log = logging.getLogger("train")
HISTORY_NAME = "history.jsonl"
_LOG_SECONDS = 30.0


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a run is given besides its recipe.

    Attributes:
        output: folder of the run: checkpoint, history, and finally `model/`.
        source: the data.
        seed: of initial weights, order and augmentation.
        device: where to train.
        cache_memory: keep decoded chips in memory after the first epoch.
        checkpoint_every: steps between checkpoints within an epoch; each epoch ends with one.
        resume: go on from the checkpoint in `output`.
        teachers: weights folders to learn from, for recipes with `distillation`.
        start: weights folder to start from, for recipes that continue.
        precision: of the forward pass; None for the device's best.
        compile: let torch.compile fuse the network's steps; needs a C++ compiler on a CPU.
        from_previous: go on from the checkpoint before the newest, for when that is damaged.
        keep: how many checkpoints to keep.
        max_skipped: most rows whose picture does not decode that a run goes on without.
        group: the processes that train together.
    """

    output: Path
    source: Source
    seed: int = 0
    device: torch.device = torch.device("cpu")
    cache_memory: bool = False
    checkpoint_every: int = 200
    resume: bool = False
    teachers: tuple[Path, ...] = ()
    start: Path | None = None
    precision: Precision | None = None
    compile: bool = False
    from_previous: bool = False
    keep: int = KEEP
    max_skipped: int = 10
    group: Group = Group()


@dataclass
class Progress:
    """Where a run stands: everything but tensors.

    Attributes:
        epoch: whole epochs done.
        batch: batches done after them.
        seconds: of training and measuring so far.
        loss_sums: over the batches of this epoch, by task.
        best: score on the holdout of the weights kept, see `Measured.score`.
        finished: whether there is nothing left to do.
        skipped: names of training rows that did not decode.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    loss_sums: dict[str, float] | None = None
    best: float = math.inf
    finished: bool = False
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Measured:
    """Weights on the holdout: accuracy and loss (nats) by task, logits and targets of its rows."""

    image_size: int
    accuracy: dict[str, float]
    loss: dict[str, float]
    logits: dict[str, torch.Tensor]
    targets: torch.Tensor

    def calibrated_losses(self) -> dict[str, float]:
        """Losses in nats by task after each head's own temperature.

        Without it, weights that give softer answers (smoothing, mixing, teachers) would be judged
        by a confidence that calibration mends anyway.
        """
        losses = {}
        for column, task in enumerate(labels.TASKS):
            logits = self.logits[task.name].numpy()
            targets = self.targets[:, column].numpy()
            temperature = fit_temperature(logits, targets)
            loss = negative_log_likelihood(logits, targets, temperature)
            losses[task.name] = round(loss, 6)
        return losses

    def score(self) -> float:
        """What weights are selected by: the sum of the calibrated losses, lower is better.

        On 2,000 rows accuracy is too coarse for that: epochs a point apart are equal by chance.
        """
        return sum(self.calibrated_losses().values())


def _git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files differ from it; None without git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changes.stdout else "")


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"faceattr": __version__, "torch": str(torch.__version__)}


def origin_facts(config: ModelConfig) -> dict[str, Any]:
    """What a card says about weights that a run learned from or started with."""
    kept = (
        "recipe",
        "seed",
        "epochs",
        "image_size",
        "holdout_accuracy",
        "hardware",
        "wall_seconds",
    )
    facts = {name: config.training.get(name) for name in kept}
    origins = {name: config.training.get(name) for name in ("teachers", "start")}
    return {"architecture": config.architecture, **facts, **origins}


def calibrated(
    config: ModelConfig, logits: Mapping[str, torch.Tensor], targets: torch.Tensor
) -> ModelConfig:
    """The config with temperatures and thresholds fitted on holdout logits, all tasks."""
    fitted = {
        task.name: fit_calibration(task.name, logits[task.name].numpy(), targets[:, column].numpy())
        for column, task in enumerate(labels.TASKS)
    }
    return config.replace(
        temperatures={name: temperature for name, (temperature, _) in fitted.items()},
        thresholds={name: threshold for name, (_, threshold) in fitted.items()},
    )


def check_rows(origin: ModelConfig, name: str, rows: Mapping[str, Any]) -> None:
    """Refuse weights that learned from other training rows than these.

    Args:
        origin: config of the weights.
        name: of the weights, for the message.
        rows: `Source.describe` of the training split.

    Raises:
        TrainingError: naming what differs.
    """
    dataset = origin.training.get("dataset", {})
    if changed := [key for key in rows if dataset.get(key) != rows[key]]:
        raise TrainingError(
            f"{name} learned from other rows: {' and '.join(changed)} of its data set "
            "differ; train it on the same"
        )


class Trainer:
    """One run; `run()` trains to the end or until it is told to stop."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self.recipe, self.settings, self.group = recipe, settings, settings.group
        settings.output.mkdir(parents=True, exist_ok=True)
        keep_freed_memory()
        torch.manual_seed(settings.seed)
        config = ModelConfig(
            recipe.architecture,
            recipe.sizes,
            preprocessing=Preprocessing(image_size=recipe.image_size),
        )
        self.precision = settings.precision or choose_precision(settings.device)
        model = build_model(config, NETWORKS)
        if self.precision == "bfloat16" and settings.device.type == "cpu":
            slice_strided(model)
        self.model = self._placed(model)
        self.row_count = count_rows(settings.source, "train")
        self.start = self._load_start()
        if self.group.size > 1:
            self._check_group()
            join_batch_norms(self.model)
        self.network = torch.compile(self.model, dynamic=False) if settings.compile else self.model
        self.optimizer = make_optimizer(self.model, recipe)
        decay = recipe.ema_decay
        self.average = None if decay is None else make_average(self.model, decay)
        self.tail = make_equal_average(self.model) if recipe.average_epochs else None
        self.teachers = self._load_teachers()
        self.teacher_digests = [sha256(path / WEIGHTS_NAME) for path in settings.teachers]
        self.stored = self._view(max(recipe.sides))
        self.rows = self._open_rows()
        holdout = Rows(settings.source, "holdout")
        self.holdout = list(holdout.share(self.group))
        self.holdout_count = sum(holdout.counts)
        self.batches = self.row_count // recipe.batch_size
        if self.batches == 0:
            raise TrainingError(
                f"{self.row_count} training rows do not fill one batch of {recipe.batch_size}"
            )
        if self.holdout_count == 0:
            raise TrainingError(
                f"no row is left for the holdout; expected at least {HOLDOUT_EVERY} training rows"
            )
        self.targets = {
            name: table.to(settings.device) for name, table in target_tables(recipe).items()
        }
        self.class_weights = self._class_weights()
        self.group_losses = (
            None
            if recipe.mitigation is None
            else GroupLosses(recipe.mitigation, recipe.loss_weights)
        )
        self.progress = Progress()
        self.git_commit = _git_commit()
        self.history: list[dict[str, Any]] = []

    def _check_group(self) -> None:
        """Refuse what several processes cannot do."""
        if self.settings.compile:
            raise TrainingError("--compile works with one process only; leave it out")
        if self.recipe.mitigation is not None:
            raise TrainingError(
                f"recipe {self.recipe.name!r} weighs groups by what one process sees; "
                "run it with one"
            )
        if self.recipe.batch_size < self.group.size:
            raise TrainingError(
                f"{self.group.size} processes cannot share batches of {self.recipe.batch_size} rows"
            )

    def _open_rows(self) -> Rows:
        if self.settings.cache_memory:
            return memory_rows(self.settings.source, "train", self.stored)
        return Rows(self.settings.source, "train")

    def _placed(self, model: FaceAttributeModel) -> FaceAttributeModel:
        return model.to(self.settings.device).to(memory_format=torch.channels_last)

    def _load_teachers(self) -> list[FaceAttributeModel]:
        """The teachers, ready to answer, with batch norms folded.

        Raises:
            TrainingError: when the recipe wants teachers and none are given, or the reverse.
        """
        folders = self.settings.teachers
        if (self.recipe.distillation is not None) != bool(folders):
            wants = "learns from teachers" if not folders else "has no distillation"
            raise TrainingError(
                f"recipe {self.recipe.name!r} {wants}, but {len(folders)} --teacher folders were "
                "given; a teacher is the model/ folder of a finished run"
            )
        teachers = [self._load_finished(path, "teacher") for path in folders]
        return [self._placed(fold_batch_norms(teacher)) for teacher in teachers]

    def _load_start(self) -> dict[str, Any] | None:
        """Give the network the weights that the recipe continues; facts about them.

        Raises:
            TrainingError: when the recipe continues and none are given, or the reverse, or they
                are another network's.
        """
        path = self.settings.start
        if self.recipe.continues != (path is not None):
            wants = "starts from given weights" if path is None else "starts at random"
            raise TrainingError(
                f"recipe {self.recipe.name!r} {wants}, but --start was "
                f"{'not given' if path is None else 'given'}; it names the model/ folder of a "
                "finished run"
            )
        if path is None:
            return None
        loaded = self._load_finished(path, "start")
        if type(loaded) is not type(self.model) or loaded.sizes != self.model.sizes:
            raise TrainingError(
                f"recipe {self.recipe.name!r} trains {self.recipe.architecture} of its own sizes, "
                f"but the start {path.name!r} is another network: {loaded.config.architecture}"
            )
        self.model.load_state_dict(loaded.state_dict())
        return {"sha256": sha256(path / WEIGHTS_NAME), **origin_facts(loaded.config)}

    def _load_finished(self, path: Path, role: str) -> FaceAttributeModel:
        """The weights of a finished run, if they fit this one."""
        if not path.is_dir():
            raise TrainingError(f"no folder {str(path)!r}; a {role} is a model/ folder here")
        model = load_files(find_weights(path), NETWORKS)
        self._check_origin(model.config, f"the {role} {path.name!r}")
        return model

    def _check_origin(self, origin: ModelConfig, name: str) -> None:
        """Refuse weights whose answers do not fit, or that learned from other rows."""
        own = self.model.config
        same = (origin.preprocessing.mean, origin.preprocessing.std, dict(origin.classes))
        if same != (own.preprocessing.mean, own.preprocessing.std, dict(own.classes)):
            raise TrainingError(f"{name} has other classes or another normalisation")
        check_rows(origin, name, self.settings.source.describe("train", self.row_count))

    def _view(self, side: int) -> int:
        """Side of the augmented view that student and teachers share."""
        return max([side, *(t.config.preprocessing.image_size for t in self.teachers)])

    def _class_weights(self) -> dict[str, torch.Tensor]:
        power = self.recipe.class_balance
        counts = {task.name: [1] * len(task.classes) for task in labels.TASKS}
        if power > 0:
            own = class_counts(Rows(self.settings.source, "train").share(self.group))
            everywhere = self.group.gather(own)
            counts = {
                name: [sum(parts) for parts in zip(*(c[name] for c in everywhere), strict=True)]
                for name in own
            }
        weights = class_weights(counts, power)
        return {name: values.to(self.settings.device) for name, values in weights.items()}

    @property
    def evaluated(self) -> FaceAttributeModel:
        """The weights that are evaluated and kept: the average where there is one."""
        if self.tail is not None and self.tail.n_averaged > 0:
            return cast(FaceAttributeModel, self.tail.module)
        if self.average is None:
            return self.model
        return cast(FaceAttributeModel, self.average.module)

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption."""
        facts = {
            "recipe": self.recipe.to_dict(),
            "seed": self.settings.seed,
            "data": self.settings.source.describe("train", self.row_count),
            "precision": self.precision,
            "compile": self.settings.compile,
            "teachers": [
                [digest, teacher.config.preprocessing.to_dict()]
                for digest, teacher in zip(self.teacher_digests, self.teachers, strict=True)
            ],
            "start": self.start and self.start["sha256"],
            "processes": self.group.size,
        }
        return dict(json.loads(json.dumps(facts)))

    def save(self) -> None:
        """Write a checkpoint; of several processes the first does."""
        if not self.group.is_first:
            return
        average = None if self.average is None else self.average.state_dict()
        save_checkpoint(
            self.settings.output,
            {
                "identity": self._identity(),
                "progress": vars(self.progress),
                "history": self.history,
                "git_commit": self.git_commit,
                "model": self.model.state_dict(),
                "average": average,
                "tail": None if self.tail is None else self.tail.state_dict(),
                "group_losses": self.group_losses and self.group_losses.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "versions": versions(),
            },
            epoch=self.progress.epoch,
            batch=self.progress.batch,
            keep=self.settings.keep,
        )

    def resume(self) -> None:
        """Go back to the state of the newest checkpoint, or of the one before it.

        Raises:
            CheckpointError: when it belongs to another recipe, seed or data set.
        """
        previous, output = self.settings.from_previous, self.settings.output
        first = self.group.is_first
        state = self.group.from_first(load_checkpoint(output, previous=previous) if first else {})
        mine, saved = self._identity(), dict(state["identity"])
        saved["recipe"] = with_defaults(saved["recipe"])
        if changed := [key for key in mine if mine[key] != saved.get(key)]:
            raise CheckpointError(
                f"the checkpoint in {self.settings.output} was written with another "
                f"{' and '.join(changed)}; resume with the same, or use another folder"
            )
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.tail is not None:
            self.tail.load_state_dict(state["tail"])
        if self.group_losses is not None:
            self.group_losses.load_state_dict(state["group_losses"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.progress = Progress(**state["progress"])
        self.history = state["history"]
        self.git_commit = state["git_commit"]
        if previous and first:
            forget_after(output, epoch=self.progress.epoch, batch=self.progress.batch)
        log.info("resumed at epoch %d, batch %d", self.progress.epoch + 1, self.progress.batch)

    def _own_batch(
        self, chunk: Chunk, side: int
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """This process's part of a batch.

        Gives the network's pictures, the teachers', target distributions by task, and labels.
        All draws are a function of seed, epoch and batch, so a resumed run makes them again.
        """
        recipe, progress = self.recipe, self.progress
        entropy = np.random.SeedSequence((self.settings.seed, progress.epoch, progress.batch))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))
        own = chunk.part
        images, plain, targets, places, skipped = training_batch(
            chunk.rows,
            Preprocessing(image_size=self._view(side)),
            recipe.augmentation,
            self.stored,
            generator,
            self.settings.device,
            None if recipe.mixup > 0 else own,
        )
        self._note_skipped(skipped)
        soft = {
            task.name: self.targets[task.name][targets[:, column]]
            for column, task in enumerate(labels.TASKS)
        }
        if recipe.mixup > 0:
            apart = plain is not images
            if apart:
                plain, _ = mix(plain, soft, recipe.mixup, np.random.default_rng(entropy))
            images, soft = mix(images, soft, recipe.mixup, np.random.default_rng(entropy))
            plain = plain if apart else images
            if self.group.size > 1:
                mine = ((places >= own.start) & (places < own.stop)).to(images.device)
                images, plain, targets = images[mine], plain[mine], targets[mine]
                soft = {name: part[mine] for name, part in soft.items()}
        return images, plain, soft, targets

    def _step(self, chunk: Chunk, side: int) -> dict[str, float]:
        """One optimiser step; losses by task."""
        recipe, progress = self.recipe, self.progress
        images, plain, soft, targets = self._own_batch(chunk, side)
        rate = learning_rate(recipe, progress.epoch + progress.batch / self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(images, plain, soft, targets, side)
        weighted = [recipe.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()]
        values = self._backward(losses, weighted, len(images))
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(sum(values.values()) + norm):
            raise TrainingError(
                f"the loss or its gradient is not finite at epoch {progress.epoch + 1}, batch "
                f"{progress.batch + 1}: {values}, gradient norm {norm}; the weights were not "
                "changed by it. Lower the recipe's learning_rate and start in a new folder"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return values

    def _backward(
        self, losses: dict[str, torch.Tensor], weighted: list[torch.Tensor], rows: int
    ) -> dict[str, float]:
        """Fill in the gradients of the whole batch; its losses by task."""
        total = torch.stack(weighted).sum()
        if self.group.size == 1:
            total.backward()  # type: ignore[no-untyped-call]
            return {name: float(loss.detach()) for name, loss in losses.items()}
        (total * rows).backward()  # type: ignore[no-untyped-call]
        count = sum_gradients(self.model, self.group, rows)
        sums = self.group.sum(torch.stack([loss.detach() * rows for loss in losses.values()]))
        return dict(zip(losses, (sums / count).tolist(), strict=True))

    def _note_skipped(self, names: tuple[str, ...]) -> None:
        """Remember rows that did not decode.

        Raises:
            TrainingError: when there are more than `settings.max_skipped`.
        """
        if not self.group.any(bool(names), self.settings.device):
            return
        known = self.progress.skipped
        everywhere = {name for part in self.group.gather(names) for name in part}
        for name in sorted(everywhere - set(known)):
            log.warning("row %r holds no readable picture; it is left out", name)
            known.append(name)
        if len(known) > self.settings.max_skipped:
            raise TrainingError(
                f"{len(known)} rows do not decode, {self.settings.max_skipped} are allowed: "
                f"{', '.join(known)}; see to the data, or allow more with --max-skipped"
            )

    def _losses(
        self,
        images: torch.Tensor,
        plain: torch.Tensor,
        soft: dict[str, torch.Tensor],
        targets: torch.Tensor,
        side: int,
    ) -> dict[str, torch.Tensor]:
        """Losses by task of one augmented batch."""
        distillation = self.recipe.distillation
        both = distillation is not None and distillation.mirrored
        if both:
            images = torch.cat([images, images.flip(3)])
            soft = twice(soft)
        with autocast(self.settings.device, self.precision):
            logits = self.network(resized(images, side))
        if self.group_losses is not None:
            return self.group_losses(row_losses(logits, soft, self.class_weights), targets)
        losses = soft_losses(logits, soft, self.class_weights)
        if distillation is None:
            return losses
        with autocast(self.settings.device, self.precision):
            answers = teacher_targets(self.teachers, plain, distillation)
        return distilled(losses, logits, twice(answers) if both else answers, distillation)

    def _train_epoch(self, signals: list[int]) -> None:
        """Train the rest of the current epoch, from `progress.batch` on."""
        recipe, progress = self.recipe, self.progress
        self.model.train()
        if progress.loss_sums is None:
            progress.loss_sums = {task.name: 0.0 for task in labels.TASKS}
        chunks = epoch_chunks(
            self.rows,
            self.settings.seed,
            progress.epoch,
            recipe.shuffle_buffer,
            recipe.batch_size,
            skip=progress.batch,
            group=self.group,
            # Mixing needs pictures of other processes' parts.
            whole=recipe.mixup > 0,
        )
        side = recipe.size_at(progress.epoch)
        title = f"epoch {progress.epoch + 1}/{recipe.last_epoch} at {side} px"
        bar = tqdm(
            total=self.batches,
            initial=progress.batch,
            desc=title,
            unit="batch",
            disable=not (self.group.is_first and sys.stderr.isatty()),
        )
        started = said = time.monotonic()
        before = progress.seconds
        with bar:
            for chunk in self._saving_on_data_errors(chunks):
                for name, value in self._step(chunk, side).items():
                    progress.loss_sums[name] += value
                progress.batch += 1
                now = time.monotonic()
                progress.seconds = before + now - started
                means = {n: f"{s / progress.batch:.3f}" for n, s in progress.loss_sums.items()}
                bar.update()
                bar.set_postfix(means)
                if bar.disable and self.group.is_first and now - said > _LOG_SECONDS:
                    log.info("%s: batch %d/%d %s", title, progress.batch, self.batches, means)
                    said = now
                if self.group.any(bool(signals), self.settings.device):
                    self.save()
                    raise Stopped
                if progress.batch % self.settings.checkpoint_every == 0:
                    self.save()

    def _saving_on_data_errors(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same batches; when the stream breaks off, the batches done are saved first."""
        while True:
            try:
                chunk = next(chunks, None)
            except DataError:
                if self.progress.batch > 0:
                    self.save()
                raise
            if chunk is None:
                return
            yield chunk

    def _finish_epoch(self) -> None:
        """Measure on the holdout, keep the best weights, write history and checkpoint."""
        progress, recipe = self.progress, self.recipe
        started = time.monotonic()
        side = recipe.size_at(progress.epoch)
        sums = progress.loss_sums or {}
        train = {name: value / self.batches for name, value in sums.items()}
        if self.tail is not None and progress.epoch >= recipe.last_epoch - recipe.average_epochs:
            self.tail.update_parameters(self.average.module if self.average else self.model)
        measured = self.measure(side)
        entry = {
            "epoch": progress.epoch + 1,
            "image_size": side,
            "train_loss": {k: round(v, 6) for k, v in train.items()},
            "holdout_loss": measured.loss,
            "holdout_accuracy": measured.accuracy,
        }
        self.history.append(entry)
        if side == recipe.image_size:
            self._keep_if_best(measured)
        stopped = self._gained_too_little()
        progress.seconds += time.monotonic() - started
        progress.epoch, progress.batch, progress.loss_sums = progress.epoch + 1, 0, None
        progress.finished = stopped or progress.epoch == recipe.last_epoch
        if self.group.is_first:
            lines = "".join(json.dumps(item, allow_nan=False) + "\n" for item in self.history)
            write_atomically(self.settings.output / HISTORY_NAME, lines.encode())
            log.info("%s", json.dumps(entry))
        self.save()

    def _gained_too_little(self) -> bool:
        if self.recipe.min_gain is None or len(self.history) < 2:
            return False
        previous, last = (sum(h["train_loss"].values()) for h in self.history[-2:])
        if previous - last >= self.recipe.min_gain:
            return False
        log.info("training loss fell by less than %g: stopping", self.recipe.min_gain)
        return True

    def measure(self, side: int, *, flip: bool = False) -> Measured:
        """The evaluated weights on the holdout, with pictures of `side` pixels."""
        preprocessing = Preprocessing(image_size=side)
        device = self.settings.device
        own = logits_of(self.evaluated, self.holdout, preprocessing, device, flip=flip)
        parts = self.group.gather((own, [row.targets for row in self.holdout]))
        logits = {name: torch.cat([part[name] for part, _ in parts]) for name in own}
        targets = torch.tensor([target for _, some in parts for target in some])
        losses = task_losses(logits, targets)
        accuracy = {}
        for column, task in enumerate(labels.TASKS):
            right = logits[task.name].argmax(1) == targets[:, column]
            accuracy[task.name] = round(float(right.double().mean()), 6)
        loss = {name: round(float(value), 6) for name, value in losses.items()}
        return Measured(side, accuracy, loss, logits, targets)

    def _keep_if_best(self, measured: Measured) -> None:
        """Keep the weights if they do better than those kept before.

        Weights that saw several sizes are tried at each, since the last is not always the best
        to use them at (Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
        """
        others = self.recipe.sides - {measured.image_size}
        found = [measured, *map(self.measure, sorted(others))]
        scores = [one.score() for one in found]
        if min(scores) < self.progress.best:
            self.progress.best = min(scores)
            self._keep(found[scores.index(min(scores))])

    def _keep(self, measured: Measured) -> None:
        """Write the evaluated weights, calibrated on the holdout."""
        if not self.group.is_first:
            return
        kept = self.evaluated
        kept.config = calibrated(kept.config, measured.logits, measured.targets).replace(
            preprocessing=Preprocessing(image_size=measured.image_size),
            training={
                "recipe": self.recipe.name,
                "seed": self.settings.seed,
                "epoch": self.progress.epoch + 1,
                "epochs": self.recipe.last_epoch,
                "image_size": measured.image_size,
                "settings": self._identity()["recipe"],
                "dataset": {
                    **self.settings.source.describe("train", self.row_count),
                    "holdout_rows": self.holdout_count,
                },
                "holdout_accuracy": measured.accuracy,
                "teachers": [
                    {"sha256": digest, **origin_facts(teacher.config)}
                    for digest, teacher in zip(self.teacher_digests, self.teachers, strict=True)
                ],
                "start": self.start,
                "precision": self.precision,
                "compile": self.settings.compile,
                "hardware": hardware(self.settings.device, self.group.size),
                "processes": self.group.size,
                "skipped_rows": len(self.progress.skipped),
                "wall_seconds": round(self.progress.seconds),
                "git_commit": self.git_commit,
                "versions": versions(),
            },
        )
        kept.save_pretrained(self.settings.output / "model.new")
        replace_folder(self.settings.output / "model.new", self.settings.output / "model")

    def run(self, after_epoch: Callable[[dict[str, Any]], None] | None = None) -> Path:
        """Train until done; returns the folder with the best weights.

        Args:
            after_epoch: called with each epoch's line of the history; may end the run by raising.

        Raises:
            Stopped: on SIGTERM or SIGINT, with the checkpoint written.
            TrainingError: for a loss that is not finite, or too few rows.
        """
        if self.group_losses is not None and self.group_losses.needs_accuracy:
            started = self.measure(self.recipe.size_at(0))
            self.group_losses.set_weights(started.logits, started.targets)
        with collected_signals() as signals:
            while not self.progress.finished:
                self._train_epoch(signals)
                self._finish_epoch()
                if after_epoch is not None:
                    after_epoch(self.history[-1])
                stop = self.group.any(bool(signals), self.settings.device)
                if stop and not self.progress.finished:
                    raise Stopped
        return self.settings.output / "model"


def fit(recipe: Recipe, settings: Settings) -> Path:
    """Train by a recipe and return the weights folder, `settings.output / "model"`.

    Raises:
        CheckpointError: when `output` holds a run and `resume` is off, when it does not fit, or
            while another process trains there.
        TrainingError: see `Trainer.run`.
        Stopped: when a signal ended the run; `resume` goes on.
    """
    if not settings.group.is_first:
        return _fit(recipe, settings)
    with only_run(settings.output):
        if checkpoints(settings.output) and not settings.resume:
            raise CheckpointError(
                f"{settings.output} already holds a run; add --resume to go on, or choose another"
            )
        return _fit(recipe, settings)


def _fit(recipe: Recipe, settings: Settings) -> Path:
    trainer = Trainer(recipe, settings)
    if settings.resume:
        trainer.resume()
    return trainer.run()


def replace_folder(new: Path, target: Path) -> None:
    """Move a folder's files over those of another, each whole, and drop the folder."""
    target.mkdir(exist_ok=True)
    for path in sorted(new.iterdir()):
        path.replace(target / path.name)
    new.rmdir()
