"""The network in ONNX Runtime: the same answers, without PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.config import ONNX_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.errors import WeightsError
from faceattr.hub import WeightsFiles, read_config

CHUNK = 8
"""Faces that pass the network together, fewer than in PyTorch (see `scripts/benchmark.py`)."""


def _threads() -> int:
    """As many as PyTorch would use: `OMP_NUM_THREADS`, or the CPUs this process may run on."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def session(path: Path) -> Any:
    """ONNX Runtime's session for a file, on the CPU.

    Raises:
        WeightsError: without ONNX Runtime, and for a file that it cannot read.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(
            "backend 'onnx' needs ONNX Runtime; install it with pip install 'faceattr[onnx]', "
            "or use backend='torch'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    # Threads that wait for work would otherwise keep a core busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime raises its own types, which share no base but this.
    except Exception as error:
        raise WeightsError(
            f"{path.name} is damaged or no ONNX file ({type(error).__name__}); "
            "download it again, or write it with `python -m faceattr.backends.export`"
        ) from error


class OnnxClassifier:
    """Answers with `model.onnx`, which holds normalisation, softmax and temperatures."""

    name = "onnx"

    def __init__(self, files: WeightsFiles) -> None:
        """Load the file and compare what it says of itself with what lies beside it.

        Args:
            files: `config.json`, and `model.onnx` as its weights.

        Raises:
            WeightsError: without ONNX Runtime, for a damaged file, and for one that was exported
                from another config or other weights.
        """
        self.config: ModelConfig = read_config(files)
        self._session = session(files.weights)
        facts = self._session.get_modelmeta().custom_metadata_map
        try:
            exported = ModelConfig.from_dict(json.loads(facts["config"]))
            digest = facts["weights_sha256"]
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"{ONNX_NAME} of {files.name!r} lacks the metadata that `python -m "
                "faceattr.backends.export` writes; export it again"
            ) from error
        original = files.weights.with_name(WEIGHTS_NAME)
        same = not original.is_file() or (
            hashlib.sha256(original.read_bytes()).hexdigest() == digest
        )
        if exported.to_dict() != self.config.to_dict() or not same:
            raise WeightsError(
                f"{ONNX_NAME} of {files.name!r} was exported from another "
                f"{'config.json' if same else WEIGHTS_NAME}; export it again with "
                "`python -m faceattr.backends.export`"
            )

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Calibrated probabilities `(N, classes)` by task, in the order of `faceattr.labels`.

        Args:
            pixels: RGB uint8 `(N, image_size, image_size, 3)`, N at least 1.
        """
        names = [output.name for output in self._session.get_outputs()]
        chunks = [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
        parts = [self._session.run(names, {"pixels": chunk}) for chunk in chunks]
        columns = zip(*parts, strict=True)
        return {name: np.concatenate(found) for name, found in zip(names, columns, strict=True)}
