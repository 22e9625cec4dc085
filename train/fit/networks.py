"""All networks that can be trained: the two that are published, and teachers that are not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceattr import labels
from faceattr.model import (
    ARCHITECTURES,
    ConvNorm,
    FaceAttributeModel,
    ModelConfig,
    TaskPool,
)

_SLICED_FROM = 16
"""Channels from which a strided depthwise convolution is worth slicing; pictures have three."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al., CVPR 2016, section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(in_channels, out_channels, 3, stride)
        self.second = ConvNorm(out_channels, out_channels, 3, activation=None)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, out_channels, H/stride, W/stride)`."""
        return F.relu(self.shortcut(x) + self.second(self.first(x)), inplace=True)


class TeacherNet(FaceAttributeModel):
    """A residual network of dense convolutions that small ones learn from.

    It leaves high resolution at once (7×7 convolution of stride 4) and has three stages at 1/4,
    1/8 and 1/16, which matrix units compute quickly; pooling and heads are those of
    `FaceAttrNet`. 2.8 M parameters by default.
    """

    @dataclass(frozen=True)
    class Sizes:
        """Channels and blocks of the three stages; side of the map that the heads see."""

        widths: tuple[int, ...] = (64, 128, 256)
        depths: tuple[int, ...] = (2, 2, 2)
        pool: int = 7

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        channels = self.sizes.widths[0]
        self.stem = ConvNorm(3, channels, 7, stride=4)
        blocks: list[nn.Module] = []
        for stage, (width, depth) in enumerate(
            zip(self.sizes.widths, self.sizes.depths, strict=True)
        ):
            for number in range(depth):
                blocks.append(BasicBlock(channels, width, 2 if stage and not number else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = TaskPool(channels, self.sizes.pool)
        self.heads = nn.ModuleDict(
            {t.name: nn.Linear(channels, len(t.classes)) for t in labels.TASKS}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised faces `(N, 3, S, S)` to logits `(N, classes)` by task name."""
        pooled = self.pool(self.blocks(self.stem(x)))
        return {
            name: head(part) for (name, head), part in zip(self.heads.items(), pooled, strict=True)
        }


class SlicedConv2d(nn.Conv2d):
    """A strided convolution that, while training, keeps every s-th place of a dense one.

    The sums are the same. In bfloat16 on CPUs the backward pass of strided depthwise
    convolutions is so slow that four times the places cost a fraction of it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if not self.training:
            return super().forward(x)
        dense = F.conv2d(x, self.weight, self.bias, 1, self.padding, self.dilation, self.groups)
        rows, columns = self.stride
        return dense[:, :, ::rows, ::columns].contiguous(memory_format=torch.channels_last)


def slice_strided(model: nn.Module) -> None:
    """Put a `SlicedConv2d` of the same weights in place of each strided depthwise convolution."""
    for name, conv in list(model.named_modules()):
        if not isinstance(conv, nn.Conv2d) or max(conv.stride) == 1:
            continue
        if conv.groups != conv.in_channels or conv.groups < _SLICED_FROM:
            continue
        assert isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
        sliced = SlicedConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=conv.bias is not None,
        )
        sliced.weight, sliced.bias = conv.weight, conv.bias
        model.set_submodule(name, sliced)


def multiply_adds(model: nn.Module, side: int) -> int:
    """Multiply-adds of convolutions and linear layers for one picture of side × side pixels."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * weight[0].numel()

    counted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in counted]
    weight = next(model.parameters())
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, side, side, device=weight.device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return total


NETWORKS: dict[str, type[FaceAttributeModel]] = {**ARCHITECTURES, TeacherNet.__name__: TeacherNet}
