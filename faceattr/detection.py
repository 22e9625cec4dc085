"""Picture → faces: YuNet and OpenCV's Haar cascades behind one protocol."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from faceattr.errors import DetectorError
from faceattr.images import require_rgb, shrink
from faceattr.results import LANDMARKS, Detection, FaceBox

YUNET_ENV = "FACEATTR_YUNET"
YUNET_FILE = Path(__file__).parent / "yunet" / "face_detection_yunet_2026may.onnx"
"""From the OpenCV Zoo, MIT licence (beside it); 0.2 MB."""

DETECTION_SIDE = 640
"""Detectors look at a copy with this longer side in pixels, whatever the picture's size.

Larger copies cost time in proportion and raise Haar's false alarms five-fold at 2,000 px; YuNet
is made for faces of about 10 to 300 px. In a 4,000 px photo that leaves YuNet faces from about
60 px and Haar those from about 150 px.
"""

SMALLEST_SEEN = 10
"""Pixels of the copy below which YuNet sees no face: a thinner copy is not looked at."""

MIN_FACE = 24.0
"""Narrower boxes are dropped: pixels of the upright picture.

The networks see about 100 px across; enlarged four-fold a face tells nothing reliable.
"""


class FaceDetector(Protocol):
    """Finds the faces of a picture; safe to call from several threads."""

    name: str

    def detect(self, image: NDArray[np.uint8], reduction: int = 1) -> list[Detection]:
        """The faces of an upright RGB uint8 picture `(H, W, 3)`, largest box first.

        With `reduction`, `image` is a copy of the picture that is so many times smaller along
        each side; boxes and points are in pixels of the picture all the same.
        """
        ...


class YuNetDetector:
    """YuNet (Wu, Peng and Yu 2023): a small network that also gives five landmarks.

    OpenCV's object keeps the input size as state, so calls take turns at a lock.
    """

    name = "yunet"

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        score_threshold: float = 0.7,
        nms_threshold: float = 0.3,
        min_face: float = MIN_FACE,
    ) -> None:
        """Load the network.

        Args:
            model_path: ONNX file of YuNet, 2023mar or later.
            score_threshold: least confidence, 0 to 1.
            nms_threshold: of two boxes with a larger IoU the less confident is dropped.
            min_face: least width of a box in pixels of the picture.

        Raises:
            DetectorError: when OpenCV cannot load the file.
        """
        path = Path(model_path)
        if not path.is_file():
            raise DetectorError(f"expected a YuNet model file, but there is no file {path.name!r}")
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), score_threshold, nms_threshold
            )
        except cv2.error as error:
            raise DetectorError(f"OpenCV cannot load {path.name!r} as a YuNet model") from error
        self._min_face = min_face
        self._lock = threading.Lock()

    def detect(self, image: NDArray[np.uint8], reduction: int = 1) -> list[Detection]:
        """See `FaceDetector.detect`; the score lies in 0 to 1."""
        require_rgb(image)
        copy, scale = _resized(image, enlarge=1.0)
        if min(copy.shape[:2]) < SMALLEST_SEEN:
            return []
        bgr = cv2.cvtColor(copy, cv2.COLOR_RGB2BGR)
        with self._lock:
            self._network.setInputSize((copy.shape[1], copy.shape[0]))
            _, rows = self._network.detect(bgr)
        rows = np.empty((0, 15)) if rows is None else rows
        scale = scale / reduction
        found = []
        # Rows of 15: box, then five points, all as x and y pairs, and the score. Boxes without
        # bounds were seen once, on a copy one pixel high.
        for row in rows[np.abs(rows).max(axis=1, initial=0) < 4 * DETECTION_SIDE]:
            x, y, right, down = (row[:4].reshape(2, 2) / scale).ravel().tolist()
            points = (row[4:14].reshape(len(LANDMARKS), 2) / scale).tolist()
            landmarks = tuple((px, py) for px, py in points)
            found.append(
                Detection(FaceBox(x, y, right, down), float(row[14]), landmarks, self.name)
            )
        return _sorted_faces(found, self._min_face)


class HaarDetector:
    """Two of OpenCV's frontal Haar cascades that must agree.

    "default" on an equalised picture finds nearly every frontal face and much that is none;
    "alt2" on the plain one errs elsewhere. A face is where both raise a hit; its box is the
    mean of theirs and its score the number of raw hits that both merged into it. Neither the
    level weights of `detectMultiScale3` nor the profile cascades, straight and mirrored, did
    as well; `scripts/measure_detection.py` measures.

    A cascade keeps buffers as state, so calls take turns at a lock.
    """

    name = "haar"

    def __init__(self, *, min_hits: int = 6, min_face: float = MIN_FACE) -> None:
        """Load the cascades that OpenCV ships.

        Args:
            min_hits: least number of raw hits of both cascades together.
            min_face: least width of a box in pixels of the picture.

        Raises:
            DetectorError: when this build of OpenCV has no cascades.
        """
        self._finder = _cascade("haarcascade_frontalface_default.xml")
        self._witness = _cascade("haarcascade_frontalface_alt2.xml")
        self._min_hits = min_hits
        self._min_face = min_face
        self._lock = threading.Lock()

    def detect(self, image: NDArray[np.uint8], reduction: int = 1) -> list[Detection]:
        """See `FaceDetector.detect`; the score is the number of raw hits, no landmarks."""
        require_rgb(image)
        # Small pictures are enlarged: the cascades' windows start at 24 px.
        copy, scale = _resized(image, enlarge=2.0)
        grey = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY)
        with self._lock:
            found = _hits(self._finder, cv2.equalizeHist(grey))
            confirming = _hits(self._witness, grey)
        scale = scale / reduction
        faces: list[Detection] = []
        for box, hits in sorted(found, key=lambda hit: -hit[1]):
            other, other_hits = max(confirming, key=lambda hit: box.iou(hit[0]), default=(box, 0))
            total = hits + other_hits
            mean = _mean_box(box, other, scale)
            agree = other_hits > 0 and box.iou(other) >= 0.3 and total >= self._min_hits
            if agree and all(mean.iou(face.box) < 0.3 for face in faces):
                faces.append(Detection(mean, float(total), None, self.name))
        return _sorted_faces(faces, self._min_face)


def load_detector(kind: str = "auto", *, min_face: float = MIN_FACE) -> FaceDetector:
    """Make a detector; nothing is downloaded.

    Args:
        kind: "yunet"; "auto", which means it; or "haar".
        min_face: least width of a box in pixels of the picture.

    Raises:
        DetectorError: for an unknown kind, and where the file that the environment variable
            `FACEATTR_YUNET` names instead of YuNet's own is none of YuNet.
    """
    if kind not in ("auto", "yunet", "haar"):
        raise DetectorError(f"expected the detector 'auto', 'yunet' or 'haar', came {kind!r}")
    if kind == "haar":
        return HaarDetector(min_face=min_face)
    return YuNetDetector(os.environ.get(YUNET_ENV) or YUNET_FILE, min_face=min_face)


def _resized(
    image: NDArray[np.uint8], enlarge: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A copy with the longer side at `DETECTION_SIDE`, enlarged `enlarge`-fold at most.

    Returns:
        The copy, and its scale along x and y: copy pixels for one picture pixel.
    """
    height, width = image.shape[:2]
    scale = min(enlarge, DETECTION_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        copy = shrink(image, *size)
    else:
        copy = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return copy, np.array([size[0] / width, size[1] / height])


def _cascade(file: str) -> Any:
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / file))
    if cascade.empty():
        raise DetectorError(
            f"this build of OpenCV lacks {file}; install opencv-python-headless>=4.14,<5"
        )
    return cascade


def _hits(cascade: Any, grey: NDArray[np.uint8]) -> list[tuple[FaceBox, int]]:
    """Boxes in pixels of `grey` with the number of raw hits that were merged into each."""
    boxes, counts = cascade.detectMultiScale2(
        grey, scaleFactor=1.1, minNeighbors=1, minSize=(24, 24)
    )
    return [
        (FaceBox(*map(float, box)), int(count))
        for box, count in zip(boxes, np.ravel(counts), strict=True)
    ]


def _mean_box(one: FaceBox, two: FaceBox, scale: NDArray[np.float64]) -> FaceBox:
    """Mean of two boxes of the copy, in pixels of the picture."""
    across, down = scale.tolist()
    return FaceBox(
        (one.x + two.x) / 2 / across,
        (one.y + two.y) / 2 / down,
        (one.width + two.width) / 2 / across,
        (one.height + two.height) / 2 / down,
    )


def _sorted_faces(faces: Sequence[Detection], min_face: float) -> list[Detection]:
    """Without the tiny ones, largest box first."""
    kept = (face for face in faces if face.box.width >= min_face)
    return sorted(kept, key=lambda face: face.box.area, reverse=True)
