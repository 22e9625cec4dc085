"""What the networks are built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceattr import labels


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


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm, and an activation unless it is left out."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False
            ),
            nn.BatchNorm2d(out_channels),
        )
        if activation is not None:
            self.append(activation(inplace=True))


class SqueezeExcitation(nn.Module):
    """Channels weighted by what the whole map holds (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        weights = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(weights)


class InvertedBottleneck(nn.Module):
    """Residual block: widen, 3×3 depthwise, optional squeeze-excitation, narrow.

    MobileNetV2 (Sandler et al., CVPR 2018, section 3.3) with MobileNetV3's activation.
    """

    def __init__(self, channels: int, expanded: int, squeezed: int = 0) -> None:
        super().__init__()
        act = nn.Hardswish
        self.widen = ConvNorm(channels, expanded, 1, activation=act)
        self.depthwise = ConvNorm(expanded, expanded, 3, groups=expanded, activation=act)
        self.attention = SqueezeExcitation(expanded, squeezed) if squeezed else nn.Identity()
        self.narrow = ConvNorm(expanded, channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        narrowed: Tensor = self.narrow(self.attention(self.depthwise(self.widen(x))))
        return x + narrowed


class ResidualConv(nn.Module):
    """Residual 3×3 convolution: on few channels a dense one costs less than a bottleneck."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        changed: Tensor = self.conv(x)
        return x + changed


class TaskPool(nn.Module):
    """Pools a map with one learned weight for each task, channel and place.

    Faces are aligned, so places have a meaning: a global depthwise convolution as in
    MobileFaceNets (Chen et al., 2018, section 3.2), here one for each task. Starts as the mean.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.full((len(labels.TASKS), channels, side, side), side**-2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """`(N, C, H, W)` to `(N, C)` for each task; other maps are averaged to side × side."""
        if x.shape[-2:] != (self.side, self.side):
            x = F.adaptive_avg_pool2d(x, self.side)
        return [(x * weight).sum((2, 3)) for weight in self.weight.to(x.dtype)]


class MobileBlock(nn.Module):
    """MobileNetV2's inverted residual with ReLU6, as EfficientNet-Lite has it.

    Convolutions are padded on both sides alike, where the original's TensorFlow pads strided ones
    on one side only.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, factor: int
    ) -> None:
        super().__init__()
        inner = in_channels * factor
        act = nn.ReLU6
        self.widen: nn.Module = nn.Identity()
        if factor > 1:
            self.widen = ConvNorm(in_channels, inner, 1, activation=act)
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner, activation=act)
        self.narrow = ConvNorm(inner, out_channels, 1, activation=None)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, out_channels, H/stride, W/stride)`."""
        narrowed: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + narrowed if self.residual else narrowed
