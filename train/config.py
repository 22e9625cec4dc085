"""A training recipe's schema: every decision of a run, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from faceattr import labels

TASKS = tuple(task.name for task in labels.TASKS)
GROUPS = (*TASKS, "child")
"""What groups may be made of; "child" is whether the age label lies below ten years."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training chip; every amount at 0 means none.

    Attributes:
        flip: probability of a horizontal mirror image.
        rotation: largest turn, degrees either way.
        scale: largest relative zoom either way, e.g. 0.1 for 0.9 to 1.1.
        shift: largest move, as a fraction of the side, either way and in both directions.
        brightness: largest relative change either way.
        contrast: as brightness.
        saturation: as brightness.
        erase: probability of a grey rectangle of 2 to 15 % of the area (random erasing,
            Zhong et al., AAAI 2020).
        grey: probability of losing all colour.
        degrade: probability of each of: JPEG at quality 20 to 90, Gaussian blur of up to 2 % of
            the side, and a detour through a fifth to a half of the resolution.
        canvas: probability that made-up colours surround the chip where it has moved away, as
            another image beside a cut-out would; otherwise its border is repeated.
    """

    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0
    grey: float = 0.0
    degrade: float = 0.0
    canvas: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            limit = 180.0 if name == "rotation" else 1.0
            if not 0 <= value <= limit:
                raise ValueError(f"augmentation {name} must lie in 0 to {limit:g}, came {value}")

    @property
    def moves_pixels(self) -> bool:
        """Whether any geometric change is on."""
        return max(self.flip, self.rotation, self.scale, self.shift) > 0

    @property
    def colours_pixels(self) -> bool:
        """Whether any change of colour is on."""
        return max(self.brightness, self.contrast, self.saturation, self.grey) > 0


@dataclass(frozen=True)
class Stage:
    """From which epoch on (counted from 0) chips enter the network at which side in pixels."""

    epoch: int
    image_size: int


@dataclass(frozen=True)
class Distillation:
    """Learning from teachers' stored answers to the very views (Hinton et al., 2015).

    Student and teachers see the same crop (Beyer et al., CVPR 2022, "consistent teaching"), each at
    its own size; the answers were given once and are replayed (Shen and Xing, ECCV 2022).

    Attributes:
        weight: of the answers in the loss, 0 to 1; the labels have the rest.
        temperature: softens both sides, at least 1; the term is scaled by its square.
    """

    weight: float = 0.8
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1 or not 1 <= self.temperature <= 20:
            raise ValueError(
                "distillation: weight must lie in (0, 1] and temperature in 1 to 20, came "
                f"{self.weight} and {self.temperature}"
            )


@dataclass(frozen=True)
class Mitigation:
    """Group DRO (Sagawa et al., ICLR 2020) over the combinations of some attributes.

    Attributes:
        groups: of `GROUPS`.
        step: of the groups' weights; the paper has 0.01.
    """

    groups: tuple[str, ...] = ("race",)
    step: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.step <= 5:
            raise ValueError(f"mitigation step must lie in (0, 5], came {self.step}")
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise ValueError(f"mitigation needs different groups of {GROUPS}, came {self.groups}")
        if unknown := set(self.groups) - set(GROUPS):
            raise ValueError(f"mitigation groups must be of {GROUPS}, came {sorted(unknown)}")


Start = Literal["random", "imagenet"]


@dataclass(frozen=True)
class Recipe:
    """All decisions of a training run.

    Attributes:
        name: how the command line calls it.
        epochs: passes over the training rows, at most.
        batch_size: rows a step, of all processes together; an epoch's incomplete batch is dropped.
        architecture: name of the network, a key of `faceattr.model.ARCHITECTURES`.
        sizes: of the network; its defaults where left out.
        start: random weights, or those of EfficientNet-Lite from ImageNet, which one following
            from the sizes.
        optimizer: Adam, AdamW, or SGD with Nesterov momentum of 0.9.
        learning_rate: the schedule's peak.
        weight_decay: on weights of two dimensions and more only.
        schedule: constant, or cosine down to zero.
        warmup_epochs: linear warm-up before it.
        label_smoothing: of all three cross-entropies, 0 to 1.
        age_spread: standard deviation, in age groups, of a Gaussian that shares each age label
            with its neighbours (Diaz and Marathe, CVPR 2019, "soft labels"); 0 for one label.
        logit_adjustment: by task, how much of the log frequency of each class is added to the
            logits in the loss (Menon et al., ICLR 2021, section 5), so that rare classes are
            answered more often; 1 is balanced softmax (Ren et al., NeurIPS 2020). 0 by default.
        loss_weights: of each task's loss by name; 1 where left out.
        most_lost: share of the holdout rows that a head of the kept weights may lose so that its
            worst class is answered better (`train.fit.select.adjusted`); None to leave it alone.
        child_gender: weight of the gender loss of children under ten; others have 1.
        mixup: both parameters of the Beta distribution that mixes pairs of images and targets
            (Zhang et al., ICLR 2018); 0 for none.
        ema_decay: of the averaged weights that are evaluated and kept; None for no averaging.
        views: augmented views of each row, taken in turn by epoch; None for new ones every epoch.
            Stored answers have their own number, which goes before.
        distillation: how to learn from stored answers; None for labels only.
        mitigation: how to look after groups that fare badly; None for equal rows.
        min_gain: stop when the mean training loss fell by less than this since the previous
            epoch (report, section 3.4.5); None to run all epochs.
        augmentation: of the training chips.
        stages: input size by epoch. Weights of the last stage are kept, for use at whichever of
            the stages' sizes does best on the holdout.
    """

    name: str
    epochs: int
    batch_size: int
    architecture: str = "LightweightMTLNet224"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "random"
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    age_spread: float = 0.0
    logit_adjustment: Mapping[str, float] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    most_lost: float | None = None
    child_gender: float = 1.0
    mixup: float = 0.0
    ema_decay: float | None = None
    views: int | None = None
    distillation: Distillation | None = None
    mitigation: Mitigation | None = None
    min_gain: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    stages: tuple[Stage, ...] = (Stage(0, 224),)

    def __post_init__(self) -> None:
        self._check_ranges()
        for name in ("loss_weights", "logit_adjustment"):
            if unknown := set(getattr(self, name)) - set(TASKS):
                raise ValueError(f"{name} must be of {TASKS}, came {sorted(unknown)}")
        if not all(weight > 0 for weight in self.loss_weights.values()):
            raise ValueError(f"loss_weights must be above 0, came {self.loss_weights}")
        if not all(0 <= tau <= 2 for tau in self.logit_adjustment.values()):
            raise ValueError(f"logit_adjustment must lie in 0 to 2, came {self.logit_adjustment}")
        starts = [stage.epoch for stage in self.stages]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(f"stages must start at epoch 0 and go on upwards, came {starts}")
        if starts[-1] >= self.epochs:
            raise ValueError(f"the last stage must start before epoch {self.epochs}, came {starts}")
        if self.mitigation is not None and self.mixup > 0:
            raise ValueError("mixed rows belong to no group: mitigation goes without mixup")
        if self.min_gain is not None and len(starts) > 1:
            raise ValueError("min_gain compares losses of one input size: stages must be one")

    def _check_ranges(self) -> None:
        if min(self.epochs, self.batch_size, 1 if self.views is None else self.views) < 1:
            raise ValueError("epochs, batch_size and views must be at least 1")
        for name, fits, wanted in (
            ("learning_rate", self.learning_rate > 0, "be above 0"),
            ("weight_decay", self.weight_decay >= 0, "not be below 0"),
            ("warmup_epochs", self.warmup_epochs >= 0, "not be below 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "lie in [0, 1)"),
            ("age_spread", 0 <= self.age_spread <= 5, "lie in 0 to 5"),
            ("mixup", self.mixup >= 0, "not be below 0"),
            ("most_lost", self.most_lost is None or 0 <= self.most_lost < 1, "lie in [0, 1)"),
            ("child_gender", 0 < self.child_gender <= 20, "lie in (0, 20]"),
            ("ema_decay", self.ema_decay is None or 0 < self.ema_decay < 1, "lie in (0, 1)"),
        ):
            if not fits:
                raise ValueError(f"{name} must {wanted}, came {getattr(self, name)}")

    @property
    def image_size(self) -> int:
        """Input side in pixels of the last stage."""
        return self.stages[-1].image_size

    @property
    def sides(self) -> set[int]:
        """Input sides of all stages."""
        return {stage.image_size for stage in self.stages}

    def size_at(self, epoch: int) -> int:
        """Input side in pixels during an epoch."""
        return [stage.image_size for stage in self.stages if stage.epoch <= epoch][-1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; kept with every checkpoint."""
        return asdict(self)
