"""Rows to batches: decode, keep in memory if asked, augment, normalise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from faceattr.preprocessing import Preprocessing, resize_chip
from train.recipe import Augmentation
from train.samples import DataError, Part, Row, RowError, Rows, Source

_FEW = 8


class Batch(NamedTuple):
    """One batch, or one process's part of it.

    Attributes:
        images: `(N, 3, S, S)` float, normalised.
        plain: the same without a canvas, for teachers, who need not learn to overlook it; the same
            tensor where no canvas is used.
        targets: `(N, tasks)` int64.
        places: `(N,)` int64, which rows of the whole batch these are.
        skipped: names of rows that did not decode.
    """

    images: Tensor
    plain: Tensor
    targets: Tensor
    places: Tensor
    skipped: tuple[str, ...]


def decode_row(row: Row) -> NDArray[np.uint8]:
    """The row's picture as RGB uint8 `(H, W, 3)`.

    Raises:
        RowError: naming a row that does not decode.
    """
    if isinstance(row.image, np.ndarray):
        return row.image
    encoded = np.frombuffer(row.image, np.uint8)
    chip = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if encoded.size else None
    if chip is None:
        raise RowError(row.file, encoded.size)
    return np.asarray(chip, np.uint8)


class MemoryRows(Rows):
    """Rows decoded once at `side` pixels and kept; the order is that of the stream."""

    def __init__(self, source: Source, part: Part, side: int) -> None:
        super().__init__(source, part)
        self._side = side
        self._kept: dict[int, list[Row]] = {}

    def shard(self, index: int) -> Iterator[Row]:
        """Rows of one shard, from memory after its first reading."""
        if index not in self._kept:
            self._kept[index] = [self._decoded(row) for row in super().shard(index)]
        return iter(self._kept[index])

    def _decoded(self, row: Row) -> Row:
        """A row that does not decode stays as it is, to be met when its batch is made."""
        try:
            return row._replace(image=resize_chip(decode_row(row), self._side))
        except RowError:
            return row


@lru_cache(maxsize=1)
def memory_rows(source: Source, part: Part, side: int) -> MemoryRows:
    """`MemoryRows` that later runs of this process share, so that they need not decode again."""
    return MemoryRows(source, part, side)


def stored_side(image_size: int, augmentation: Augmentation) -> int:
    """Side at which chips wait for augmentation: a seventh above the input's for resampling."""
    return image_size * 8 // 7 if augmentation.moves_pixels else image_size


def chunked(rows: Iterable[Row], size: int, *, skip: int = 0) -> Iterator[list[Row]]:
    """Full batches of rows after skipping the first `skip` batches; a short last one is dropped."""
    iterator = islice(rows, skip * size, None)
    while len(chunk := list(islice(iterator, size))) == size:
        yield chunk


class Draws:
    """Random numbers for every row of a batch, of which only some rows may be at hand.

    So a row is augmented alike whichever process has it, and whether its neighbours decode.
    """

    def __init__(self, generator: torch.Generator, rows: int, places: Tensor) -> None:
        """Draw for `rows` rows; `places` says which of them are at hand."""
        self._generator, self._rows, self._places = generator, rows, places

    def rand(self) -> Tensor:
        """One number in 0 to 1 for each row at hand."""
        return torch.rand(self._rows, generator=self._generator)[self._places]

    def uniform(self, amount: float) -> Tensor:
        """One number in -amount to amount for each row at hand."""
        return (self.rand() * 2 - 1) * amount


def _move(
    images: Tensor, side: int, aug: Augmentation, draws: Draws
) -> tuple[Tensor, Tensor | None]:
    """Mirror, turn, zoom and shift `(N, 3, H, W)` into `(N, 3, side, side)` by one resampling.

    Beyond its edge a picture's border is repeated. Also gives the share of each pixel that lies
    on the picture, `(N, 1, side, side)`, where a canvas will need it.
    """
    n = images.shape[0]
    angle = draws.uniform(math.radians(aug.rotation))
    zoom = 1 / (1 + draws.uniform(aug.scale))
    mirror = torch.where(draws.rand() < aug.flip, -1.0, 1.0)
    shift_x = draws.uniform(2 * aug.shift)
    shift_y = draws.uniform(2 * aug.shift)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack([mirror * cos, -sin, shift_x, mirror * sin, cos, shift_y], 1)
    grid = _grid(rows.view(n, 2, 3).to(images.device), side)
    # A few at a time stay in the caches: half the time of all at once.
    moved = [
        F.grid_sample(images[i : i + _FEW], grid[i : i + _FEW], "bilinear", "border", False)
        for i in range(0, n, _FEW)
    ]
    return torch.cat(moved), _inside(grid, images.shape[-1]) if aug.canvas > 0 else None


