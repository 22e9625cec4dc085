"""The network in ONNX Runtime: the same answers, without PyTorch."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.config import ONNX_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.errors import WeightsError
from faceattr.hub import WeightsFiles, read_config

CHUNK = 8
"""Faces that pass the network together, fewer than in PyTorch (see `scripts/benchmark.py`)."""


def runtime() -> Any:
    """The module `onnxruntime`, with its telemetry off; whoever needs it takes it from here.

    The wheels on the registry send events unless an environment variable forbids it before the
    import: the switch that the module offers comes too late for the files that the import itself
    writes (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md).

    Raises:
        WeightsError: where ONNX Runtime is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(
            f"backend 'onnx' needs ONNX Runtime ({error}); install it with "
            "pip install onnxruntime, or use backend='torch'"
        ) from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def usable_cpus() -> int:
    """As many as PyTorch would use: `OMP_NUM_THREADS`, or the CPUs this process may run on."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def session(content: bytes, name: str, threads: int | None = None) -> Any:
    """ONNX Runtime's session for the content of a file, on the CPU.

    Args:
        content: of the file.
        name: of the file, for messages.
        threads: that compute together; `usable_cpus()` if None.

    Raises:
        WeightsError: without ONNX Runtime, and for a file that it cannot read.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    # Threads that wait for work would otherwise keep a core busy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime raises its own types, which share no base but this.
    except Exception as error:
        raise WeightsError(
            f"{name} is damaged or no ONNX file ({type(error).__name__}); "
            "download it again, or write it with `faceattr export`"
        ) from error


class OnnxClassifier:
    """Answers with `model.onnx`, which holds normalisation, softmax and temperatures.

    It can be pickled, the file's content included, and goes on in a forked child: there and after
    unpickling it makes a new session. Calling it from several threads is safe.
    """

    name = "onnx"

    def __init__(self, files: WeightsFiles, threads: int | None = None) -> None:
        """Load the file and compare what it says of itself with what lies beside it.

        Args:
            files: `config.json`, and `model.onnx` as its weights.
            threads: that compute together, at least 1; as many as PyTorch would take if None.

        Raises:
            WeightsError: without ONNX Runtime, for a damaged file, and for one that was exported
                from another config or other weights.
        """
        self.config: ModelConfig = read_config(files)
        self.threads = threads
        self._content = files.weights.read_bytes()
        self._session: Any = session(self._content, files.weights.name, threads)
        _LIVING.add(self)
        facts = self._session.get_modelmeta().custom_metadata_map
        try:
            exported = ModelConfig.from_dict(json.loads(facts["config"]))
            digest = facts["weights_sha256"]
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"{ONNX_NAME} of {files.name!r} lacks the metadata that `faceattr export` "
                "writes; export it again"
            ) from error
        original = files.weights.with_name(WEIGHTS_NAME)
        same = not original.is_file() or (
            hashlib.sha256(original.read_bytes()).hexdigest() == digest
        )
        differs = exported.replace(training={}) != self.config.replace(training={})
        if differs or not same:
            raise WeightsError(
                f"{ONNX_NAME} of {files.name!r} was exported from another "
                f"{'config.json' if same else WEIGHTS_NAME}; export it again with "
                "`faceattr export`"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _LIVING.add(self)

    def _ready(self) -> Any:
        """The session, made anew after a fork and after unpickling."""
        found = self._session
        if found is None:
            # Two threads that come first at once make two; either will do.
            found = self._session = session(self._content, ONNX_NAME, self.threads)
        return found

    def probabilities(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Calibrated probabilities `(N, classes)` by task, in the order of `faceattr.labels`.

        Args:
            pixels: RGB uint8 `(N, image_size, image_size, 3)`, N at least 1.
        """
        running = self._ready()
        names = [output.name for output in running.get_outputs()]
        chunks = [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
        parts = [running.run(names, {"pixels": chunk}) for chunk in chunks]
        columns = zip(*parts, strict=True)
        return {name: np.concatenate(found) for name, found in zip(names, columns, strict=True)}


_LIVING: weakref.WeakSet[OnnxClassifier] = weakref.WeakSet()


def _forget_sessions() -> None:
    """Leave the sessions of the parent alone in a forked child.

    Their threads stayed in the parent, so whoever destroys one, be it at the child's exit, waits
    for them for ever: a reference that is never given back prevents it.
    """
    for classifier in list(_LIVING):
        if classifier._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(classifier._session))
            classifier._session = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)
