"""Image → faces: YuNet and OpenCV's Haar cascades behind one protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from faceattr.errors import DetectorError
from faceattr.images import require_rgb
from faceattr.results import LANDMARKS, Detection, FaceBox
from faceattr.search import MOST_IOU, find, resized
from faceattr.turns import Turns

YUNET_ENV = "FACEATTR_YUNET"
YUNET_FILE = Path(__file__).parent / "yunet" / "face_detection_yunet_2026may.onnx"
"""From the OpenCV Zoo, MIT licence (beside it); 0.2 MB."""

HAAR_SIDE = 640
"""The cascades look at a copy with this longer side in pixels, whatever the image's size.

Larger copies cost time in proportion and raise false alarms five-fold at 2,000 px. In a 4,000 px
photo that leaves faces from about 150 px.
"""

SMALLEST_SEEN = 10
"""Pixels of the copy below which YuNet sees no face: a thinner copy is not looked at."""

KEPT_SIZES = 6
"""For so many sizes of small copies YuNet is kept ready, those that were looked at last."""

SMALL_COPY = 320
"""Longer side in pixels of the largest of them, for which YuNet takes 6 MB."""

YUNET_STEP = 32
"""OpenCV pads YuNet's input on the right and below to sides of whole multiples, in pixels."""

LEAST_SCORE = 0.7
"""YuNet's least confidence, 0 to 1."""

HAAR_HITS = 6
"""Least number of raw hits of both cascades together."""

MIN_FACE = 24.0
"""Narrower faces are dropped by `FacePipeline`: pixels of the image.

The networks see about 100 px across; enlarged four-fold a face tells nothing reliable.
"""


YUNET_ONLY = "expected the detector 'yunet' for a thorough search, came 'haar'"


class FaceDetector(Protocol):
    """Finds the faces of an image; safe to call from several threads."""

    name: str

    def detect(
        self, image: NDArray[np.uint8], reduction: float = 1, *, thorough: bool = False
    ) -> list[Detection]:
        """The faces of an RGB uint8 image `(H, W, 3)`, largest box first, each once.

        With `reduction`, `image` is a copy of the image that is so many times smaller along
        each side; boxes and points are in pixels of the image all the same.

        Args:
            image: upright, or turned by a quarter or half where the detector tries that.
            reduction: at least 1.
            thorough: look for small faces in large images, too, at many times the cost.

        Raises:
            DetectorError: where the detector cannot be thorough.
        """
        ...


class YuNetDetector:
    """YuNet (Wu, Peng and Yu 2023): a small network that also gives five landmarks.

    OpenCV's object keeps the input size as state, so calls take turns at a lock.
    """

    name = "yunet"

    def __init__(self, model_path: str | os.PathLike[str] = YUNET_FILE) -> None:
        """Load the network.

        Args:
            model_path: ONNX file of YuNet, 2023mar or later.

        Raises:
            DetectorError: when OpenCV cannot load the file.
        """
        path = Path(model_path)
        if not path.is_file():
            raise DetectorError(f"expected a YuNet model file, but there is no file {path.name!r}")
        content = path.read_bytes()
        try:
            self._networks = Turns(_YuNets, content)
        except cv2.error as error:
            raise DetectorError(f"OpenCV cannot load {path.name!r} as a YuNet model") from error

    def detect(
        self, image: NDArray[np.uint8], reduction: float = 1, *, thorough: bool = False
    ) -> list[Detection]:
        """See `FaceDetector.detect`; the score lies in 0 to 1."""
        require_rgb(image)
        faces = find(self._look, image, thorough=thorough)
        return _sorted(face.scaled(reduction, reduction) for face in faces)

    def _look(self, copy: NDArray[np.uint8]) -> list[Detection]:
        """Faces of about 10 to 300 px."""
        height, width = copy.shape[:2]
        if min(height, width) < SMALLEST_SEEN:
            return []
        bgr = cv2.cvtColor(copy, cv2.COLOR_RGB2BGR)
        with self._networks.taken() as networks:
            _, rows = networks.of_size(width, height).detect(bgr)
        found = []
        # Rows of 15: box, then five points, all as x and y pairs, and the score. Boxes without
        # bounds were seen once, on a copy one pixel high.
        for row in np.empty((0, 15)) if rows is None else rows.astype(np.float64):
            if np.abs(row).max() < 4 * max(height, width):
                points = tuple((x, y) for x, y in row[4:14].reshape(len(LANDMARKS), 2).tolist())
                found.append(
                    Detection(FaceBox(*row[:4].tolist()), float(row[14]), points, self.name)
                )
        return found


