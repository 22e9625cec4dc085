"""Rows to batches: decode, keep in memory if asked, augment, normalise.

On the CPU each picture is augmented by itself, on bytes: one resampling for all that moves pixels,
one matrix for all that changes colours. On other devices the whole batch is, in float; both apply
the same draws, and agree but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from faceattr.preprocessing import Preprocessing, resize_chip
from train.data.source import DataError, Part, Row, RowError, Rows, Source
from train.recipe import Augmentation

_FEW = 8
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_LUMA = (0.299, 0.587, 0.114)
_GREY = 127.5
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""By reduction; OpenCV's "reduced" flags without a colour are called grey."""


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


def decode_row(row: Row, side: int | None = None) -> NDArray[np.uint8]:
    """The row's picture as RGB uint8 `(H, W, 3)`.

    Args:
        row: encoded, or decoded already.
        side: what is wanted at least; a JPEG file is then decoded at the smallest of 1/1, 1/2, 1/4
            and 1/8 that gives it, for less time. A FairFace chip decoded at 1/2 differs from one
            halved by averaging by 0.4 grey levels in the mean, and is as sharp.

    Raises:
        RowError: naming a row that does not decode.
    """
    if isinstance(row.image, np.ndarray):
        return row.image
    reduction = 1 if side is None else _reduction(_jpeg_side(row.image), side)
    encoded = np.frombuffer(row.image, np.uint8)
    flags = cv2.IMREAD_COLOR_RGB | _REDUCED[reduction]
    chip = cv2.imdecode(encoded, flags) if encoded.size else None
    if chip is None:
        raise RowError(row.file, encoded.size)
    return np.asarray(chip, np.uint8)


def _reduction(stored: int, side: int) -> int:
    return next((r for r in (8, 4, 2) if stored >= r * side), 1)


def _jpeg_side(content: bytes) -> int:
    """Shorter side in pixels, from the header (ITU-T T.81, B.2.2); 0 where that does not say."""
    place = 2 if content[:2] == b"\xff\xd8" else len(content)
    while place + 9 <= len(content) and content[place] == 0xFF:
        # Baseline, extended and progressive frames; others are not for OpenCV.
        if 0xC0 <= content[place + 1] <= 0xC2:
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            return min(height, int.from_bytes(content[place + 7 : place + 9], "big"))
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 0


class MemoryRows(Rows):
    """Rows decoded once, at `side` pixels or more, and kept; the order is that of the stream."""

    def __init__(self, source: Source, part: Part, side: int) -> None:
        super().__init__(source, part)
        self._side = side
        self._kept: dict[int, list[Row]] = {}

    def shard(self, index: int) -> Iterator[Row]:
        """Rows of one shard, from memory after they were read to the end once."""
        if index in self._kept:
            yield from self._kept[index]
            return
        rows = []
        for row in super().shard(index):
            rows.append(self._decoded(row))
            yield rows[-1]
        self._kept[index] = rows

    def _decoded(self, row: Row) -> Row:
        """A row that does not decode stays as it is, to be met when its batch is made."""
        try:
            return row._replace(image=decode_row(row, self._side))
        except RowError:
            return row


@lru_cache(maxsize=1)
def memory_rows(source: Source, part: Part, side: int) -> MemoryRows:
    """`MemoryRows` that later runs of this process share, so that they need not decode again."""
    return MemoryRows(source, part, side)


class Changes(NamedTuple):
    """What was drawn for each of N pictures; None for what the recipe leaves alone.

    Attributes:
        moves: `(N, 2, 3)`, from places in the result to those in the picture, both -1 to 1.
        colours: `(N, 3)`, factors of brightness, contrast and saturation.
        boxes: `(N, 4)`, top, left, bottom and right of the grey rectangle, 0 to 1; zeros for none.
        laid: `(M,)`, which pictures are laid on a canvas where they have moved away.
        corners: `(M, 3, 2, 2)`, colours of its corners, 0 to 255.
    """

    moves: Tensor | None
    colours: Tensor | None
    boxes: Tensor | None
    laid: Tensor | None
    corners: Tensor | None


class Views(NamedTuple):
    """Augmented pictures `(N, 3, S, S)`, and the same without a canvas (see `Batch`)."""

    images: Tensor
    plain: Tensor


