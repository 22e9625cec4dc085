"""Stored rows to batches of views, by PyTorch's own loader and sampler.

The data set is map-style: an item is asked for by row, number of the view and side, so workers keep
nothing and any place of any epoch can be gone to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from faceattr.images import JPEG_FLAGS
from train.config import Augmentation
from train.data.augment import DEGRADED_SIDE, Chip, apply, draw
from train.data.source import DataError, Rows

CPU = torch.device("cpu")
_SEEDS_APART = 100_003
"""The sampler adds epoch to seed: runs of neighbouring seeds must not share orders."""


class Wanted(NamedTuple):
    """One view: which row, which of its views, in how many pixels, and whether mirrored."""

    row: int
    view: int
    side: int
    mirrored: bool = False


class Batch(NamedTuple):
    """Views and what is known of them.

    Attributes:
        pixels: uint8 `(N, S, S, 3)`, RGB.
        targets: int64 `(N, tasks)` in `labels.TASKS` order.
        rows: int64 `(N,)`, places among the training rows.
        views: int64 `(N,)`, numbers of the views.
    """

    pixels: Tensor
    targets: Tensor
    rows: Tensor
    views: Tensor


def decode(image: bytes | memoryview, side: int | None = None) -> Chip:
    """An encoded image as RGB uint8 `(H, W, 3)`.

    Args:
        image: any format that OpenCV reads.
        side: what is wanted at least; a JPEG file is then decoded at the smallest of 1/1, 1/2, 1/4
            and 1/8 that gives it, for less time. A FairFace chip decoded at 1/2 differs from one
            halved by averaging by 0.4 grey levels in the mean, and is as sharp.

    Raises:
        DataError: for an image that does not decode.
    """
    stored = 0 if side is None else _jpeg_side(image)
    reduction = max(r for r in JPEG_FLAGS if r == 1 or stored >= r * (side or 1))
    encoded = np.frombuffer(image, np.uint8)
    flags = cv2.IMREAD_COLOR_RGB | JPEG_FLAGS[reduction]
    chip = cv2.imdecode(encoded, flags) if encoded.size else None
    if chip is None:
        raise DataError(f"an image of {encoded.size} bytes does not decode")
    return np.asarray(chip, np.uint8)


def _jpeg_side(content: bytes | memoryview) -> int:
    """Shorter side in pixels, from the header (ITU-T T.81, B.2.2); 0 where that does not say."""
    place = 2 if content[:2] == b"\xff\xd8" else len(content)
    while place + 9 <= len(content) and content[place] == 0xFF:
        # Baseline, extended and progressive frames; others are not for OpenCV.
        if 0xC0 <= content[place + 1] <= 0xC2:
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            return min(height, int.from_bytes(content[place + 7 : place + 9], "big"))
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0


class Views(Dataset[Batch]):
    """Augmented views of stored rows.

    Attributes:
        rows: encoded.
        augmentation: how much views may differ from the chips.
        seed: of all views.
        plain: whether canvases are left out, as for teachers.
    """

    def __init__(
        self, rows: Rows, augmentation: Augmentation, seed: int, *, plain: bool = False
    ) -> None:
        self.rows, self.augmentation, self.seed, self.plain = rows, augmentation, seed, plain

    def __len__(self) -> int:
        """Rows, each of which has any number of views."""
        return len(self.rows)

    def view(self, wanted: Wanted) -> NDArray[np.uint8]:
        """One view, RGB uint8 `(side, side, 3)`."""
        changes = draw(self.augmentation, self.seed, wanted.row, wanted.view)
        least = max(wanted.side, DEGRADED_SIDE if changes.degraded else 0)
        chip = decode(self.rows.image(wanted.row), least)
        view = apply(chip, wanted.side, changes, plain=self.plain)
        return np.ascontiguousarray(view[:, ::-1]) if wanted.mirrored else view

    def __getitems__(self, wanted: Sequence[Wanted]) -> Batch:
        """A batch of views, all of one side."""
        side = wanted[0].side
        pixels = np.empty((len(wanted), side, side, 3), np.uint8)
        for place, one in enumerate(wanted):
            pixels[place] = self.view(one)
        rows = [one.row for one in wanted]
        return Batch(
            torch.from_numpy(pixels),
            torch.from_numpy(self.rows.targets[rows]),
            torch.tensor(rows),
            torch.tensor([one.view for one in wanted]),
        )


class Order:
    """Which views make up which batch of an epoch, for one process of several.

    The order is `DistributedSampler`'s permutation for seed and epoch, so N processes form together
    the batches of one. A batch that is not full is left out.
    """

    def __init__(
        self, rows: Rows, seed: int, batch_size: int, *, rank: int = 0, world: int = 1
    ) -> None:
        # Only its length is asked.
        self._sampler: DistributedSampler[int] = DistributedSampler(
            cast(Any, rows),
            num_replicas=world,
            rank=rank,
            seed=seed * _SEEDS_APART,
            drop_last=True,
        )
        self._own = batch_size // world
        self.batches = len(rows) // batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        """This process's rows of each batch, from batch `start` on."""
        self._sampler.set_epoch(epoch)
        rows = list(self._sampler)
        for batch in range(start, self.batches):
            yield rows[batch * self._own : (batch + 1) * self._own]


def workers_for(device: torch.device) -> int:
    """Processes that decode beside the training: none where the CPU computes itself."""
    return 0 if device.type == "cpu" else min(16, max(0, (os.cpu_count() or 1) - 1))


def load(
    views: Views, batches: Sequence[list[Wanted]], device: torch.device = CPU, workers: int = 0
) -> Iterator[Batch]:
    """The batches in order, made ahead by worker processes where cores allow.

    Args:
        views: to take them from.
        batches: what is wanted.
        device: where they are needed.
        workers: processes; 0 for as many as the device calls for.
    """
    loader: DataLoader[Batch] = DataLoader(
        views,
        batch_sampler=batches,
        num_workers=workers or workers_for(device),
        collate_fn=cast(Any, _as_is),
        pin_memory=device.type == "cuda",
    )
    # Workers are forked here. They draw with one thread each, and must not wait for threads of
    # OpenCV's that stayed in this process.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return iter(loader)
    finally:
        cv2.setNumThreads(threads)


def _as_is(batch: Batch) -> Batch:
    return batch
