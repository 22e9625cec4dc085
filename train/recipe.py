"""Named training recipes: what `python -m train fit --recipe NAME` does, in one place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from faceattr import labels


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training chip; every amount at 0 means none.

    Attributes:
        flip: probability of a horizontal mirror image.
        rotation: largest turn, degrees either way.
        scale: largest relative zoom either way, e.g. 0.1 for 0.9 to 1.1.
        shift: largest move, as a fraction of the side, either way and in both directions.
        brightness: largest relative change either way.
        contrast: likewise.
        saturation: likewise.
        erase: probability of a grey rectangle of 2 to 15 % of the area (random erasing,
            Zhong et al., AAAI 2020).
        grey: probability of losing all colour.
        degrade: probability of each of: JPEG at quality 20 to 90, Gaussian blur of up to 2 % of
            the side, and a detour through a fifth to a half of the resolution.
        canvas: probability that made-up colours surround the chip where it has moved away, as
            another picture beside a cut-out would; otherwise its border is repeated.
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
    """Learning from teachers' answers to the same augmented view (Hinton et al., 2015).

    Teacher and student see the same crop (Beyer et al., CVPR 2022, "consistent teaching"), each
    at its own size, but teachers never a canvas around it; several are averaged in probability.

    Attributes:
        weight: of the teachers in the loss, 0 to 1; the labels have the rest.
        temperature: softens both sides, at least 1; the term is scaled by its square.
        mirrored: the student learns, on the view and on its mirror image, the mean of the teachers'
            answers to both, which is better than one of them. N rows are then 2 N pictures.
    """

    weight: float = 0.7
    temperature: float = 2.0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1 or not 1 <= self.temperature <= 20:
            raise ValueError(
                "distillation: weight must lie in (0, 1] and temperature in 1 to 20, came "
                f"{self.weight} and {self.temperature}"
            )


@dataclass(frozen=True)
class Mitigation:
    """Looking after groups that fare badly; see `train.fit.mitigation` for the formulas.

    Attributes:
        kind: reweighting by holdout accuracy, or group DRO (Sagawa et al., ICLR 2020).
        strength: the power of the weights, or the step size of the groups' weights.
        groups: attributes whose combinations are the groups.
    """

    kind: Literal["reweight", "group_dro"]
    strength: float
    groups: tuple[str, ...] = ("gender", "race")

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 5:
            raise ValueError(f"mitigation strength must lie in (0, 5], came {self.strength}")
        names = [task.name for task in labels.TASKS]
        if not self.groups or len(set(self.groups)) < len(self.groups):
            raise ValueError(f"mitigation needs different groups of {names}, came {self.groups}")
        if unknown := set(self.groups) - set(names):
            raise ValueError(f"mitigation groups must be of {names}, came {sorted(unknown)}")


@dataclass(frozen=True)
class Recipe:
    """All decisions of a training run.

    Attributes:
        name: how the command line calls it.
        architecture: name of the network, a key of `train.fit.networks.NETWORKS`.
        sizes: of the network; its defaults where left out.
        epochs: passes over the training rows, at most.
        batch_size: rows a step; the last incomplete batch of an epoch is dropped.
        optimizer: Adam, AdamW, or SGD with Nesterov momentum of 0.9.
        learning_rate: the schedule's peak.
        weight_decay: on weights of two dimensions and more only.
        schedule: constant, or cosine down to zero.
        warmup_epochs: linear warm-up before it.
        label_smoothing: of all three cross-entropies, 0 to 1.
        age_spread: standard deviation, in age groups, of a Gaussian that shares each age label
            with its neighbours (Diaz and Marathe, CVPR 2019, "soft labels"); 0 for one label.
        loss_weights: of each task's loss by name; 1 where left out.
        class_balance: power by which rare classes weigh more: weights are count^-power, with
            mean 1 over the rows; 0 for equal weights.
        mixup: both parameters of the Beta distribution that mixes pairs of pictures and labels
            (Zhang et al., ICLR 2018); 0 for none.
        ema_decay: of the averaged weights that are evaluated and kept; None for no averaging.
        average_epochs: average (of equal parts) the weights at the end of this many last epochs;
            0 for none.
        distillation: how to learn from teachers; None for labels only.
        mitigation: how to look after groups that fare badly; None for equal rows.
        continues: start from a finished run's weights instead of random ones, a warm restart
            (Loshchilov and Hutter, ICLR 2017).
        stop_after: epochs after which the run ends although its schedule would go on; None for all.
        min_gain: stop when the mean training loss fell by less than this since the previous
            epoch (report, section 3.4.5); None to run all epochs.
        augmentation: of the training chips.
        stages: input size by epoch. Weights of the last stage are kept, for use at whichever of
            the stages' sizes does best on the holdout.
        shuffle_buffer: rows held for shuffling the stream.
    """

    name: str
    epochs: int
    batch_size: int
    architecture: str = "LightweightMTLNet224"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    age_spread: float = 0.0
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    class_balance: float = 0.0
    mixup: float = 0.0
    ema_decay: float | None = None
    average_epochs: int = 0
    distillation: Distillation | None = None
    mitigation: Mitigation | None = None
    continues: bool = False
    stop_after: int | None = None
    min_gain: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    stages: tuple[Stage, ...] = (Stage(0, 224),)
    shuffle_buffer: int = 8192

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.shuffle_buffer) < 1:
            raise ValueError("epochs, batch_size and shuffle_buffer must be at least 1")
        if not self.learning_rate > 0 or self.weight_decay < 0 or self.warmup_epochs < 0:
            raise ValueError("learning_rate must be above 0, weight_decay and warm-up not below")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), came {self.label_smoothing}")
        if not 0 <= self.age_spread <= 5 or not 0 <= self.class_balance <= 1 or self.mixup < 0:
            raise ValueError(
                "age_spread must lie in 0 to 5, class_balance in 0 to 1, mixup not below 0, came "
                f"{self.age_spread}, {self.class_balance} and {self.mixup}"
            )
        names = {task.name for task in labels.TASKS}
        if set(self.loss_weights) - names or not all(w > 0 for w in self.loss_weights.values()):
            raise ValueError(
                f"loss_weights must be above 0, of {sorted(names)}, came {self.loss_weights}"
            )
        if not 1 <= self.last_epoch <= self.epochs:
            raise ValueError(f"stop_after must lie in 1 to {self.epochs}, came {self.stop_after}")
        if not 0 <= self.average_epochs <= self.last_epoch:
            raise ValueError(f"average_epochs must lie in 0 to {self.last_epoch}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), came {self.ema_decay}")
        starts = [stage.epoch for stage in self.stages]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(f"stages must start at epoch 0 and go on upwards, came {starts}")
        if starts[-1] >= self.last_epoch:
            raise ValueError(
                f"the last stage must start before epoch {self.last_epoch}, came {starts}"
            )
        if self.mitigation is not None and (self.mixup > 0 or self.distillation is not None):
            raise ValueError("mitigation goes with neither mixup nor distillation")
        if self.mitigation and self.mitigation.kind == "reweight" and not self.continues:
            raise ValueError("reweighting needs weights to measure first: continues must be True")
        if self.min_gain is not None and len(starts) > 1:
            raise ValueError("min_gain compares losses of one input size: stages must be one")

    @property
    def last_epoch(self) -> int:
        """Epochs that are run, unless `min_gain` ends the run before."""
        return self.epochs if self.stop_after is None else self.stop_after

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


def report() -> Recipe:
    """What the report did (sections 3.4.2 to 3.4.5, listing 6.2).

    Adam at 1e-3, the plain sum of three cross-entropies, no augmentation, at most 10 epochs,
    stopped when the training loss falls by less than 0.1. The report does not state its batch
    size; 64 is ours. It trains at 96 pixels where the report used 224: a fifth of the cost.
    The epoch that does best on the holdout is kept, as in every recipe here.
    """
    return Recipe(
        name="report",
        epochs=10,
        batch_size=64,
        optimizer="adam",
        min_gain=0.1,
        stages=(Stage(0, 96),),
    )


def with_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe, JSON-ready; what recipes have gained since then is at its default."""
    known: dict[str, Any] = json.loads(
        json.dumps({**Recipe(name="", epochs=1, batch_size=1).to_dict(), **recorded})
    )
    known["augmentation"] = {**asdict(Augmentation()), **known["augmentation"]}
    if known["distillation"]:
        known["distillation"] = {**asdict(Distillation()), **known["distillation"]}
    return known


