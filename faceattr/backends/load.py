"""Weights to what answers with them, by ONNX Runtime or PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from faceattr.arguments import refuse_idle
from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.errors import WeightsError, how_to_install
from faceattr.hub import AbsentFileError, WeightsFiles, find_weights

if TYPE_CHECKING:
    import torch

    from faceattr.model import FaceAttributeModel

Backend = Literal["torch", "onnx", "auto"]


@runtime_checkable
class Classifier(Protocol):
    """A network with all that surrounds it; `TorchClassifier` and `OnnxClassifier` are ones.

    Attributes:
        name: "torch" or "onnx".
        config: what travels with the weights.
    """

    name: str
    config: ModelConfig

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """RGB chips `(N, image_size, image_size, 3)` to probabilities `(N, classes)` by task."""
        ...


def as_classifier(
    model: FaceAttributeModel | Classifier, device: str | torch.device | None
) -> Classifier:
    """What already answers as it is, and a network in PyTorch on a device.

    Raises:
        ArgumentError: for a device where it would change nothing.
    """
    if isinstance(model, Classifier):
        idle = {f"device={str(device)!r}": device is not None}
        refuse_idle(idle, "on what already answers where it is; leave it out")
        return model
    # Imported here: with ONNX Runtime PyTorch is never loaded.
    from faceattr.backends.torch import TorchClassifier

    return TorchClassifier(model, device)


def load_classifier(
    model: str | Path | None,
    revision: str | None,
    device: str | torch.device | None,
    backend: str,
    threads: int | None,
) -> tuple[WeightsFiles, Classifier]:
    """See `FacePipeline.from_pretrained`."""
    on_cpu = str(device or "cpu").partition(":")[0] == "cpu"
    if backend not in ("torch", "onnx", "auto"):
        raise WeightsError(f"expected the backend 'torch', 'onnx' or 'auto', came {backend!r}")
    if backend == "onnx" and not on_cpu:
        raise WeightsError(f"the backend 'onnx' runs on the CPU, but device {device!r} was given")
    if backend == "torch":
        why_torch = "backend 'torch' was asked for"
    elif not on_cpu:
        why_torch = f"device {device!r} was given"
    else:
        try:
            exported = find_weights(model, revision=revision, file=ONNX_NAME)
        except AbsentFileError as error:
            if backend == "onnx":
                raise
            why_torch = f"no {ONNX_NAME} was found ({error})"
        else:
            return exported, OnnxClassifier(exported, threads)
    files = find_weights(model, revision=revision)
    try:
        # Imported here: with ONNX Runtime PyTorch is never loaded.
        from faceattr.backends.torch import TorchClassifier
        from faceattr.model import load_files
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise WeightsError(
            f"{why_torch}, which needs PyTorch; run {how_to_install('torch')}"
        ) from error
    return files, TorchClassifier(load_files(files), device, threads)
