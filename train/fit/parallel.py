"""Several processes that train as one: what `torchrun` starts, over gloo or NCCL.

Every process works on its own part of each batch, and reads little else (`train.data.order`).
Gradients are summed, and batch norms use the statistics of the whole batch, so
N processes do what one does, up to rounding.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """This process among those that work together.

    Attributes:
        rank: from 0.
        size: how many there are; with 1 every method does nothing.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """This process's share of `count` things: consecutive, and one more or less at most."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it holds in any process."""
        return bool(self.sum(torch.tensor(float(value), device=device)))

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]


def join(device: torch.device) -> tuple[Group, torch.device]:
    """Join the processes that torchrun started; alone without torchrun.

    Returns:
        The group, and this process's own device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(dist.get_rank(), size), device


def leave(group: Group) -> None:
    """Part from the others."""
    if group.size > 1:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is the gradient's way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(values)
    return result


class WholeBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device.

    `nn.SyncBatchNorm` does the same on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same; N may differ between processes."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        totals = _summed(torch.cat([x.sum((0, 2, 3)), count]))
        total = totals[-1].detach()
        mean = totals[:-1] / total
        centred = x - mean.view(1, -1, 1, 1)
        variance = _summed(centred.square().sum((0, 2, 3))) / total
        self._track(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        result: Tensor = centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return result.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


def join_batch_norms(model: nn.Module) -> None:
    """Make every batch norm one of the whole batch, in place; parameters stay the same objects."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                joined = WholeBatchNorm2d(child.num_features, child.eps, child.momentum)
                joined.weight, joined.bias = child.weight, child.bias
                joined.load_state_dict(child.state_dict())
                setattr(parent, name, joined.to(child.weight.device))


def sum_gradients(model: nn.Module, group: Group, rows: int) -> int:
    """Turn gradients of summed losses into those of the mean over all processes' rows.

    Args:
        model: after the backward pass.
        group: of this process.
        rows: of this process's part of the batch.

    Returns:
        Rows of the whole batch.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    count = torch.tensor([float(rows)], device=gradients[0].device)
    flat = group.sum(torch.cat([*(g.flatten() for g in gradients), count]))
    total = int(flat[-1])
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient) / total)
        start += gradient.numel()
    return total