LIGHT = Augmentation(0.5, 8.0, 0.1, 0.05, 0.2, 0.2, 0.2)
"""Mirror, slight geometry, slight colour."""


MEDIUM = Augmentation(0.5, 12.0, 0.12, 0.06, 0.2, 0.2, 0.2, degrade=0.1)
"""Mirror, geometry as inexact as a detector's, slight colour, lost detail."""

FOUND = replace(MEDIUM, scale=0.15, shift=0.07, canvas=0.4)
"""As `MEDIUM`, and where the chip moves, colours beside it, as in crops from larger pictures."""

GENDER_FIRST = {"gender": 2.5, "race": 1.2, "age": 0.7}
"""Loss weights of later runs: the gender loss is a tenth of the plain sum."""


def lightweight() -> Recipe:
    """The report's network, trained as well as two CPU cores allow in an hour."""
    return Recipe(
        name="lightweight",
        epochs=20,
        batch_size=128,
        learning_rate=3e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_epochs=1.0,
        label_smoothing=0.05,
        ema_decay=0.999,
        augmentation=LIGHT,
        stages=(Stage(0, 64), Stage(8, 96), Stage(17, 112)),
    )


def teacher() -> Recipe:
    """A larger residual network under strong augmentation, to distil from."""
    return Recipe(
        name="teacher",
        epochs=24,
        batch_size=128,
        architecture="TeacherNet",
        learning_rate=3e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=1.0,
        ema_decay=0.998,
        augmentation=Augmentation(
            flip=0.5,
            rotation=15.0,
            scale=0.15,
            shift=0.08,
            brightness=0.3,
            contrast=0.3,
            saturation=0.3,
            erase=0.3,
            grey=0.05,
            degrade=0.1,
        ),
        stages=(Stage(0, 64), Stage(11, 112)),
    )


