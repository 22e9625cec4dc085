"""The networks: a batch of face tensors in, logits by task out."""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from faceattr.errors import WeightsError, how_to_install

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"faceattr.model needs PyTorch: {how_to_install('torch')}", name="torch"
    ) from error
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from faceattr import labels
from faceattr.config import CONFIG_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.hub import BUNDLED, WeightsFiles, find_weights, read_config
from faceattr.layers import (
    ConvNorm,
    DepthwiseSeparableConv,
    InvertedBottleneck,
    MobileBlock,
    ResidualConv,
    TaskPool,
)

if TYPE_CHECKING:
    from faceattr.publishing import PublishResult

__all__ = [
    "ARCHITECTURES",
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "FaceAttrNet",
    "FaceAttrNetLarge",
    "FaceAttributeModel",
    "LightweightMTLNet224",
    "ModelConfig",
    "build_model",
]
_LARGEST = 8192


def _check_size(name: str, value: object, default: object) -> None:
    """A size is a whole number from 1, or as many of them as the default has."""
    if isinstance(default, tuple):
        valid = isinstance(value, tuple) and len(value) == len(default)
        wanted = f"{len(default)} whole numbers"
    else:
        valid, wanted = not isinstance(value, tuple), "a whole number"
    numbers = value if isinstance(value, tuple) else (value,)
    if not valid or not all(type(n) is int and 1 <= n <= _LARGEST for n in numbers):
        raise WeightsError(f"size {name!r}: expected {wanted} from 1 to {_LARGEST}, came {value!r}")