def draw(
    augmentation: Augmentation, generator: torch.Generator, rows: int, places: Tensor | None = None
) -> Changes:
    """Draw the changes of a batch, of which only some rows may be at hand.

    Numbers are drawn for all rows, on the CPU, so a row is changed alike whichever process has it,
    whether its neighbours decode, and on every device.

    Args:
        augmentation: how much may change.
        generator: source of all draws.
        rows: of the whole batch.
        places: `(N,)` which of them are at hand; all by default.
    """
    own = torch.arange(rows) if places is None else places

    def rand() -> Tensor:
        return torch.rand(rows, generator=generator)[own]

    def uniform(amount: float) -> Tensor:
        return (rand() * 2 - 1) * amount

    moves = colours = boxes = laid = corners = None
    if augmentation.moves_pixels:
        moves = _drawn_moves(augmentation, rand, uniform)
    if augmentation.colours_pixels:
        amounts = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
        colours = torch.stack([1 + uniform(amount) for amount in amounts], 1)
        if augmentation.grey > 0:
            colours[rand() < augmentation.grey, 2] = 0.0
    if augmentation.erase > 0:
        boxes = _drawn_boxes(augmentation, rand, uniform)
    if augmentation.canvas > 0 and moves is not None:
        laid, corners = _drawn_canvas(augmentation, rand, uniform)
    return Changes(moves, colours, boxes, laid, corners)


def _drawn_moves(
    aug: Augmentation, rand: Callable[[], Tensor], uniform: Callable[[float], Tensor]
) -> Tensor:
    angle = uniform(math.radians(aug.rotation))
    zoom = 1 / (1 + uniform(aug.scale))
    mirror = torch.where(rand() < aug.flip, -1.0, 1.0)
    shift_x, shift_y = uniform(2 * aug.shift), uniform(2 * aug.shift)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    values = torch.stack([mirror * cos, -sin, shift_x, mirror * sin, cos, shift_y], 1)
    return values.view(-1, 2, 3)


def _drawn_boxes(
    aug: Augmentation, rand: Callable[[], Tensor], uniform: Callable[[float], Tensor]
) -> Tensor:
    chosen = rand() < aug.erase
    area = 0.02 + 0.13 * rand()
    ratio = torch.exp(uniform(math.log(2.0)))
    tall, wide = (area * ratio).sqrt(), (area / ratio).sqrt()
    top, left = rand() * (1 - tall), rand() * (1 - wide)
    return torch.stack([top, left, top + tall, left + wide], 1) * chosen.view(-1, 1)


def _drawn_canvas(
    aug: Augmentation, rand: Callable[[], Tensor], uniform: Callable[[float], Tensor]
) -> tuple[Tensor, Tensor]:
    chosen = rand() < aug.canvas
    # One colour by channel, and how far from it the four corners lie: plain to sloping.
    colour = torch.stack([rand() for _ in range(3)], 1)[:, :, None]
    slope = torch.stack([uniform(0.5) for _ in range(4)], 1)[:, None]
    corners = (colour + rand().view(-1, 1, 1) * slope).clamp(0, 1).mul(255)
    return chosen.nonzero()[:, 0], corners[chosen].view(-1, 3, 2, 2)


def augment(images: Tensor, side: int, changes: Changes) -> Views:
    """Change float pixels `(N, 3, H, W)` in 0..255 to `(N, 3, side, side)`, on any device."""
    width = images.shape[-1]
    if changes.moves is not None:
        images = _move(images, side, changes.moves)
    if changes.colours is not None:
        images = _colour(images, changes.colours.to(images.device))
    if changes.boxes is not None:
        images = _erase(images, changes.boxes)
    if changes.moves is None or changes.laid is None or changes.corners is None:
        return Views(images, images)
    grid = _grid(changes.moves[changes.laid].to(images.device), side)
    return _surround(images, changes.laid, changes.corners, _inside(grid, width))


def _move(images: Tensor, side: int, moves: Tensor) -> Tensor:
    """Mirror, turn, zoom and shift by one resampling; beyond its edge a border is repeated."""
    grid = _grid(moves.to(images.device), side)
    # A few at a time stay in the caches: half the time of all at once.
    moved = [
        F.grid_sample(images[i : i + _FEW], grid[i : i + _FEW], "bilinear", "border", False)
        for i in range(0, len(images), _FEW)
    ]
    return torch.cat(moved)


def _grid(matrix: Tensor, side: int) -> Tensor:
    """What `F.affine_grid` gives for `(N, 2, 3)`, in a sixth of its time: `(N, side, side, 2)`."""
    steps = (torch.arange(side, device=matrix.device) * 2 + 1) / side - 1
    x, y = steps.view(1, 1, -1), steps.view(1, -1, 1)
    parts = matrix.reshape(-1, 6, 1, 1).unbind(1)
    across = x * parts[0] + (y * parts[1] + parts[2])
    down = x * parts[3] + (y * parts[4] + parts[5])
    return torch.stack([across, down], 3)


def _colour(images: Tensor, colours: Tensor) -> Tensor:
    """Brightness, contrast and saturation of pixels in 0..255; one draw a picture."""
    brightness, contrast, saturation = colours.view(-1, 3, 1, 1, 1).unbind(1)
    images = images * brightness
    mean = images.mean((1, 2, 3), keepdim=True)
    images = images.mul_(contrast).add_(mean * (1 - contrast))
    luma = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    grey = (images * luma).sum(1, keepdim=True)
    return images.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 255)