def teacher_again() -> Recipe:
    """The teacher once more, for longer, on pictures that grow from 48 to 112 pixels.

    Small pictures first make epochs cheap (progressive learning, Tan and Le, ICML 2021). With
    another seed it errs on other rows than the networks before it, which a mean of teachers needs.
    By the last stage the rate had fallen too far for it to gain anything: the run was stopped
    two epochs after the one that was kept.
    """
    return replace(
        teacher(),
        name="teacher-again",
        epochs=35,
        stop_after=32,
        loss_weights=GENDER_FIRST,
        stages=(Stage(0, 48), Stage(14, 64), Stage(24, 88), Stage(29, 112)),
    )


def teacher_longer() -> Recipe:
    """TeacherNet, going on from `teacher-again` at 112 pixels with a rate that is not yet spent.

    On labels alone: what it adds to a mean of teachers is that it errs on other rows than they do.
    """
    return replace(
        teacher(),
        name="teacher-longer",
        epochs=12,
        learning_rate=2e-3,
        warmup_epochs=0.5,
        loss_weights=GENDER_FIRST,
        continues=True,
        stages=(Stage(0, 112),),
    )


def teacher_apart() -> Recipe:
    """One more teacher from nothing, with another seed, no larger than 96 pixels.

    Meant for the mean of teachers, but too weak for it: the mean is better without.
    """
    return replace(
        teacher(),
        name="teacher-apart",
        loss_weights=GENDER_FIRST,
        stages=(Stage(0, 48), Stage(5, 64), Stage(11, 96)),
    )


