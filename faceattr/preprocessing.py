"""From an aligned chip to the network's input; the settings travel with the weights.

Training, evaluation, the pipeline and the page all go through this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr.errors import WeightsError

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FEW = 8


def resize_chip(chip: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an RGB uint8 chip to `(side, side, 3)`; area averaging when it shrinks."""
    if chip.shape[:2] == (side, side):
        return chip
    shrinks = min(chip.shape[:2]) >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[np.uint8] = cv2.resize(chip, (side, side), interpolation=method)
    return resized


@dataclass(frozen=True)
class Preprocessing:
    """How a chip becomes a tensor.

    Attributes:
        image_size: side of the network's input in pixels.
        mean: per channel (RGB), of values in 0 to 1 (report, section 3.2.2: ImageNet's).
        std: per channel (RGB), of values in 0 to 1.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if type(self.image_size) is not int or not 16 <= self.image_size <= 1024:
            raise WeightsError(
                f"image_size must be a whole number from 16 to 1024, came {self.image_size!r}"
            )
        numbers = (*self.mean, *self.std)
        finite = all(isinstance(n, float | int) and math.isfinite(n) for n in numbers)
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise WeightsError("mean and std must hold three finite numbers, std above zero")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read `config.json`'s section.

        Raises:
            WeightsError: for unknown or missing keys.
        """
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise WeightsError(
                f"preprocessing: expected the keys {sorted(known)}, came {sorted(values)}"
            )
        return cls(values["image_size"], tuple(values["mean"]), tuple(values["std"]))

    def to_dict(self) -> dict[str, Any]:
        """The section of `config.json`."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def to_pixels(self, chips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """RGB uint8 chips of any size to a batch `(N, image_size, image_size, 3)`."""
        return np.stack([resize_chip(chip, self.image_size) for chip in chips])

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale float pixels `(N, 3, H, W)` from 0..255 to zero mean and unit variance."""
        import torch

        mean = torch.tensor(self.mean, device=pixels.device) * 255
        std = torch.tensor(self.std, device=pixels.device) * 255
        # Channels-last pixels go row by row: an inner loop over three channels is far slower.
        rows = pixels.permute(0, 2, 3, 1)
        if not rows.is_contiguous():
            return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        width = rows.shape[2]
        flat = (rows.flatten(2) - mean.repeat(width)).div_(std.repeat(width))
        return flat.view(rows.shape).permute(0, 3, 1, 2)

    def to_tensor(self, chips: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """RGB uint8 chips of any size to a float batch `(N, 3, image_size, image_size)`."""
        return self.from_pixels(self.to_pixels(chips))

    def from_pixels(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """RGB uint8 `(N, S, S, 3)` to a float batch `(N, 3, S, S)`, as `normalize` gives it."""
        # PyTorch is imported where it is needed: ONNX Runtime does without.
        import torch

        images = torch.empty(pixels.shape)
        mean = (torch.tensor(self.mean) * 255).repeat(pixels.shape[2])
        std = (torch.tensor(self.std) * 255).repeat(pixels.shape[2])
        # A few at a time stay in the caches.
        for start in range(0, len(pixels), _FEW):
            few = images[start : start + _FEW].copy_(torch.from_numpy(pixels[start : start + _FEW]))
            few.flatten(2).sub_(mean).div_(std)
        return images.permute(0, 3, 1, 2)
