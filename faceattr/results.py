"""What a prediction is: plain frozen values, units stated, dictionaries only at the edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from faceattr import labels
from faceattr.ages import AgeRange, likeliest_range
from faceattr.errors import ArgumentTypeError, MissingPackageError
from faceattr.labels import Task

Results: TypeAlias = (
    "FaceResult | Iterable[FaceResult] | Iterable[Iterable[FaceResult]] "
    "| Mapping[str, Iterable[FaceResult]]"
)

LANDMARKS = ("right_eye", "left_eye", "nose", "right_mouth_corner", "left_mouth_corner")
"""The five points in order; right and left are the pictured person's own."""

ROW = (
    *("x", "y", "width", "height", "score", "detector"),
    *(task.name + end for task in labels.TASKS for end in ("", "_probability", "_unsure")),
    *("age_range", "age_range_probability", "may_be_under_20"),
)
"""Columns of a face in a table; see `FaceResult.to_row`."""


@dataclass(frozen=True)
class FaceBox:
    """An axis-aligned box in pixels of the upright picture; it may reach past the edge.

    Attributes:
        x: left edge.
        y: top edge.
        width: in pixels, positive.
        height: in pixels, positive.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    def shared(self, other: FaceBox) -> float:
        """Area in square pixels that lies in both boxes."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, across) * max(0.0, down)

    def iou(self, other: FaceBox) -> float:
        """Intersection over union with another box, 0 to 1."""
        shared = self.shared(other)
        return shared / (self.area + other.area - shared)

    def to_dict(self) -> dict[str, float]:
        """`x`, `y`, `width`, `height`, rounded to a tenth of a pixel."""
        return {
            "x": round(self.x, 1),
            "y": round(self.y, 1),
            "width": round(self.width, 1),
            "height": round(self.height, 1),
        }


@dataclass(frozen=True)
class Detection:
    """One face as a detector found it.

    Attributes:
        box: where it is.
        score: the detector's confidence; YuNet's lies in 0 to 1, Haar's is its number of raw
            hits, 6 or more. Compare within a detector only.
        landmarks: five `(x, y)` points in pixels in the order of `LANDMARKS`, or None where
            the detector gives none (Haar).
        detector: name of the detector, "yunet" or "haar".
        turn: degrees clockwise by which the image has to be turned for the face to stand
            upright: 0, 90, 180 or 270. Box and landmarks are those of the unturned image.
        turn_sure: whether another turn is clearly less likely.
    """

    box: FaceBox
    score: float
    landmarks: tuple[tuple[float, float], ...] | None
    detector: str
    turn: int = 0
    turn_sure: bool = True

    def scaled(self, across: float, down: float) -> Detection:
        """The face in an image whose sides are so many times as long."""
        box, points = self.box, self.landmarks
        if points is not None:
            points = tuple((x * across, y * down) for x, y in points)
        box = FaceBox(box.x * across, box.y * down, box.width * across, box.height * down)
        return replace(self, box=box, landmarks=points)

    def moved(self, across: float, down: float) -> Detection:
        """The face in an image that begins so many pixels further left and up."""
        box, points = self.box, self.landmarks
        if points is not None:
            points = tuple((x + across, y + down) for x, y in points)
        box = FaceBox(box.x + across, box.y + down, box.width, box.height)
        return replace(self, box=box, landmarks=points)