def ours() -> Recipe:
    """FaceAttrNet, from labels and a teacher's answers to the same augmented views."""
    return Recipe(
        name="ours",
        epochs=28,
        batch_size=128,
        architecture="FaceAttrNet",
        learning_rate=4e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_epochs=1.0,
        ema_decay=0.998,
        distillation=Distillation(weight=0.7, temperature=2.0),
        augmentation=Augmentation(
            flip=0.5,
            rotation=12.0,
            scale=0.12,
            shift=0.06,
            brightness=0.25,
            contrast=0.25,
            saturation=0.25,
            erase=0.15,
            grey=0.02,
            degrade=0.1,
        ),
        stages=(Stage(0, 64), Stage(11, 112)),
    )


def ours_again() -> Recipe:
    """FaceAttrNet, going on from the weights of `ours` on labels alone, at larger sizes.

    After `ours` the network fits training pictures hardly better than the holdout. On labels
    alone that ends after ten epochs: from then on it learns the rows by heart, and so the run
    behind the bundled weights was stopped before its schedule's end. It kept those of epoch 17.
    """
    return Recipe(
        name="ours-again",
        epochs=24,
        stop_after=20,
        batch_size=128,
        architecture="FaceAttrNet",
        learning_rate=2.5e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_epochs=0.5,
        loss_weights=GENDER_FIRST,
        ema_decay=0.998,
        continues=True,
        augmentation=MEDIUM,
        stages=(Stage(0, 112), Stage(16, 128)),
    )


def ours_blend() -> Recipe:
    """FaceAttrNet, going on from `ours`, taught by the mean of `ours` and `ours-again`.

    Where the two err differently, their mean is a better teacher than either (born-again networks,
    Furlanello et al., ICML 2018), and answers are harder to learn by heart than labels.
    """
    return replace(
        ours(),
        name="ours-blend",
        epochs=8,
        learning_rate=2e-3,
        warmup_epochs=0.25,
        loss_weights=GENDER_FIRST,
        continues=True,
        stages=(Stage(0, 112),),
    )


def ours_ensemble() -> Recipe:
    """FaceAttrNet, going on from `ours-blend`, taught by networks of two kinds.

    Their mean answers better than any of them; see `python -m train ensemble`.
    """
    return replace(
        ours_blend(),
        name="ours-ensemble",
        epochs=10,
        distillation=Distillation(weight=0.8, temperature=2.0),
        augmentation=FOUND,
    )


def ours_longer() -> Recipe:
    """FaceAttrNet, going on from `ours-ensemble`, taught by `teacher-longer` and its own start.

    Networks that have seen a row often answer it almost as its label says, with its faults. Mixed
    pictures are nobody's row, so that teachers have to say what they see ("function matching",
    Beyer et al., CVPR 2022); and the labels themselves count for little.
    """
    return replace(
        ours_ensemble(),
        name="ours-longer",
        epochs=16,
        mixup=0.2,
        distillation=Distillation(weight=0.9, temperature=2.0),
    )


def ours_larger() -> Recipe:
    """FaceAttrNet, going on from `ours-longer`, one of its teachers, with larger pictures.

    Every row is shown with its mirror image, and both are taught the mean of the teachers' answers
    to both. Gender, the task that had not reached what was aimed at, weighs more than before.
    """
    return replace(
        ours_longer(),
        name="ours-larger",
        epochs=9,
        batch_size=64,
        loss_weights={"gender": 4.0, "race": 1.1, "age": 0.6},
        distillation=Distillation(weight=0.9, temperature=2.0, mirrored=True),
        stages=(Stage(0, 144),),
    )