def _erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill rectangles with mid grey."""
    height, width = images.shape[2:]
    y = ((torch.arange(height) + 0.5) / height).view(1, -1, 1)
    x = ((torch.arange(width) + 0.5) / width).view(1, 1, -1)
    top, left, bottom, right = boxes.view(-1, 4, 1, 1).unbind(1)
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return images.masked_fill(inside.unsqueeze(1).to(images.device), _GREY)


def _surround(views: Tensor, laid: Tensor, corners: Tensor, inside: Tensor) -> Views:
    """Lay some views on made-up colours, in place of the border that was repeated.

    Args:
        views: moved pictures `(N, 3, S, S)`, not changed.
        laid: `(M,)` which of them.
        corners: `(M, 3, 2, 2)` colours of the canvas.
        inside: share of each pixel that lies on the picture, `(M, 1, S, S)`.
    """
    places, corners = laid.to(views.device), corners.to(views.device)
    canvas = F.interpolate(corners, views.shape[-2:], mode="bilinear", align_corners=True)
    images = views.clone()
    images[places] = torch.lerp(canvas, views[places], inside)
    return Views(images, views)


def _inside(grid: Tensor, width: int) -> Tensor:
    """Share of each sampled pixel that lies on a picture `width` pixels wide: `(N, 1, S, S)`."""
    # In pixels of the picture from its edge; half a pixel either way the edge fades.
    depth = (1 - grid.abs()) * (width / 2)
    return (depth + 0.5).clamp(0, 1).prod(3)[:, None]


def augment_chips(
    chips: Sequence[NDArray[np.uint8]], side: int, changes: Changes, preprocessing: Preprocessing
) -> Views:
    """What `augment` does, on the CPU and picture by picture, and normalise.

    Positions are rounded to 1/32 pixel and pixels to whole grey levels, after moving and after
    colouring.

    Args:
        chips: RGB uint8 of any size.
        side: of the result.
        changes: of these chips.
        preprocessing: gives the normalisation.

    Returns:
        `(N, 3, side, side)` float.
    """
    pixels = np.empty((len(chips), side, side, 3), np.uint8)
    moves = None if changes.moves is None else _sampling(changes.moves, chips, side)
    for index, chip in enumerate(chips):
        if moves is None:
            pixels[index] = resize_chip(chip, side)
        else:
            cv2.warpAffine(
                chip, moves[index], (side, side), pixels[index], _WARP, cv2.BORDER_REPLICATE
            )
    if changes.colours is not None:
        for picture, matrix in zip(pixels, _colour_matrices(changes.colours, pixels), strict=True):
            cv2.transform(picture, matrix, picture)
    images = preprocessing.from_pixels(pixels)
    if changes.boxes is not None:
        grey = preprocessing.normalize(torch.full((1, 3, 1, 1), _GREY))[0]
        for index, box in enumerate((changes.boxes * side - 0.5).ceil().int().tolist()):
            top, left, bottom, right = box
            images[index, :, top:bottom, left:right] = grey
    if moves is None or changes.laid is None or changes.corners is None:
        return Views(images, images)
    shares = np.empty((len(changes.laid), 1, side, side), np.uint8)
    for share, index in zip(shares, changes.laid.tolist(), strict=True):
        white = np.full(chips[index].shape[:2], 255, np.uint8)
        cv2.warpAffine(white, moves[index], (side, side), share[0], _WARP, cv2.BORDER_CONSTANT)
    corners = preprocessing.normalize(changes.corners)
    return _surround(images, changes.laid, corners, torch.from_numpy(shares) / 255)


def _sampling(moves: Tensor, chips: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.float64]:
    """`Changes.moves` as OpenCV has it: `(N, 2, 3)`, from pixels of the result to the chips'."""
    half = np.array([chip.shape[1::-1] for chip in chips])[..., None] / 2
    matrix = moves.numpy().astype(np.float64)
    # OpenCV counts from pixel centres: -1 to 1 is -0.5 to S - 0.5.
    matrix[..., 2:] += matrix[..., :2].sum(2, keepdims=True) * (1 / side - 1)
    matrix[..., 2:] = half * (matrix[..., 2:] + 1) - 0.5
    matrix[..., :2] *= half * 2 / side
    return matrix