def _surround(views: Tensor, inside: Tensor, aug: Augmentation, draws: Draws) -> Tensor:
    """Some views laid on made-up colours, in place of the border that was repeated.

    Args:
        views: moved pictures `(N, 3, S, S)`, not changed.
        inside: share of each pixel that lies on the picture, `(N, 1, S, S)`.
        aug: how often.
        draws: source of the choice and the colours.
    """
    chosen = draws.rand() < aug.canvas
    # One colour by channel, and how far from it the four corners lie: plain to sloping.
    colour = torch.stack([draws.rand() for _ in range(3)], 1)[:, :, None]
    slope = torch.stack([draws.uniform(0.5) for _ in range(4)], 1)[:, None]
    corners = (colour + draws.rand().view(-1, 1, 1) * slope).clamp(0, 1).mul(255)
    corners = corners[chosen].view(-1, 3, 2, 2).to(views.device, views.dtype)
    places = chosen.nonzero()[:, 0].to(views.device)
    canvas = F.interpolate(corners, views.shape[-2:], mode="bilinear", align_corners=True)
    laid = views.clone()
    laid[places] = torch.lerp(canvas, views[places], inside[places])
    return laid


def _inside(grid: Tensor, width: int) -> Tensor:
    """Share of each sampled pixel that lies on a picture `width` pixels wide: `(N, 1, S, S)`."""
    # In pixels of the picture from its edge; half a pixel either way the edge fades.
    depth = (1 - grid.abs()) * (width / 2)
    return (depth + 0.5).clamp(0, 1).prod(3)[:, None]


def _grid(matrix: Tensor, side: int) -> Tensor:
    """What `F.affine_grid` gives for `(N, 2, 3)`, in a sixth of its time: `(N, side, side, 2)`."""
    steps = (torch.arange(side, device=matrix.device) * 2 + 1) / side - 1
    x, y = steps.view(1, 1, -1), steps.view(1, -1, 1)
    parts = matrix.reshape(-1, 6, 1, 1).unbind(1)
    across = x * parts[0] + (y * parts[1] + parts[2])
    down = x * parts[3] + (y * parts[4] + parts[5])
    return torch.stack([across, down], 3)


def _colour(images: Tensor, aug: Augmentation, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation of pixels in 0..255; one draw a picture."""

    def factor(amount: float) -> Tensor:
        drawn = 1 + draws.uniform(amount)
        return drawn.view(-1, 1, 1, 1).to(images.device)

    images = images * factor(aug.brightness)
    contrast = factor(aug.contrast)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = images.mul_(contrast).add_(mean * (1 - contrast))
    saturation = factor(aug.saturation)
    if aug.grey > 0:
        grey_ones = draws.rand() < aug.grey
        saturation = saturation.masked_fill(grey_ones.view(-1, 1, 1, 1).to(images.device), 0.0)
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    grey = (images * luma).sum(1, keepdim=True)
    return images.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 255)


def _erase(images: Tensor, aug: Augmentation, draws: Draws) -> Tensor:
    """Fill a rectangle of 2 to 15 % of the area with mid grey, with probability `aug.erase`."""
    n, _, height, width = images.shape
    chosen = draws.rand() < aug.erase
    area = 0.02 + 0.13 * draws.rand()
    ratio = torch.exp(draws.uniform(math.log(2.0)))
    tall, wide = (area * ratio).sqrt(), (area / ratio).sqrt()
    top = draws.rand() * (1 - tall)
    left = draws.rand() * (1 - wide)
    y = ((torch.arange(height) + 0.5) / height).view(1, -1, 1)
    x = ((torch.arange(width) + 0.5) / width).view(1, 1, -1)
    top, left, tall, wide = (v.view(-1, 1, 1) for v in (top, left, tall, wide))
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    mask = (inside & chosen.view(-1, 1, 1)).unsqueeze(1).to(images.device)
    return images.masked_fill(mask, 127.5)


def degrade(
    chip: NDArray[np.uint8], probability: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Lose detail as pictures on the web do: low resolution, blur, JPEG; each by chance.

    Args:
        chip: RGB uint8 `(S, S, 3)`; never changed in place.
        probability: of each of the three.
        rng: source of all draws.
    """
    chances, amounts = rng.random(3), rng.random(3)
    side = chip.shape[0]
    if chances[0] < probability:
        small = max(8, round(side * (0.2 + 0.3 * amounts[0])))
        chip = resize_chip(resize_chip(chip, small), side)
    if chances[1] < probability:
        sigma = side * (0.002 + 0.018 * amounts[1])
        chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), sigma), np.uint8)
    if chances[2] < probability:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(20 + 71 * amounts[2])]
        encoded = cv2.imencode(".jpg", chip[..., ::-1], quality)[1]
        chip = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
    return chip