def ours_finer() -> Recipe:
    """FaceAttrNet, going on from `ours-larger`, one of its teachers, with larger pictures still.

    More is mixed, since from its seventh epoch on `ours-larger` came closer to its teachers on
    training rows without answering the holdout any better. The schedule's last epoch, at hardly
    any rate, is left out.
    """
    return replace(
        ours_larger(),
        name="ours-finer",
        epochs=11,
        stop_after=10,
        mixup=0.4,
        stages=(Stage(0, 160),),
    )


def ours_unmixed() -> Recipe:
    """FaceAttrNet, going on from `ours-finer` for two epochs of whole pictures at a low rate.

    Mixed pictures keep a network from learning rows by heart, but nobody asks about them later.
    """
    return replace(
        ours_finer(),
        name="ours-unmixed",
        epochs=2,
        stop_after=None,
        learning_rate=5e-4,
        warmup_epochs=0.1,
        mixup=0.0,
    )


def lightweight_again() -> Recipe:
    """The report's network, going on from `lightweight`, with better networks as teachers."""
    return Recipe(
        name="lightweight-again",
        epochs=8,
        batch_size=128,
        learning_rate=2e-3,
        weight_decay=0.02,
        schedule="cosine",
        warmup_epochs=0.5,
        loss_weights=GENDER_FIRST,
        ema_decay=0.998,
        distillation=Distillation(weight=0.8, temperature=2.0),
        continues=True,
        augmentation=FOUND,
        stages=(Stage(0, 96),),
    )


def lightweight_longer() -> Recipe:
    """The report's network, going on from `lightweight-again`, with better teachers still.

    It knows less of the training rows by heart than `FaceAttrNet` does, so nothing is mixed.
    """
    return replace(lightweight_again(), name="lightweight-longer")


def fair_control() -> Recipe:
    """FaceAttrNet for a few more epochs, without mitigation: what `fair` is compared with."""
    return replace(
        ours_again(),
        name="fair-control",
        epochs=2,
        stop_after=None,
        learning_rate=1e-3,
        warmup_epochs=0.25,
        stages=(Stage(0, 112),),
    )


def fair() -> Recipe:
    """FaceAttrNet for a few more epochs, badly served classes and groups weighing more."""
    return replace(fair_control(), name="fair", mitigation=Mitigation("reweight", 1.0))


def fair_dro() -> Recipe:
    """FaceAttrNet for a few more epochs by group DRO over gender × race."""
    return replace(fair_control(), name="fair-dro", mitigation=Mitigation("group_dro", 0.01))


def smoke() -> Recipe:
    """A small network for two epochs of a few rows: seconds; every feature switched on."""
    return Recipe(
        name="smoke",
        epochs=2,
        batch_size=8,
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=0.5,
        label_smoothing=0.05,
        ema_decay=0.9,
        augmentation=Augmentation(0.5, 10.0, 0.1, 0.05, 0.2, 0.2, 0.2, 0.25, 0.1, 0.5, 0.5),
        stages=(Stage(0, 24), Stage(1, 32)),
        sizes={"widths": (8, 8, 8, 16, 16, 32, 32), "hidden": 16},
        shuffle_buffer=32,
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "report": report,
    "lightweight": lightweight,
    "teacher": teacher,
    "teacher-again": teacher_again,
    "teacher-longer": teacher_longer,
    "teacher-apart": teacher_apart,
    "ours": ours,
    "ours-again": ours_again,
    "ours-blend": ours_blend,
    "ours-ensemble": ours_ensemble,
    "ours-longer": ours_longer,
    "ours-larger": ours_larger,
    "ours-finer": ours_finer,
    "ours-unmixed": ours_unmixed,
    "lightweight-again": lightweight_again,
    "lightweight-longer": lightweight_longer,
    "fair-control": fair_control,
    "fair": fair,
    "fair-dro": fair_dro,
    "smoke": smoke,
}
