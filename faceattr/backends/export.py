"""Write `model.onnx` beside weights: `faceattr export FOLDER...`.

The file needs nothing else: it takes RGB pixels `(N, S, S, 3)` of face chips, uint8 0 to 255, and
gives calibrated probabilities `(N, classes)` by task; normalisation, softmax and temperatures are
inside. Its metadata names the classes, the thresholds, S (`image_size`), the config without the
facts of the training, and the SHA-256 of the weights. Run it again whenever `model.safetensors` or
`config.json` change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceattr import labels
from faceattr.backends.torch import fold_batch_norms
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.errors import WeightsError, how_to_install
from faceattr.hub import find_weights
from faceattr.model import FaceAttributeModel, load_files

OPSET = 18
_LARGE = 256
"""Numbers from which a constant is worth a cast."""


class _SelfContained(nn.Module):
    """Pixels to probabilities, all in one graph."""

    def __init__(self, model: FaceAttributeModel) -> None:
        super().__init__()
        self.network = fold_batch_norms(model)
        self.preprocessing = model.config.preprocessing
        self.order = {task.name: _order(model.config, task) for task in labels.TASKS}
        self.temperatures = dict(model.config.temperatures)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """RGB `(N, S, S, 3)` uint8 to `(N, classes)` for each task of `labels.TASKS`."""
        images = self.preprocessing.normalize(pixels.permute(0, 3, 1, 2).float())
        logits: Mapping[str, Tensor] = self.network(images)
        answers = []
        for task in labels.TASKS:
            answer = (logits[task.name] / self.temperatures[task.name]).softmax(1)
            order = self.order[task.name]
            in_order = order == sorted(order)
            answers.append(answer if in_order else answer[:, torch.tensor(order)])
        return tuple(answers)


def _order(config: ModelConfig, task: labels.Task) -> list[int]:
    """For each of our classes, its place among the logits."""
    places = task.indices(config.classes[task.name])
    return [places.index(position) for position in range(len(task.classes))]


def _is_half(model: nn.Module) -> bool:
    """Whether float16 holds all weights exactly, as it does when they were stored so."""
    return all(torch.equal(p, p.half().float()) for p in model.parameters())


def _halve(graph: Any) -> None:
    """Store large constants in float16, with a cast to float32 that is done once, on loading.

    Batch norms are folded into them before, so answers differ by that rounding: of 2,000
    faces by 0.0094 at most (`FaceAttrNetLarge`; `FaceAttrNet` 0.0035).
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _LARGE:
            continue
        half, name = numpy_helper.to_array(tensor).astype(np.float16), tensor.name
        if np.isfinite(half).all():
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def metadata(config: ModelConfig, weights_sha256: str) -> dict[str, str]:
    """What the file says of itself: plain strings, JSON where there is structure."""
    return {
        "classes": json.dumps({task.name: task.classes for task in labels.TASKS}),
        "thresholds": json.dumps(dict(config.thresholds)),
        "image_size": str(config.preprocessing.image_size),
        "weights_sha256": weights_sha256,
        "config": json.dumps(config.replace(training={}).to_dict(), ensure_ascii=False),
    }


def export(folder: str | Path) -> Path:
    """Write `model.onnx` into a weights folder; returns its path.

    Raises:
        WeightsError: when the weights do not load, or the exporter is not installed.
    """
    files = find_weights(Path(folder))
    model = load_files(files)
    digest = hashlib.sha256(files.weights.read_bytes()).hexdigest()
    try:
        import onnx
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise WeightsError(
            f"exporting needs onnx and onnxscript; run {how_to_install('export')}"
        ) from error
    side = model.config.preprocessing.image_size
    target = files.weights.with_name(ONNX_NAME)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        plain = Path(scratch) / ONNX_NAME
        example = {"pixels": torch.zeros(2, side, side, 3, dtype=torch.uint8)}
        to_onnx(_SelfContained(model).eval(), example, [t.name for t in labels.TASKS], plain)
        graph = onnx.load(plain)
        onnx.helper.set_model_props(graph, metadata(model.config, digest))
        _forget_places(graph)
        if _is_half(model):
            _halve(graph)
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, plain)
        plain.replace(target)
    return target


def to_onnx(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path
) -> None:
    """Write a network as ONNX, quietly, with a free number of rows.

    Args:
        network: in evaluation mode.
        inputs: an example by name, two rows each: one would be taken for a fixed axis.
        outputs: names of what it returns.
        path: of the file.
    """
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    free = {0: torch.export.Dim("faces", min=1)}
    try:
        with warnings.catch_warnings():
            # The exporter warns of its own internals.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                path,
                input_names=list(inputs),
                output_names=outputs,
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=tuple(free for _ in inputs),
                external_data=False,
                verbose=False,
            )
    finally:
        noisy.setLevel(level)


def _forget_places(graph: object) -> None:
    """Drop the stack traces that the exporter keeps with each node: they name files here."""
    for part in (graph.graph, *graph.functions):  # type: ignore[attr-defined]
        for node in part.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in getattr(part, "value_info", ()):
            value.ClearField("metadata_props")