def _colour_matrices(colours: Tensor, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`Changes.colours` as one matrix a picture, `(N, 3, 4)`: what `_colour` does step by step."""
    brightness, contrast, saturation = colours.double().numpy().T[..., None, None]
    means = np.array([sum(cv2.sumElems(picture)) for picture in pixels]) / pixels[0].size
    grey = (1 - saturation) * np.broadcast_to(_LUMA, (3, 3))
    matrix = brightness * contrast * (saturation * np.eye(3) + grey)
    offset = brightness * (1 - contrast) * means[:, None, None]
    return np.concatenate([matrix, np.broadcast_to(offset, (len(pixels), 3, 1))], 2)


def augment_together(
    chips: Sequence[NDArray[np.uint8]],
    side: int,
    changes: Changes,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Views:
    """What `augment_chips` does, for all at once on another device."""
    before = side if changes.moves is None else max(chip.shape[0] for chip in chips)
    pixels = torch.from_numpy(np.stack([resize_chip(chip, before) for chip in chips]))
    raw = augment(pixels.to(device).permute(0, 3, 1, 2).float(), side, changes)
    images = preprocessing.normalize(raw.images)
    same = raw.plain is raw.images
    return Views(images, images if same else preprocessing.normalize(raw.plain))


def degrade(
    chip: NDArray[np.uint8], ways: Sequence[bool], amounts: Sequence[float], largest: int
) -> NDArray[np.uint8]:
    """Lose detail as pictures on the web do: low resolution, blur, JPEG.

    Args:
        chip: RGB uint8 `(S, S, 3)`; never changed in place.
        ways: whether to do each of the three.
        amounts: how much, 0 to 1.
        largest: side to which a larger chip is brought first, so that the loss does not depend on
            how the decoder left it.
    """
    side = min(chip.shape[0], largest)
    chip = resize_chip(chip, side)
    if ways[0]:
        small = max(8, round(side * (0.2 + 0.3 * amounts[0])))
        chip = resize_chip(resize_chip(chip, small), side)
    if ways[1]:
        sigma = side * (0.002 + 0.018 * amounts[1])
        chip = np.asarray(cv2.GaussianBlur(chip, (0, 0), sigma), np.uint8)
    if ways[2]:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(20 + 71 * amounts[2])]
        encoded = cv2.imencode(".jpg", cv2.cvtColor(chip, cv2.COLOR_RGB2BGR), quality)[1]
        chip = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)
    return chip


def _chips(
    rows: Sequence[Row | None], part: range, stored: int
) -> tuple[dict[int, NDArray[np.uint8]], list[str]]:
    """Decoded chips of a part of a batch by place, and the names of rows that do not decode."""
    chips, skipped = {}, []
    for place in part:
        if (row := rows[place]) is not None:
            try:
                chips[place] = decode_row(row, stored)
            except RowError as error:
                skipped.append(error.file)
    return chips, skipped


def _degrade_some(
    chips: dict[int, NDArray[np.uint8]], rows: int, probability: float, seed: int, largest: int
) -> None:
    """Degrade chips in place of those drawn; the draws of a row do not depend on the others."""
    drawn = np.random.default_rng(seed).random((rows, 2, 3))
    chosen = drawn[:, 0] < probability
    for place in np.flatnonzero(chosen.any(1)).tolist():
        if place in chips:
            chips[place] = degrade(chips[place], chosen[place], drawn[place, 1], largest)


def training_batch(
    rows: Sequence[Row | None],
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    stored: int,
    generator: torch.Generator,
    device: torch.device,
    part: range | None = None,
) -> Batch:
    """One augmented batch, or a part of it; rows that do not decode are left out and named.

    Without augmentation it is what `Preprocessing.to_tensor` gives for the same chips. They are
    decoded at `stored` pixels or more, whether they come from the stream or from memory, so a cache
    changes nothing.

    Args:
        rows: of the whole batch; None for those that this process does not read.
        preprocessing: of the network.
        augmentation: what to do to the chips.
        stored: largest input side of the run.
        generator: source of all draws.
        device: of the result.
        part: places of the rows that are wanted; all by default.

    Raises:
        DataError: when no row is left.
    """
    side = preprocessing.image_size
    found, skipped = _chips(rows, range(len(rows)) if part is None else part, stored)
    if not found:
        raise DataError(f"no row of a batch decodes: {', '.join(skipped)}")
    if augmentation.degrade > 0:
        seed = int(torch.randint(2**62, (), generator=generator))
        # A seventh above the network's side, as recipes were chosen with.
        _degrade_some(found, len(rows), augmentation.degrade, seed, stored * 8 // 7)
    places = torch.tensor(list(found))
    changes = draw(augmentation, generator, len(rows), places)
    chips = list(found.values())
    if device.type == "cpu":
        views = augment_chips(chips, side, changes, preprocessing)
    else:
        views = augment_together(chips, side, changes, preprocessing, device)
    targets = torch.tensor([row.targets for row in map(rows.__getitem__, found) if row])
    return Batch(*views, targets.to(device), places, tuple(skipped))