class FaceAttributeModel(nn.Module, ABC):
    """What all networks share: configuration, calibrated probabilities, saving and loading.

    A network is a subclass with a frozen dataclass `Sizes` (whole numbers or tuples of them,
    all with defaults) and a `forward` from normalised faces `(N, 3, S, S)` to logits
    `(N, classes)` by task name, for any S from 16 on; the size in use is
    `config.preprocessing.image_size`.
    """

    Sizes: ClassVar[type[Any]]

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        config = config or ModelConfig(name)
        if config.architecture != name:
            raise WeightsError(f"expected a config for {name!r}, came {config.architecture!r}")
        self.sizes = self._read_sizes(config.sizes)
        self.config = config.replace(sizes=asdict(self.sizes))

    @classmethod
    def _read_sizes(cls, values: Mapping[str, Any]) -> Any:
        defaults = asdict(cls.Sizes())
        if unknown := sorted(set(values) - set(defaults)):
            raise WeightsError(f"unknown sizes {unknown}; expected {sorted(defaults)}")
        for name, value in values.items():
            _check_size(name, value, defaults[name])
        return cls.Sizes(**values)

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""

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

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write `model.safetensors` and `config.json` into a folder, made if needed.

        Args:
            folder: where to.
            half: store numbers in float16, in half the space; loading turns them into float32.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        if half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        # Not by `save_file`, whose files nobody but their owner may read.
        (target / WEIGHTS_NAME).write_bytes(save(state, metadata={"format": "pt"}))
        text = json.dumps(self.config.to_dict(), indent=2, ensure_ascii=False)
        (target / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def push_to_hub(self, repo_id: str, **options: Any) -> PublishResult:
        """Publish weights and config in one commit, and prove it by loading them back.

        Args:
            repo_id: "user/name" on the Hub; created if it does not exist.
            options: as `FacePipeline.push_to_hub`.

        Raises:
            PublishError: saying what to do next. A failed upload leaves no half commit.
        """
        # Imported here: the Hub's client is slow to import.
        from faceattr.publishing import push_folder

        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(scratch)
            return push_folder(Path(scratch), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, revision: str | None = None
    ) -> FaceAttributeModel:
        """Load a network strictly; see `load_model` for the arguments.

        Called on `FaceAttributeModel`, it gives whichever class `config.json` names; called on a
        network's class, only that class, and without `model` its own bundled weights.

        Raises:
            WeightsError: as `load_model`, and for weights of another class.
        """
        if model is None and cls is not FaceAttributeModel:
            model = BUNDLED / cls.__name__
        loaded = load_model(model, revision=revision)
        if not isinstance(loaded, cls):
            raise WeightsError(
                f"expected weights of {cls.__name__!r}, came those of "
                f"{loaded.config.architecture!r}; load them with FaceAttributeModel"
            )
        return loaded


class LightweightMTLNet224(FaceAttributeModel):
    """The report's network (section 3.3, listing 6.1): 668,077 parameters as configured there.

    Seven depthwise separable convolutions, global average pooling, one shared fully connected
    layer and a linear head per task. The average pool makes it accept other input sizes than
    the 224 of its name.
    """

    @dataclass(frozen=True)
    class Sizes:
        """Output channels of the seven convolutional layers; width of the shared layer."""

        widths: tuple[int, ...] = (64, 128, 128, 256, 256, 512, 512)
        hidden: int = 256

    STRIDES = (2, 1, 2, 1, 2, 1, 2)

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        channels = (3, *self.sizes.widths)
        for number, stride in enumerate(self.STRIDES, start=1):
            layer = DepthwiseSeparableConv(channels[number - 1], channels[number], stride)
            self.add_module(f"conv{number}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[-1], self.sizes.hidden)
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(self.sizes.hidden, len(t.classes)) for t in labels.TASKS}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""
        for number in range(1, len(self.STRIDES) + 1):
            x = self.get_submodule(f"conv{number}")(x)
        x = F.relu(self.fc(self.avgpool(x).flatten(1)))
        return {name: head(x) for name, head in self.heads.items()}


class FaceAttrNet(FaceAttributeModel):
    """Our network: 652,802 parameters, 0.214 G multiply-adds at 224×224.

    The report's network spends most of its time on wide maps at half the input's resolution and
    has no residual connection. This one leaves that resolution after a narrow stem, keeps a
    dense convolution while channels are few, and spends seven tenths of its parameters on
    residual inverted bottlenecks at a sixteenth of the resolution. Strided convolutions are
    dense 2×2: about as cheap as strided depthwise ones in a forward pass and many times cheaper
    in a backward pass on CPUs. Each task has its own learned spatial pooling and linear head.
    """

    @dataclass(frozen=True)
    class Sizes:
        """Channels and blocks.

        Attributes:
            stem: channels at 1/2 of the input's resolution.
            widths: channels at 1/4, 1/8 and 1/16.
            expanded: inner channels of the bottlenecks at 1/8 and 1/16.
            depths: residual blocks at 1/4, 1/8 and 1/16.
            squeezed: inner channels of the squeeze-excitation at 1/16.
            features: channels that the heads see.
            pool: side of the map they see.
        """

        stem: int = 16
        widths: tuple[int, ...] = (40, 80, 128)
        expanded: tuple[int, ...] = (160, 256)
        depths: tuple[int, ...] = (1, 2, 6)
        squeezed: int = 16
        features: int = 192
        pool: int = 7

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        sizes = self.sizes
        quarter, eighth, sixteenth = sizes.widths
        self.stem = nn.Sequential(
            ConvNorm(3, sizes.stem, 3, stride=2), ConvNorm(sizes.stem, quarter, 3, stride=2)
        )
        self.stage1 = nn.Sequential(*(ResidualConv(quarter) for _ in range(sizes.depths[0])))
        self.stage2 = nn.Sequential(
            ConvNorm(quarter, eighth, 2, stride=2, activation=None),
            *(InvertedBottleneck(eighth, sizes.expanded[0]) for _ in range(sizes.depths[1])),
        )
        self.stage3 = nn.Sequential(
            ConvNorm(eighth, sixteenth, 2, stride=2, activation=None),
            *(
                InvertedBottleneck(sixteenth, sizes.expanded[1], sizes.squeezed)
                for _ in range(sizes.depths[2])
            ),
        )
        self.features = ConvNorm(sixteenth, sizes.features, 1, activation=nn.Hardswish)
        self.pool = TaskPool(sizes.features, sizes.pool)
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(sizes.features, len(t.classes)) for t in labels.TASKS}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""
        x = self.features(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        pooled = self.pool(x)
        return {
            name: head(part) for (name, head), part in zip(self.heads.items(), pooled, strict=True)
        }


class FaceAttrNetLarge(FaceAttributeModel):
    """EfficientNet-Lite's body with one learned pooling and head for each task.

    Body: Tan and Le, ICML 2019, without squeeze-excitation and with ReLU6 (EfficientNet-Lite,
    2020); the default sizes are Lite0's, 3,490,066 parameters and 0.196 G multiply-adds at 160×160.
    """

    @dataclass(frozen=True)
    class Sizes:
        """Channels and blocks.

        Attributes:
            stem: channels at 1/2 of the input's resolution.
            widths: channels of the seven stages.
            depths: blocks of the seven stages.
            last_stride: of the sixth stage, 1 or 2: the last map is 1/16 or 1/32 of the input.
            features: channels that the heads see.
            pool: side of the map they see.
        """

        stem: int = 32
        widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
        depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
        last_stride: int = 2
        features: int = 1280
        pool: int = 5

    KERNELS = (3, 3, 5, 3, 5, 5, 3)
    STRIDES = (1, 2, 2, 2, 1, 2, 1)
    FACTORS = (1, 6, 6, 6, 6, 6, 6)

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        sizes = self.sizes
        act = nn.ReLU6
        self.stem = ConvNorm(3, sizes.stem, 3, stride=2, activation=act)
        strides = (*self.STRIDES[:5], sizes.last_stride, self.STRIDES[6])
        blocks: list[nn.Module] = []
        channels = sizes.stem
        for width, depth, kernel, stride, factor in zip(
            sizes.widths, sizes.depths, self.KERNELS, strides, self.FACTORS, strict=True
        ):
            for number in range(depth):
                step = 1 if number else stride
                blocks.append(MobileBlock(channels, width, kernel, step, factor))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.features = ConvNorm(channels, sizes.features, 1, activation=act)
        self.pool = TaskPool(sizes.features, sizes.pool)
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(sizes.features, len(t.classes)) for t in labels.TASKS}
        )
        # TensorFlow's, with which the body's published weights were trained.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""
        pooled = self.pool(self.features(self.blocks(self.stem(x))))
        return {
            name: head(part) for (name, head), part in zip(self.heads.items(), pooled, strict=True)
        }


