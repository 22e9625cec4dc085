"""What travels with weights besides their tensors; reading it needs no PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from faceattr import labels
from faceattr.errors import LabelError, WeightsError
from faceattr.preprocessing import Preprocessing

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
ONNX_NAME = "model.onnx"


def _default_classes() -> dict[str, tuple[str, ...]]:
    return {task.name: task.classes for task in labels.TASKS}


def _default_temperatures() -> dict[str, float]:
    return {task.name: 1.0 for task in labels.TASKS}


def _default_thresholds() -> dict[str, float]:
    return {task.name: 0.0 for task in labels.TASKS}


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a network and to use its logits rightly.

    Attributes:
        architecture: name of the network class, a key of `ARCHITECTURES`.
        sizes: values of that class's `Sizes`; those left out are its defaults.
        classes: class names by task in the order of the logits.
        preprocessing: how a chip becomes the input tensor.
        temperatures: by task, positive; logits are divided by them before the softmax
            (Guo et al., ICML 2017), fitted on holdout rows of the training split.
        thresholds: by task, 0 to 1; an answer whose calibrated probability lies below is
            "unsure". On the holdout, the answers at or above it reach the accuracy aimed at.
        training: facts of the run (recipe, data, versions, hardware); for the card.
    """

    architecture: str = "LightweightMTLNet224"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=_default_classes)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    temperatures: Mapping[str, float] = field(default_factory=_default_temperatures)
    thresholds: Mapping[str, float] = field(default_factory=_default_thresholds)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_tasks("classes", self.classes)
        self._check_tasks("temperatures", self.temperatures)
        self._check_tasks("thresholds", self.thresholds)
        for task in labels.TASKS:
            self._check_classes(task)
            if not 0 < self.temperatures[task.name] < math.inf:
                raise WeightsError(f"temperature of {task.name!r} must be finite and above zero")
            if not 0 <= self.thresholds[task.name] <= 1:
                raise WeightsError(f"threshold of {task.name!r} must lie in 0 to 1")

    @staticmethod
    def _check_tasks(section: str, values: Mapping[str, object]) -> None:
        expected = [task.name for task in labels.TASKS]
        if sorted(values) != sorted(expected):
            raise WeightsError(f"{section}: expected the tasks {expected}, came {sorted(values)}")

    def _check_classes(self, task: labels.Task) -> None:
        try:
            found = task.indices(self.classes[task.name])
        except LabelError as error:
            raise WeightsError(f"classes of {task.name!r}: {error}") from error
        if len(found) != len(task.classes):
            missing = [c for i, c in enumerate(task.classes) if i not in found]
            raise WeightsError(f"classes of {task.name!r}: {missing} missing")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read the content of `config.json`.

        Raises:
            WeightsError: naming unknown or missing keys, tasks or class names.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise WeightsError(f"unknown config keys {unknown}; expected {sorted(known)}")
        if missing := sorted(known - set(values)):
            raise WeightsError(f"config keys {missing} are missing")
        try:
            return cls(
                architecture=str(values["architecture"]),
                sizes={
                    name: tuple(size) if isinstance(size, list) else size
                    for name, size in values["sizes"].items()
                },
                classes={task: tuple(names) for task, names in values["classes"].items()},
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                temperatures={t: float(v) for t, v in values["temperatures"].items()},
                thresholds={t: float(v) for t, v in values["thresholds"].items()},
                training=dict(values["training"]),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"config has a value of the wrong type: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content of `config.json`."""
        return {
            "architecture": self.architecture,
            "sizes": {k: list(v) if isinstance(v, tuple) else v for k, v in self.sizes.items()},
            "classes": {task: list(names) for task, names in self.classes.items()},
            "preprocessing": self.preprocessing.to_dict(),
            "temperatures": dict(self.temperatures),
            "thresholds": dict(self.thresholds),
            "training": dict(self.training),
        }

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)
