"""Bytes of pictures in, JSON-ready answers out; knows nothing of HTTP or Gradio."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import faceattr
from faceattr import labels
from faceattr.detection import MIN_FACE, load_detector
from faceattr.errors import CropWarning, DetectorError, FaceAttrError
from faceattr.explain import CAVEAT, explain
from faceattr.images import OpenedImage, open_image
from faceattr.pipeline import FacePipeline
from faceattr.results import FaceResult
from page.endpoints import checked
from page.errors import RequestError
from page.limits import Limits
from page.view.encode import data_url
from page.view.report import parameters, read_licence, read_report, task_info

API_VERSION = "1"
SHOWN_LIMITS = ("max_bytes", "max_pixels", "max_faces", "max_batch", "time_limit", "body_time")
"""What `/model_info` says of the limits."""
log = logging.getLogger("faceattr")
Source: TypeAlias = "bytes | Callable[[], bytes] | RequestError"
"""A file's content, what gives it, or why there is none."""


def read(source: Source) -> bytes:
    """The content of a file.

    Raises:
        RequestError: why there is none.
    """
    if isinstance(source, RequestError):
        raise source
    return source if isinstance(source, bytes) else source()


@dataclass(frozen=True)
class Found:
    """A picture and its faces.

    Attributes:
        picture: as it came; its size is that of the upright one.
        faces: the largest first, at most `Limits.max_faces`.
        truncated: whether there were more.
        detector: which one looked.
        decode_ms: time for reading the picture.
        predict_ms: time for finding and classifying.
    """

    picture: OpenedImage
    faces: list[FaceResult]
    truncated: bool
    detector: str
    decode_ms: float
    predict_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Size and numbered faces, JSON-ready."""
        faces = [{"number": n, **face.to_dict()} for n, face in enumerate(self.faces, start=1)]
        width, height = self.picture.size
        return {"width": width, "height": height, "truncated": self.truncated, "faces": faces}


class FaceService:
    """What the page and every way into the API share. Calling it from several threads is safe."""

    def __init__(
        self, pipeline: FacePipeline, limits: Limits | None = None, *, note: str | None = None
    ) -> None:
        """Load the second detector, if there is one, and read the report of the weights.

        Args:
            pipeline: network and preferred detector.
            limits: see `Limits`.
            note: what visitors should know about the weights, e.g. that they are a fallback.
        """
        # A crop's answer says what is wrong with it; nothing of an upload belongs into the log.
        warnings.simplefilter("ignore", CropWarning)
        self.pipeline = pipeline
        self.limits = limits or Limits()
        self.note = note
        self.report = read_report(pipeline.files)
        self.licence = read_licence(pipeline.files)
        self._pipelines = {pipeline.info.detector: pipeline}
        if "haar" not in self._pipelines:
            try:
                self._pipelines["haar"] = FacePipeline(
                    pipeline.classifier,
                    load_detector("haar"),
                    files=pipeline.files,
                    mirror=pipeline.info.mirror,
                    min_face=pipeline.min_face,
                )
            except DetectorError as error:
                log.warning("no second detector: %s", error)

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors that a request may ask for, the preferred one first."""
        return list(self._pipelines)

    def find(
        self,
        source: Source,
        *,
        detector: str = "default",
        min_face: float = MIN_FACE,
        detect: str = "fast",
    ) -> Found:
        """The faces of one picture.

        Raises:
            RequestError: for a bad picture or option.
        """
        pipeline, options = self._chosen(detector, min_face, detect)
        most = self.limits.max_faces
        return self._found(
            source,
            pipeline.info.detector,
            lambda picture: pipeline(picture, max_faces=most + 1, **options),
        )

    def whole(self, source: Source) -> Found:
        """The whole picture as one face; no detector runs.

        Raises:
            RequestError: for a bad picture.
        """
        return self._found(source, "none", lambda picture: self.pipeline.classify_crops([picture]))

    def _found(
        self, source: Source, detector: str, answer: Callable[[OpenedImage], list[FaceResult]]
    ) -> Found:
        """Open a picture and let `answer` find its faces; both are timed."""
        start = time.perf_counter()
        content = read(source)
        limits = self.limits
        limits.check(len(content))
        try:
            picture = open_image(content, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
            opened = time.perf_counter()
            faces = answer(picture)
        except FaceAttrError as error:
            raise RequestError("bad_picture", str(error)) from error
        decoding = picture.decode_seconds
        predicting = time.perf_counter() - opened - decoding
        most = limits.max_faces
        return Found(
            picture=picture,
            faces=faces[:most],
            truncated=len(faces) > most,
            detector=detector,
            decode_ms=(opened - start + decoding) * 1000,
            predict_ms=predicting * 1000,
        )

    def predict(self, source: Source, **options: Any) -> dict[str, Any]:
        """Answer of `/predict`; the options are those of `find`.

        Raises:
            RequestError: for a bad picture or option.
        """
        return self._answer(self.find(source, **options))

    def predict_batch(self, sources: Sequence[Source], **options: Any) -> dict[str, Any]:
        """Answer of `/predict_batch`: one entry a picture, with a result or an error.

        Raises:
            RequestError: for a bad option or too many pictures.
        """
        if not 1 <= len(sources) <= self.limits.max_batch:
            raise RequestError(
                "bad_request",
                f"expected 1 to {self.limits.max_batch} pictures, came {len(sources)}",
            )
        pipeline, _ = self._chosen(**options)
        entries, decode_ms, predict_ms = [], 0.0, 0.0
        for index, source in enumerate(sources):
            try:
                found = self.find(source, **options)
            except RequestError as error:
                entries.append({"index": index, "error": error.to_dict()})
                continue
            decode_ms += found.decode_ms
            predict_ms += found.predict_ms
            entries.append({"index": index, "error": None, **found.to_dict()})
        return {
            **self.head(pipeline.info.detector),
            "pictures": entries,
            "timing_ms": _timing(decode_ms, predict_ms),
        }

    def classify_crop(self, source: Source) -> dict[str, Any]:
        """Answer of `/classify_crop`.

        Raises:
            RequestError: for a bad picture.
        """
        return {**self._answer(self.whole(source)), "detector": None}

    def _answer(self, found: Found) -> dict[str, Any]:
        return {
            **self.head(found.detector),
            **found.to_dict(),
            "timing_ms": _timing(found.decode_ms, found.predict_ms),
        }

    def explain(self, source: Source, task: str = "") -> dict[str, Any]:
        """Answer of `/explain`: the heat map of one task on an already cropped face.

        Raises:
            RequestError: for a bad picture or task.
        """
        checked("task", task)
        found = self.whole(source)
        result = explain(self.pipeline, found.faces[0].crop, task)
        return {
            **self.head(None),
            "task": task,
            "label": result.label,
            "display_label": labels.task(task).display_name(result.label),
            "probability": round(result.probability, 6),
            "largest_drop": round(float(result.drop.max()), 6),
            "heat_map": data_url(result.picture),
            "note": CAVEAT,
        }

    def model_info(self) -> dict[str, Any]:
        """Answer of `/model_info`."""
        config = self.pipeline.config
        info = self.pipeline.info
        return {
            **self.head(info.detector),
            "note": self.note,
            "detectors": self.detectors,
            # A key of version 1 of the API: YuNet always is at hand.
            "detector_note": None,
            "architecture": config.architecture,
            "backend": info.backend,
            "parameters": parameters(self.pipeline, self.report),
            "image_size": config.preprocessing.image_size,
            "licence": {"weights": self.licence, "code": "Apache-2.0"},
            "evaluated_on": (self.report or {}).get("dataset"),
            "tasks": task_info(config, self.report),
            "limits": {
                **{name: getattr(self.limits, name) for name in SHOWN_LIMITS},
                # Kept for version 1 of the API: no server fetches images any more.
                "remote_urls": False,
            },
        }

    def head(self, detector: str | None) -> dict[str, Any]:
        """What every answer begins with: versions, weights and the detector that looked."""
        return {
            "api_version": API_VERSION,
            "faceattr": faceattr.__version__,
            "model": self.pipeline.info.model,
            "revision": self.pipeline.info.revision,
            "detector": detector,
        }

    def _chosen(
        self, detector: str = "default", min_face: float = MIN_FACE, detect: str = "fast"
    ) -> tuple[FacePipeline, dict[str, Any]]:
        """The pipeline of a detector, and what else it is called with."""
        detector = checked("detector", detector, ["default", *self._pipelines])
        options = {"min_face": checked("min_face", min_face), "detect": checked("detect", detect)}
        pipeline = self._pipelines.get(detector, self.pipeline)
        if detect == "thorough" and pipeline.info.detector == "haar":
            raise RequestError("bad_request", "expected another detector for a thorough search")
        return pipeline, options


def _timing(decode_ms: float, predict_ms: float) -> dict[str, float]:
    return {"decode": round(decode_ms, 1), "predict": round(predict_ms, 1)}