ARCHITECTURES: dict[str, type[FaceAttributeModel]] = {
    network.__name__: network for network in (LightweightMTLNet224, FaceAttrNet, FaceAttrNetLarge)
}


def build_model(
    config: ModelConfig, architectures: Mapping[str, type[FaceAttributeModel]] = ARCHITECTURES
) -> FaceAttributeModel:
    """A network with random weights, of the class that the config names.

    Raises:
        WeightsError: for an unknown class or sizes that it does not take.
    """
    if config.architecture not in architectures:
        raise WeightsError(
            f"unknown architecture {config.architecture!r}; expected one of {sorted(architectures)}"
        )
    return architectures[config.architecture](config)


def _load_strictly(network: FaceAttributeModel, state: dict[str, Tensor], origin: str) -> None:
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    shapes = [
        f"{k}: expected {tuple(expected[k].shape)}, came {tuple(state[k].shape)}"
        for k in sorted(set(state) & set(expected))
        if state[k].shape != expected[k].shape
    ]
    problems = [
        f"{what} {found}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes))
        if found
    ]
    if problems:
        raise WeightsError(f"weights of {origin!r} do not fit the network: {'; '.join(problems)}")
    if spoilt := sorted(k for k, v in state.items() if not v.isfinite().all()):
        raise WeightsError(f"weights of {origin!r} hold numbers that are not finite: {spoilt}")
    network.load_state_dict(state, strict=True)


def load_files(
    files: WeightsFiles,
    architectures: Mapping[str, type[FaceAttributeModel]] = ARCHITECTURES,
) -> FaceAttributeModel:
    """Build the network that `files` describe, in evaluation mode.

    Args:
        files: where config and weights lie.
        architectures: networks by name; the published ones by default.

    Raises:
        WeightsError: for an unreadable file, unknown config keys or class names, and missing,
            unexpected or misshapen tensors, each named.
    """
    config = read_config(files)
    network = build_model(config, architectures)
    if missing := sorted(set(network.config.sizes) - set(config.sizes)):
        raise WeightsError(f"{CONFIG_NAME} of {files.name!r} lacks the sizes {missing}")
    try:
        state = load_file(files.weights)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{WEIGHTS_NAME} of {files.name!r} is damaged or no safetensors file; download it again"
        ) from error
    _load_strictly(network, state, files.name)
    return network.eval()


def load_model(
    model: str | Path | None = None, *, revision: str | None = None
) -> FaceAttributeModel:
    """Load a network in evaluation mode, strictly and from safetensors only.

    Args:
        model: "user/name" on the Hub, a local folder, the name of bundled weights, or None for
            the default ones.
        revision: branch, tag or commit of the Hub repository.

    Raises:
        WeightsError: as `find_weights` and `load_files`.
    """
    return load_files(find_weights(model, revision=revision))
