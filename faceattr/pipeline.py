"""Picture in, labelled faces out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from faceattr import labels
from faceattr.alignment import align_face
from faceattr.detection import MIN_FACE, FaceDetector, load_detector
from faceattr.errors import FaceAttrError
from faceattr.hub import WeightsFiles, find_weights, load_files
from faceattr.images import ImageSource, decode_image
from faceattr.model import FaceAttributeModel
from faceattr.results import Attribute, Detection, FaceBox, FaceResult

_CHUNK = 16


@dataclass(frozen=True)
class PipelineInfo:
    """What a pipeline runs on; for pages and logs.

    Attributes:
        model: Hub id, folder name or name of the bundled weights.
        revision: commit of the Hub repository; None for local weights.
        detector: name of the detector in use.
        detector_note: why it is not the preferred one, or None.
    """

    model: str
    revision: str | None
    detector: str
    detector_note: str | None


class FacePipeline:
    """Find the faces of a picture and classify each: perceived gender, age group and race.

    Calling it from several threads is safe.
    """

    def __init__(
        self,
        model: FaceAttributeModel,
        detector: FaceDetector,
        *,
        files: WeightsFiles | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = torch.device(device or "cpu")
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.detector = detector
        self.files = files
        self.info = PipelineInfo(
            model="unnamed" if files is None else files.name,
            revision=None if files is None else files.revision,
            detector=detector.name,
            detector_note=detector.status.fallback_reason,
        )

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        revision: str | None = None,
        detector: str = "auto",
        device: str | torch.device | None = None,
        min_face: float = MIN_FACE,
    ) -> FacePipeline:
        """Load weights and a detector.

        Args:
            model: "user/name" on the Hub, a local folder, the name of bundled weights
                ("FaceAttrNet", "LightweightMTLNet224"), or None for the default ones.
            revision: branch, tag or commit of the Hub repository; pin a commit to get the
                same answers tomorrow.
            detector: "yunet", "haar", or "auto": YuNet where its file can be had, else Haar.
            device: where the network runs; the CPU by default.
            min_face: least width of a face in pixels of the picture.

        Raises:
            WeightsError: when the weights cannot be had or do not fit.
            DetectorError: when the detector cannot be had.
        """
        files = find_weights(model, revision=revision)
        finder = load_detector(detector, min_face=min_face)
        return cls(load_files(files), finder, files=files, device=device)

    def __call__(
        self, picture: ImageSource, *, min_face: float = 0.0, max_faces: int | None = None
    ) -> list[FaceResult]:
        """The faces of one picture, largest first; empty when there is none.

        Args:
            picture: path, encoded bytes, PIL image or RGB array; see `decode_image`.
            min_face: as `predict_batch`.
            max_faces: as `predict_batch`.

        Raises:
            ImageDecodeError: when the picture cannot be read.
        """
        return self.predict_batch([picture], min_face=min_face, max_faces=max_faces)[0]

    def predict_batch(
        self,
        pictures: Sequence[ImageSource],
        *,
        min_face: float = 0.0,
        max_faces: int | None = None,
    ) -> list[list[FaceResult]]:
        """One list of faces for each picture; all faces pass the network together.

        Args:
            pictures: paths, encoded bytes, PIL images or RGB arrays; see `decode_image`.
            min_face: least width of a face in pixels of the picture; below the detector's own
                limit it changes nothing.
            max_faces: largest faces of a picture that are kept; None for all.

        Raises:
            ImageDecodeError: when a picture cannot be read; its message says which.
        """
        found: list[list[Detection]] = []
        crops: list[NDArray[np.uint8]] = []
        for position, picture in enumerate(pictures):
            try:
                image = decode_image(picture)
            except FaceAttrError as error:
                if len(pictures) == 1:
                    raise
                raise type(error)(f"picture {position + 1} of {len(pictures)}: {error}") from error
            faces = [f for f in self.detector.detect(image) if f.box.width >= min_face]
            found.append(faces[:max_faces])
            crops.extend(align_face(image, face) for face in found[-1])
        rows = iter(self._classify(crops))
        remaining = iter(crops)
        return [
            [_result(face.box, face, next(remaining), next(rows)) for face in faces]
            for faces in found
        ]

    def classify_crops(self, crops: Sequence[ImageSource]) -> list[FaceResult]:
        """Classify pictures that already are face chips; no detector runs.

        Chips should look like FairFace's at margin 0.25: the face fills most of a square, the
        eyes lie at about 0.3 of its height. A chip that is not square is padded to one by
        repeating its edges. The result's box is the whole chip.

        Raises:
            ImageDecodeError: when a chip cannot be read.
        """
        chips = [decode_image(crop) for crop in crops]
        squares = [_square(chip) for chip in chips]
        results = []
        for chip, square, row in zip(chips, squares, self._classify(squares), strict=True):
            height, width = chip.shape[:2]
            results.append(_result(FaceBox(0, 0, width, height), None, square, row))
        return results

    def _classify(self, crops: Sequence[NDArray[np.uint8]]) -> list[tuple[Attribute, ...]]:
        """The three attributes of each chip."""
        rows: list[tuple[Attribute, ...]] = []
        preprocessing = self.model.config.preprocessing
        thresholds = self.model.config.thresholds
        for start in range(0, len(crops), _CHUNK):
            batch = preprocessing.to_tensor(crops[start : start + _CHUNK])
            with torch.inference_mode():
                batch = batch.to(self.device, memory_format=torch.channels_last)
                by_task = self.model.probabilities(batch)
            values = {name: tensor.cpu().numpy() for name, tensor in by_task.items()}
            for index in range(len(batch)):
                rows.append(
                    tuple(
                        Attribute.from_probabilities(
                            task, values[task.name][index], thresholds[task.name]
                        )
                        for task in labels.TASKS
                    )
                )
        return rows


def _square(chip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad the shorter side by repeating the edge, half on either end."""
    height, width = chip.shape[:2]
    side = max(height, width)
    down, across = side - height, side - width
    pads = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return np.pad(chip, pads, mode="edge")


def _result(
    box: FaceBox,
    face: Detection | None,
    crop: NDArray[np.uint8],
    row: tuple[Attribute, ...],
) -> FaceResult:
    by_task = {attribute.task: attribute for attribute in row}
    return FaceResult(
        box=box,
        score=None if face is None else face.score,
        landmarks=None if face is None else face.landmarks,
        detector=None if face is None else face.detector,
        crop=crop,
        gender=by_task["gender"],
        age=by_task["age"],
        race=by_task["race"],
    )