@dataclass(frozen=True)
class Attribute:
    """One task's answer for one face.

    Attributes:
        task: name of the task.
        label: canonical name of the likeliest class.
        probability: its calibrated probability, 0 to 1.
        probabilities: every class by canonical name, in the order of `faceattr.labels`;
            they sum to 1.
        unsure: whether `probability` lies below the threshold that came with the weights.
    """

    task: str
    label: str
    probability: float
    probabilities: Mapping[str, float]
    unsure: bool

    @classmethod
    def from_probabilities(
        cls, task: Task, values: NDArray[np.floating[Any]], threshold: float
    ) -> Attribute:
        """Name the entries of one softmax row of shape `(len(task.classes),)`.

        Args:
            task: whose classes.
            values: calibrated probabilities in the order of the classes.
            threshold: probability below which the answer is unsure.
        """
        if values.shape != (len(task.classes),):
            raise ValueError(
                f"{task.name}: expected {len(task.classes)} probabilities, came {values.shape}"
            )
        named = {name: float(value) for name, value in zip(task.classes, values, strict=True)}
        label = max(named, key=named.__getitem__)
        return cls(task.name, label, named[label], named, named[label] < threshold)

    @property
    def display_label(self) -> str:
        """The label as people write it, e.g. "70+"."""
        return labels.task(self.task).display_name(self.label)

    def __str__(self) -> str:
        mark = "?" if self.unsure else ""
        return f"{self.display_label}{mark} {self.probability:.0%}"

    def to_dict(self) -> dict[str, Any]:
        """`label`, `display_label`, `probability`, `unsure`, `probabilities`; six decimals."""
        return {
            "label": self.label,
            "display_label": self.display_label,
            "probability": round(self.probability, 6),
            "unsure": self.unsure,
            "probabilities": {k: round(v, 6) for k, v in self.probabilities.items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class FaceResult:
    """One face: where it is, what the network saw, and what it answered.

    Attributes:
        box: in pixels of the upright picture; the whole chip where no detector ran.
        score: detector confidence (see `Detection`), None where no detector ran.
        landmarks: five `(x, y)` points or None.
        detector: "yunet", "haar" or None.
        crop: RGB uint8 `(side, side, 3)`, the aligned chip before it becomes a tensor.
        gender: perceived gender.
        age: perceived age group in years; `age_range` says more: a single group is often unsure.
        race: perceived race in FairFace's seven groups.
        turn: degrees clockwise by which the image had to be turned for the face to stand
            upright: 0, 90, 180 or 270. Where it cannot be told, all answers are unsure.
        crop_note: what is wrong with a crop that was handed in, in words; or None.
    """

    box: FaceBox
    score: float | None
    landmarks: tuple[tuple[float, float], ...] | None
    detector: str | None
    crop: NDArray[np.uint8]
    gender: Attribute
    age: Attribute
    race: Attribute
    turn: int = 0
    crop_note: str | None = None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The three answers in the order of `faceattr.labels.TASKS`."""
        return (self.gender, self.age, self.race)

    @property
    def age_range(self) -> AgeRange:
        """The fewest neighbouring age groups that hold `faceattr.ages.RANGE_LEVEL`."""
        return likeliest_range(self.age.probabilities)

    def __repr__(self) -> str:
        box = self.box
        answers = ", ".join(f"{a.task}='{a}'" for a in self.attributes)
        years = self.age_range
        return (
            f"FaceResult({box.x:.0f},{box.y:.0f} {box.width:.0f}×{box.height:.0f}, {answers}, "
            f"age_range='{years.label} {years.probability:.0%}')"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the crop beside the answers."""
        from faceattr.drawing import face_html

        return face_html(self)

    def show(self) -> None:
        """Show crop and answers in a notebook; elsewhere print them and open the crop."""
        from faceattr.drawing import show_face

        show_face(self)

    def to_row(self) -> dict[str, Any]:
        """One flat row for a table, with the columns `ROW`: box, detector, answers."""
        box = self.box.to_dict()
        row = {**box, "score": _rounded(self.score), "detector": self.detector}
        for attribute in self.attributes:
            row[attribute.task] = attribute.display_label
            row[f"{attribute.task}_probability"] = round(attribute.probability, 6)
            row[f"{attribute.task}_unsure"] = attribute.unsure
        years = self.age_range
        row["age_range"] = years.label
        row["age_range_probability"] = round(years.probability, 6)
        row["may_be_under_20"] = years.may_be_under_20
        return row

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; the crop is left out."""
        points = None
        if self.landmarks is not None:
            points = {
                name: [round(x, 1), round(y, 1)]
                for name, (x, y) in zip(LANDMARKS, self.landmarks, strict=True)
            }
        return {
            "box": self.box.to_dict(),
            "score": _rounded(self.score),
            "detector": self.detector,
            "landmarks": points,
            "turn": self.turn,
            "crop_note": self.crop_note,
            **{attribute.task: attribute.to_dict() for attribute in self.attributes},
            "age_range": self.age_range.to_dict(),
        }


def to_pandas(results: Results) -> Any:
    """Faces as a `pandas.DataFrame`: one row a face, as `FaceResult.to_row`.

    Args:
        results: the faces of one image, as `pipeline(image)` and `classify_crops` give them; those
            of several, as `predict_batch` does, with a column `image` that counts from 0; or a
            mapping from names to faces, whose names that column holds. An image without a face
            has no row.

    Raises:
        MissingPackageError: where pandas is not installed.
        ArgumentTypeError: for what holds no results.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingPackageError(
            "to_pandas needs the package pandas; run pip install pandas"
        ) from error
    images = _by_image(results)
    rows = [
        {"image": image, "face": number, **face.to_row()}
        for image, faces in images
        for number, face in enumerate(faces, start=1)
    ]
    frame = pandas.DataFrame(rows, columns=["image", "face", *ROW])
    of_one = any(image is None for image, _ in images)
    return frame.drop(columns="image") if of_one else frame


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def _listed(faces: Any) -> list[Any]:
    return list(faces) if isinstance(faces, Iterable) else [faces]


def _by_image(results: Any) -> list[tuple[object, list[FaceResult]]]:
    """Faces with the name or number of their image, or None where all are of one."""
    if isinstance(results, FaceResult):
        return [(None, [results])]
    if isinstance(results, Mapping):
        found = [(name, _listed(entry)) for name, entry in results.items()]
    elif isinstance(results, Iterable):
        entries = list(results)
        if all(isinstance(entry, FaceResult) for entry in entries):
            found = [(None, entries)]
        else:
            found = [(number, _listed(entry)) for number, entry in enumerate(entries)]
    else:
        found = [(None, [results])]
    wrong = [face for _, faces in found for face in faces if not isinstance(face, FaceResult)]
    if wrong:
        raise ArgumentTypeError(
            "results: expected what a pipeline returns (faces, or lists of faces), came "
            f"{type(wrong[0]).__name__}"
        )
    return found
