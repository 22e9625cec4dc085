"""Image in, labelled faces out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from faceattr import arguments, labels
from faceattr.backends.classify import classify
from faceattr.backends.load import Backend, Classifier, as_classifier, load_classifier
from faceattr.crops import Cut, find_faces, read_crop, warn
from faceattr.detection import (
    MIN_FACE,
    YUNET_ONLY,
    FaceDetector,
    HaarDetector,
    YuNetDetector,
    load_detector,
)
from faceattr.errors import DetectorError, FaceAttrError, WeightsError
from faceattr.hub import WeightsFiles
from faceattr.images import ImageSource, open_image
from faceattr.limits import MOST_THREADS, OWN_PIXELS
from faceattr.results import Attribute, FaceResult

if TYPE_CHECKING:
    import torch

    from faceattr.model import FaceAttributeModel
    from faceattr.publishing import PublishResult

Detect = Literal["fast", "thorough"]


@dataclass(frozen=True)
class PipelineInfo:
    """What a pipeline runs on; for pages and logs.

    Attributes:
        model: Hub id, folder name or name of the bundled weights.
        revision: commit of the Hub repository; None for local weights.
        detector: name of the detector in use.
        backend: what runs the network, "torch" or "onnx".
        mirror: whether answers are means over a face and its mirror image.
    """

    model: str
    revision: str | None
    detector: str
    backend: str = "torch"
    mirror: bool = False


class FacePipeline:
    """Find the faces of an image and classify each: perceived gender, age group and race.

    Calling it from several threads is safe. It can be pickled, and goes on in a forked process,
    so that workers of `multiprocessing` or of PyTorch's `DataLoader` can have one each: give them
    `threads=1`, or they get in each other's way.
    """

    def __init__(
        self,
        model: FaceAttributeModel | Classifier,
        detector: FaceDetector,
        *,
        files: WeightsFiles | None = None,
        device: str | int | torch.device | None = None,
        mirror: bool = False,
        min_face: float = MIN_FACE,
        detect: Detect = "fast",
    ) -> None:
        self.classifier = as_classifier(model, arguments.device(device))
        self.config = self.classifier.config
        self.detector = detector
        self.files = files
        self.threads: int | None = None
        self.min_face = arguments.pixels("min_face", min_face)
        self.detect = arguments.choice("detect", detect, get_args(Detect))
        if self.detect == "thorough" and isinstance(detector, HaarDetector):
            raise DetectorError(YUNET_ONLY)
        self.info = PipelineInfo(
            model="unnamed" if files is None else files.name,
            revision=None if files is None else files.revision,
            detector=detector.name,
            backend=self.classifier.name,
            mirror=mirror,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.threads is not None:
            cv2.setNumThreads(self.threads)

    def __repr__(self) -> str:
        info = self.info
        revision = "" if info.revision is None else f", revision={info.revision!r}"
        return (
            f"FacePipeline({info.model!r}{revision}, detector={info.detector!r}, "
            f"backend={info.backend!r}, mirror={info.mirror})"
        )

    @property
    def device(self) -> torch.device:
        """Where the PyTorch network runs; errors as `model`."""
        return next(self.model.parameters()).device

    @property
    def model(self) -> FaceAttributeModel:
        """The PyTorch network as it was trained, batch norms and all.

        Answers follow changes of its parameters, but not those made through `.data` or to its
        config.

        Raises:
            WeightsError: with the backend "onnx", which has none.
        """
        network: FaceAttributeModel | None = getattr(self.classifier, "model", None)
        if network is None:
            raise WeightsError("the backend 'onnx' has no PyTorch network; use backend='torch'")
        return network

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        revision: str | None = None,
        detector: str = "auto",
        device: str | int | torch.device | None = None,
        min_face: float = MIN_FACE,
        backend: Backend = "auto",
        mirror: bool = False,
        threads: int | None = None,
        detect: Detect = "fast",
    ) -> FacePipeline:
        """Load weights and a detector.

        Args:
            model: "user/name" on the Hub, a local folder, the name of bundled weights
                ("FaceAttrNet", "FaceAttrNetLarge", "LightweightMTLNet224"), or None for the
                default ones.
            revision: branch, tag or commit of the Hub repository; pin a commit to get the
                same answers tomorrow.
            detector: "yunet"; "auto", which means it; or "haar".
            device: where the network runs: "cpu" (the default), "cuda", "cuda:1" or, as in
                PyTorch, the number of a CUDA device. PyTorch only.
            min_face: least width of a face in pixels of the image.
            backend: "onnx" for ONNX Runtime, which needs the weights' `model.onnx`; "torch" for
                PyTorch, which the extra `[torch]` brings; or "auto": "onnx" where there is that
                file and no device but the CPU is given, otherwise "torch". Probabilities agree
                within 0.01 where weights are in float16, 1e-5 where in float32.
            mirror: ask the network about each face's mirror image too and answer with the mean of
                both logits, at twice the network's time; research/LOG.md says what it gains.
                Temperatures and thresholds are those fitted for one view.
            threads: that compute together, 1 to 1,024. It limits ONNX Runtime for this pipeline,
                PyTorch and OpenCV for the whole process, and does so again where the pipeline is
                unpickled; None leaves each its own choice.
            detect: "fast" finds faces from about a thirtieth of the image's longer side on;
                "thorough" also smaller ones in large images, at up to 25 times the detector's
                time. YuNet only. docs/detection.md says what is found at which size.

        Raises:
            WeightsError: when the weights cannot be had or do not fit, for an unknown backend, and
                where PyTorch is needed but not installed.
            DetectorError: when the detector cannot be had, or cannot be thorough.
            ArgumentError: for a device, length or number that cannot be.
        """
        device = arguments.device(device)
        threads = arguments.optional_whole_number("threads", threads, 1, MOST_THREADS)
        if threads is not None:
            cv2.setNumThreads(threads)
        files, classifier = load_classifier(model, revision, device, backend, threads)
        finder = load_detector(detector)
        pipeline = cls(
            classifier,
            finder,
            files=files,
            mirror=mirror,
            min_face=min_face,
            detect=detect,
        )
        pipeline.threads = threads
        return pipeline

    def __call__(
        self,
        image: ImageSource,
        *,
        min_face: float = 0.0,
        max_faces: int | None = None,
        channels: str = "rgb",
        max_pixels: int = OWN_PIXELS,
        detect: Detect | None = None,
    ) -> list[FaceResult]:
        """The faces of one image, largest first; empty when there is none.

        Args:
            image: path, encoded bytes, file object, row of a Hub data set, PIL image or array; see
                `decode_image`.
            min_face: as `predict_batch`.
            max_faces: as `predict_batch`.
            channels: as `predict_batch`.
            max_pixels: as `predict_batch`.
            detect: as `predict_batch`.

        Raises:
            ImageDecodeError: when the image cannot be read.
            ArgumentError: for another argument that cannot be.
            DetectorError: as `predict_batch`.
        """
        return self.predict_batch(
            [image],
            min_face=min_face,
            max_faces=max_faces,
            channels=channels,
            max_pixels=max_pixels,
            detect=detect,
        )[0]

    def predict_batch(
        self,
        images: Iterable[ImageSource],
        *,
        min_face: float = 0.0,
        max_faces: int | None = None,
        channels: str = "rgb",
        max_pixels: int = OWN_PIXELS,
        detect: Detect | None = None,
    ) -> list[list[FaceResult]]:
        """One list of faces for each image; all faces pass the network together.

        Args:
            images: a list or any other iterable of what `decode_image` takes, or an array
                `(N, H, W, C)`; each is read, and let go, in turn.
            min_face: least width of a face in pixels of the image; below the pipeline's own
                limit it changes nothing.
            max_faces: largest faces of an image that are kept; None for all.
            channels: order of arrays' channels: "rgb", or "bgr" as OpenCV reads.
            max_pixels: largest width times height of an image.
            detect: "fast" or "thorough", see `from_pretrained`; None for the pipeline's own.

        Raises:
            ImageDecodeError: when an image cannot be read; its message says which.
            ArgumentError: for another argument that cannot be.
            DetectorError: for a thorough search with Haar's cascades.
        """
        least = max(self.min_face, arguments.pixels("min_face", min_face))
        effort = self.detect if detect is None else detect
        thorough = arguments.choice("detect", effort, get_args(Detect)) == "thorough"
        max_faces = arguments.optional_whole_number("max_faces", max_faces, 0)
        sources, count = arguments.images("images", images)
        found: list[list[Cut]] = []
        for number, source in enumerate(sources, start=1):
            with _named("image", number, count):
                opened = open_image(source, max_pixels=max_pixels, channels=channels)
                found.append(
                    find_faces(
                        self.detector,
                        opened,
                        min_face=least,
                        max_faces=max_faces,
                        thorough=thorough,
                    )
                )
        results = iter(self._answers([cut for cuts in found for cut in cuts]))
        return [list(islice(results, len(cuts))) for cuts in found]

    def classify_crops(
        self,
        crops: Iterable[ImageSource],
        *,
        align: bool = False,
        channels: str = "rgb",
        max_pixels: int = OWN_PIXELS,
    ) -> list[FaceResult]:
        """Classify images that already are crops of one face.

        Crops should look like FairFace's chips at margin 0.25: the face fills most of a square,
        the eyes lie at about 0.3 of its height. YuNet looks whether they do: a crop that is loose
        or tight is answered with a `CropWarning`, and its result says so in `crop_note`; one on
        its side or upside down is turned; where no face is found, or the turn is not clear, all
        answers are unsure. A crop that is not square is padded to one by repeating its edges, and
        one larger than `LARGEST_CROP` is shrunk to it. The result's box is the whole crop.

        Args:
            crops: as the images of `predict_batch`.
            align: cut the largest face that is found anew, as the pipeline does with an image; the
                result's box is that face's then.
            channels: as there.
            max_pixels: as there.

        Raises:
            ImageDecodeError: when a chip cannot be read; its message says which.
            ArgumentError: for another argument that cannot be.
        """
        sources, count = arguments.images("crops", crops)
        cuts = []
        for number, source in enumerate(sources, start=1):
            with _named("crop", number, count):
                opened = open_image(source, max_pixels=max_pixels, channels=channels)
                cuts.append(read_crop(self._pointer, opened, align=align))
        warn(cuts)
        return self._answers(cuts)

    @cached_property
    def _pointer(self) -> FaceDetector:
        """A detector that gives landmarks; it looks at crops that are handed in."""
        return self.detector if isinstance(self.detector, YuNetDetector) else load_detector("yunet")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, config and what belongs to them into a folder, made if needed.

        `from_pretrained(folder)` loads it. Card, report and `model.onnx` go along where they lie
        beside the weights that were loaded and these have not changed since. Where the folder held
        other weights, such files of theirs are removed.

        Raises:
            WeightsError: for a pipeline that was made from neither files nor a network, and where
                the Hub does not give what lies beside the weights.
        """
        from faceattr.saving import save_pipeline

        save_pipeline(self, folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | Path | None = None,
        revision: str = "main",
        private: bool = False,
        message: str = "Publish weights",
        endpoint: str | None = None,
        token: str | None = None,
    ) -> PublishResult:
        """Publish what `save_pretrained` writes, in one commit, and prove it by loading it back.

        Args:
            repo_id: "user/name" on the Hub; created if it does not exist.
            card: file to publish as the card; by default that of the weights, or a short new one.
            revision: branch to commit to; created from main if it does not exist.
            private: make a new repository private.
            message: first line of the commit.
            endpoint: URL of the Hub; None for `HF_ENDPOINT` or huggingface.co.
            token: Hub token with write permission; None for the one of this machine.

        Returns:
            What is on the Hub now; its `commit` pins it.

        Raises:
            PublishError: saying what to do next. A failed upload leaves no half commit.
            WeightsError: as `save_pretrained`.
        """
        from faceattr.publishing import push_folder

        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(scratch)
            return push_folder(
                Path(scratch),
                repo_id,
                card=card,
                revision=revision,
                private=private,
                message=message,
                endpoint=endpoint,
                token=token,
            )

    def _answers(self, cuts: Sequence[Cut]) -> list[FaceResult]:
        """What the network says of faces."""
        rows = self._classify([cut.pixels for cut in cuts])
        return [_result(cut, row) for cut, row in zip(cuts, rows, strict=True)]

    def _classify(self, crops: Sequence[NDArray[np.uint8]]) -> list[tuple[Attribute, ...]]:
        """The three attributes of each chip."""
        if not crops:
            return []
        values = classify(self.classifier, crops, mirror=self.info.mirror)
        thresholds = self.config.thresholds
        return [
            tuple(
                Attribute.from_probabilities(task, values[task.name][i], thresholds[task.name])
                for task in labels.TASKS
            )
            for i in range(len(crops))
        ]


@contextmanager
def _named(kind: str, number: int, count: int | None) -> Iterator[None]:
    """Say of an error which of several images it is about."""
    try:
        yield
    except FaceAttrError as error:
        if count == 1:
            raise
        place = f"{kind} {number}" if count is None else f"{kind} {number} of {count}"
        raise type(error)(f"{place}: {error}") from error


def _result(cut: Cut, row: tuple[Attribute, ...]) -> FaceResult:
    if not cut.sure:
        row = tuple(replace(attribute, unsure=True) for attribute in row)
    by_task = {attribute.task: attribute for attribute in row}
    face = cut.face
    return FaceResult(
        box=cut.box,
        score=None if face is None else face.score,
        landmarks=None if face is None else face.landmarks,
        detector=None if face is None else face.detector,
        turn=cut.turn,
        crop=cut.pixels,
        crop_note=cut.note,
        gender=by_task["gender"],
        age=by_task["age"],
        race=by_task["race"],
    )
