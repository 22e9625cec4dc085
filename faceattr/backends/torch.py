"""The network in PyTorch: pixels in, calibrated probabilities out."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from faceattr.arguments import require_device
from faceattr.model import FaceAttributeModel

CHUNK = 16
"""Faces that pass the network together.

Measured on two cores: 16 cost least a face, for either network at its own size and at 224 px. With
32 the maps between layers outgrow the caches and the 32 MB above which glibc returns memory to
the system at once and faults it in anew, up to twice as slow. With 16, raising glibc's thresholds
(as training does) gains nothing, so prediction leaves the process's allocator alone.
"""


def fold_batch_norms(model: FaceAttributeModel) -> FaceAttributeModel:
    """A copy for prediction with each batch norm folded into the convolution before it.

    A convolution's batch norm is the module that its parent registers next, as in `ConvNorm` and
    `DepthwiseSeparableConv`. Answers change by rounding only; the copy cannot be trained on.

    Raises:
        ValueError: when a batch norm does not follow a convolution.
    """
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (name, child), (next_name, following) in zip(children, children[1:], strict=False):
            if isinstance(child, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, following))
                setattr(parent, next_name, nn.Identity())
    left = [name for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"the batch norms {left} do not follow a convolution")
    return folded


_process = os.getpid()


def _survive_fork() -> None:
    """Compute with one thread in a forked child: OpenMP would wait for the parent's others."""
    global _process
    if _process != os.getpid():
        torch.set_num_threads(1)
        _process = os.getpid()


class TorchClassifier:
    """Answers with a folded, channels-last copy of a network; safe to call from threads.

    It can be pickled. In a forked child it computes with one thread.
    """

    name = "torch"

    def __init__(
        self,
        model: FaceAttributeModel,
        device: str | torch.device | None = None,
        threads: int | None = None,
    ) -> None:
        """Prepare a network.

        Args:
            model: the network; it is put into evaluation mode and onto the device.
            device: where it runs; the CPU by default.
            threads: that compute together, at least 1, in everything this process does with
                PyTorch; PyTorch's own choice if None.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = threads
        self.device = require_device(device)
        self.model = model.eval().to(self.device)
        self.config = model.config
        self._folded = fold_batch_norms(self.model).to(memory_format=torch.channels_last)

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Calibrated probabilities `(N, classes)` by task, in the order of `faceattr.labels`.

        Args:
            pixels: RGB uint8 `(N, image_size, image_size, 3)`, N at least 1.
        """
        _survive_fork()
        parts: dict[str, list[NDArray[np.float32]]] = {}
        with torch.inference_mode():
            for start in range(0, len(pixels), CHUNK):
                # Channels-last already: the pictures are stored so.
                batch = torch.from_numpy(pixels[start : start + CHUNK]).to(self.device)
                images = self.config.preprocessing.normalize(batch.permute(0, 3, 1, 2).float())
                for name, values in self._folded.probabilities(images).items():
                    parts.setdefault(name, []).append(values.cpu().numpy())
        return {name: np.concatenate(found) for name, found in parts.items()}