class _YuNets:
    """YuNet for large copies, and for each of a few sizes of small ones.

    A change of the padded size costs as much as half a look of the larger one.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._large = _yunet(content)
        self._small: dict[tuple[int, int], Any] = {}

    def of_size(self, width: int, height: int) -> Any:
        """A network that takes images `(height, width, 3)`."""
        network = self._large if max(width, height) > SMALL_COPY else self._for(width, height)
        network.setInputSize((width, height))
        return network

    def _for(self, width: int, height: int) -> Any:
        padded = (-(-width // YUNET_STEP), -(-height // YUNET_STEP))
        network = self._small.pop(padded, None)
        if network is None:
            full = len(self._small) == KEPT_SIZES
            network = self._small.pop(next(iter(self._small))) if full else _yunet(self._content)
        self._small[padded] = network
        return network


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

    def __init__(self) -> None:
        """Load the cascades that OpenCV ships.

        Raises:
            DetectorError: when this build of OpenCV has no cascades.
        """
        self._cascades = Turns(
            _cascades, "haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml"
        )

    def detect(
        self, image: NDArray[np.uint8], reduction: float = 1, *, thorough: bool = False
    ) -> list[Detection]:
        """See `FaceDetector.detect`; the score is the number of raw hits, no landmarks.

        Only upright faces are found.
        """
        if thorough:
            raise DetectorError(YUNET_ONLY)
        require_rgb(image)
        # Small images are enlarged: the cascades' windows start at 24 px.
        copy = resized(image, min(2.0, HAAR_SIDE / max(image.shape[:2])))
        scale = np.array([copy.shape[1] / image.shape[1], copy.shape[0] / image.shape[0]])
        grey = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY)
        with self._cascades.taken() as (finder, witness):
            found = _hits(finder, cv2.equalizeHist(grey))
            confirming = _hits(witness, grey)
        scale = scale / reduction
        faces: list[Detection] = []
        for box, hits in sorted(found, key=lambda hit: -hit[1]):
            other, other_hits = max(confirming, key=lambda hit: box.iou(hit[0]), default=(box, 0))
            total = hits + other_hits
            mean = _mean_box(box, other, scale)
            agree = other_hits > 0 and box.iou(other) >= 0.3 and total >= HAAR_HITS
            if agree and all(mean.iou(face.box) < 0.3 for face in faces):
                faces.append(Detection(mean, float(total), None, self.name))
        return _sorted(faces)


def load_detector(kind: str = "auto") -> FaceDetector:
    """Make a detector; nothing is downloaded.

    Args:
        kind: "yunet"; "auto", which means it; or "haar".

    Raises:
        DetectorError: for an unknown kind, and where the file that the environment variable
            `FACEATTR_YUNET` names instead of YuNet's own is none of YuNet.
    """
    if kind not in ("auto", "yunet", "haar"):
        raise DetectorError(f"expected the detector 'auto', 'yunet' or 'haar', came {kind!r}")
    if kind == "haar":
        return HaarDetector()
    return YuNetDetector(os.environ.get(YUNET_ENV) or YUNET_FILE)


def _yunet(content: bytes) -> Any:
    return cv2.FaceDetectorYN.create(
        "onnx",
        np.frombuffer(content, np.uint8),
        np.empty(0, np.uint8),
        (320, 320),
        LEAST_SCORE,
        MOST_IOU,
    )


def _cascades(*files: str) -> tuple[Any, ...]:
    return tuple(map(_cascade, files))


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


def _sorted(faces: Iterable[Detection]) -> list[Detection]:
    """Largest box first."""
    return sorted(faces, key=lambda face: face.box.area, reverse=True)
