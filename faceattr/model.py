"""The networks: a batch of face tensors in, logits by task out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from faceattr import labels
from faceattr.errors import LabelError, WeightsError
from faceattr.preprocessing import Preprocessing

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
_WIDEST = 8192
REPORT_WIDTHS = (64, 128, 128, 256, 256, 512, 512)


def _default_classes() -> dict[str, tuple[str, ...]]:
    return {task.name: task.classes for task in labels.TASKS}


def _default_temperatures() -> dict[str, float]:
    return {task.name: 1.0 for task in labels.TASKS}


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a network and to use its logits rightly.

    Attributes:
        architecture: name of the network class.
        widths: output channels of the seven convolutional layers.
        hidden: width of the shared fully connected layer.
        classes: class names by task in the order of the logits.
        preprocessing: how a chip becomes the input tensor.
        temperatures: by task, positive; logits are divided by them before the softmax
            (Guo et al., ICML 2017), fitted on holdout rows of the training split.
        training: facts of the run (recipe, data, versions, hardware); for the card.
    """

    architecture: str = "LightweightMTLNet224"
    widths: tuple[int, ...] = REPORT_WIDTHS
    hidden: int = 256
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=_default_classes)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    temperatures: Mapping[str, float] = field(default_factory=_default_temperatures)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture != "LightweightMTLNet224":
            raise WeightsError(
                f"unknown architecture {self.architecture!r}; expected 'LightweightMTLNet224'"
            )
        sizes = (*self.widths, self.hidden)
        if len(sizes) != 8 or not all(type(n) is int and 1 <= n <= _WIDEST for n in sizes):
            raise WeightsError(
                f"expected seven positive widths and a hidden width, integers up to {_WIDEST}, "
                f"came {list(self.widths)} and {self.hidden!r}"
            )
        self._check_tasks("classes", self.classes)
        self._check_tasks("temperatures", self.temperatures)
        for task in labels.TASKS:
            self._check_classes(task)
            if not 0 < self.temperatures[task.name] < math.inf:
                raise WeightsError(f"temperature of {task.name!r} must be finite and above zero")

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
                architecture=values["architecture"],
                widths=tuple(values["widths"]),
                hidden=values["hidden"],
                classes={task: tuple(names) for task, names in values["classes"].items()},
                preprocessing=Preprocessing.from_dict(values["preprocessing"]),
                temperatures={t: float(v) for t, v in values["temperatures"].items()},
                training=dict(values["training"]),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise WeightsError(f"config has a value of the wrong type: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready content of `config.json`."""
        return {
            "architecture": self.architecture,
            "widths": list(self.widths),
            "hidden": self.hidden,
            "classes": {task: list(names) for task, names in self.classes.items()},
            "preprocessing": self.preprocessing.to_dict(),
            "temperatures": dict(self.temperatures),
            "training": dict(self.training),
        }

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)


class DepthwiseSeparableConv(nn.Module):
    """3×3 depthwise, 1×1 pointwise, batch norm, ReLU (report, listing 6.1)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, out_channels, H/stride, W/stride)`."""
        return F.relu(self.bn(self.pointwise(self.depthwise(x))), inplace=True)


class LightweightMTLNet224(nn.Module):
    """The report's network (section 3.3, listing 6.1): 668,077 parameters as configured there.

    Seven depthwise separable convolutions, global average pooling, one shared fully connected
    layer and a linear head per task. The average pool makes it accept other input sizes than
    the 224 of its name; the size in use is `config.preprocessing.image_size`.
    """

    STRIDES = (2, 1, 2, 1, 2, 1, 2)

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        channels = (3, *self.config.widths)
        for number, stride in enumerate(self.STRIDES, start=1):
            layer = DepthwiseSeparableConv(channels[number - 1], channels[number], stride)
            self.add_module(f"conv{number}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], self.config.hidden)
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(self.config.hidden, len(t.classes)) for t in labels.TASKS}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""
        for number in range(1, len(self.STRIDES) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        x = F.relu(self.fc(self.avgpool(x).flatten(1)))
        return {name: head(x) for name, head in self.heads.items()}

    def probabilities(self, x: Tensor) -> dict[str, Tensor]:
        """Calibrated probabilities `(N, classes)` by task; columns in `faceattr.labels` order."""
        return self.calibrate(self(x))

    def calibrate(self, logits_by_task: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits to probabilities: divide by the temperature, softmax, order as in labels."""
        result = {}
        for name, logits in logits_by_task.items():
            scaled = (logits.float() / self.config.temperatures[name]).softmax(dim=1)
            order = labels.task(name).indices(self.config.classes[name])
            result[name] = torch.empty_like(scaled)
            result[name][:, list(order)] = scaled
        return result

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder, made if needed."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(state, target / WEIGHTS_NAME, metadata={"format": "pt"})
        text = json.dumps(self.config.to_dict(), indent=2, ensure_ascii=False)
        (target / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, revision: str | None = None
    ) -> LightweightMTLNet224:
        """Load weights strictly; see `faceattr.hub.load_model` for the arguments and errors."""
        from faceattr.hub import load_model

        return load_model(model, revision=revision)
