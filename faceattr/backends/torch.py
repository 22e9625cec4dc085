"""The network in PyTorch: pixels in, calibrated probabilities out."""

from __future__ import annotations

import copy
import os
from typing import Any

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


_home = _process = os.getpid()


def _survive_fork() -> None:
    """Compute with one thread in a forked child: OpenMP would wait for the parent's others."""
    global _process
    if _process != os.getpid():
        torch.set_num_threads(1)
        _home = _process = os.getpid()


def _state(model: nn.Module) -> list[tuple[int, int]]:
    """What differs once a parameter or a buffer has been replaced or changed in place."""
    return [
        # Tensors of inference mode count no changes.
        (id(tensor), 0 if tensor.is_inference() else tensor._version)
        for part in model.modules()
        # Not `parameters()`, which takes twice as long: this is done on every call.
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    ]


class TorchClassifier:
    """Answers with a folded, channels-last copy of a network; safe to call from threads.

    The copy follows changes of the network's parameters, but not those made through `.data`.
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
        self._folded = self._fold()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_folded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A forked child stays at one thread.
        if self.threads is not None and _home == os.getpid():
            torch.set_num_threads(self.threads)
        self._folded = self._fold()

    def _fold(self) -> tuple[list[tuple[int, int]], FaceAttributeModel]:
        """The network's state and its folded copy."""
        # Before the copy: a change meanwhile must not pass for known.
        state = _state(self.model)
        folded = fold_batch_norms(self.model).to(self.device)
        return state, folded.to(memory_format=torch.channels_last)

    def _current(self) -> FaceAttributeModel:
        """The folded copy, made anew where the network has changed since."""
        if self._folded[0] != _state(self.model):
            self._folded = self._fold()
        return self._folded[1]

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Calibrated probabilities `(N, classes)` by task, in the order of `faceattr.labels`.

        Args:
            pixels: RGB uint8 `(N, image_size, image_size, 3)`, N at least 1.
        """
        _survive_fork()
        network = self._current()
        parts: dict[str, list[NDArray[np.float32]]] = {}
        with torch.inference_mode():
            for start in range(0, len(pixels), CHUNK):
                # Channels-last already: the pictures are stored so.
                batch = torch.from_numpy(pixels[start : start + CHUNK]).to(self.device)
                images = self.config.preprocessing.normalize(batch.permute(0, 3, 1, 2).float())
                for name, values in network.probabilities(images).items():
                    parts.setdefault(name, []).append(values.cpu().numpy())
        return {name: np.concatenate(found) for name, found in parts.items()}