class Views(NamedTuple):
    """Augmented pictures `(N, 3, S, S)`, and the same without a canvas (see `Batch`)."""

    images: Tensor
    plain: Tensor


def augment(
    images: Tensor,
    side: int,
    augmentation: Augmentation,
    generator: torch.Generator,
    *,
    rows: int | None = None,
    places: Tensor | None = None,
) -> Views:
    """Augment float pixels `(N, 3, H, W)` in 0..255 to `(N, 3, side, side)`.

    All randomness comes from the (CPU) generator, so the draws do not depend on the device.

    Args:
        images: of a whole batch, or of some of its rows.
        side: of the result.
        augmentation: what to do.
        generator: source of all draws.
        rows: of the whole batch; N by default.
        places: `(N,)` which of them `images` are; all by default.
    """
    count = len(images) if rows is None else rows
    draws = Draws(generator, count, torch.arange(count) if places is None else places)
    inside = None
    if augmentation.moves_pixels:
        images, inside = _move(images, side, augmentation, draws)
    if augmentation.colours_pixels:
        images = _colour(images, augmentation, draws)
    if augmentation.erase > 0:
        images = _erase(images, augmentation, draws)
    laid = images if inside is None else _surround(images, inside, augmentation, draws)
    return Views(laid, images)


def _chips(
    rows: list[Row], part: range, stored: int, degradation: float, rng: np.random.Generator
) -> tuple[dict[int, NDArray[np.uint8]], list[str]]:
    """Decoded chips of a part of a batch by place, and the names of rows that do not decode."""
    chips, skipped = {}, []
    for place, row in enumerate(rows):
        chip = None
        if place in part:
            try:
                chip = resize_chip(decode_row(row), stored)
            except RowError as error:
                skipped.append(error.file)
        if degradation > 0 and chip is None:
            # The draws of `degrade`: the next row's do not depend on this one's.
            rng.random(6)
        elif degradation > 0 and chip is not None:
            chip = degrade(chip, degradation, rng)
        if chip is not None:
            chips[place] = chip
    return chips, skipped


def training_batch(
    rows: list[Row],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    stored: int,
    generator: torch.Generator,
    device: torch.device,
    part: range | None = None,
) -> Batch:
    """One augmented batch, or a part of it; rows that do not decode are left out and named.

    Without augmentation it equals `Preprocessing.to_tensor` at the last stage's size. Chips
    pass through side `stored` whether they come from the stream or from memory, so a cache
    changes nothing.

    Args:
        rows: of the whole batch.
        preprocessing: of the network.
        augmentation: what to do to the chips.
        stored: side of the chips before it, see `stored_side`.
        generator: source of all draws.
        device: of the result.
        part: places of the rows that are wanted; all by default.

    Raises:
        DataError: when no row is left.
    """
    side = preprocessing.image_size
    before = stored if augmentation.moves_pixels else side
    rng = np.random.default_rng(0)
    if augmentation.degrade > 0:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    part = range(len(rows)) if part is None else part
    found, skipped = _chips(rows, part, stored, augmentation.degrade, rng)
    if not found:
        raise DataError(f"no row of a batch decodes: {', '.join(skipped)}")
    places = torch.tensor(list(found))
    chips = np.stack([resize_chip(chip, before) for chip in found.values()])
    pixels = torch.from_numpy(chips).to(device).permute(0, 3, 1, 2)
    pixels = pixels.to(torch.float32, memory_format=torch.channels_last)
    views = augment(pixels, side, augmentation, generator, rows=len(rows), places=places)
    images = preprocessing.normalize(views.images)
    plain = images if views.plain is views.images else preprocessing.normalize(views.plain)
    targets = torch.tensor([rows[place].targets for place in found]).to(device)
    return Batch(images, plain, targets, places, tuple(skipped))
