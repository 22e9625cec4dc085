"""What a worker does: references of one part in, one Parquet table of rows out.

The same code runs in a process of this machine and in an actor of Ray, so that both write the
same bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceattr import labels
from faceattr.audit.faces import SOURCE_PREFIX, face_values
from faceattr.audit.places import Loaded, ParquetColumns, Reader, ReadError, Ref, as_text
from faceattr.detection import MIN_FACE
from faceattr.errors import CropWarning, ImageDecodeError
from faceattr.images import open_image
from faceattr.pipeline import FacePipeline
from faceattr.results import FaceResult

PART_SIZE = 256
"""Images of a part; what a killed run has to do again is less than one a worker."""

BATCH = 16
"""Images that are found, cut and classified together."""


@dataclass(frozen=True)
class Settings:
    """What rows depend on, beside the images.

    Attributes:
        model: as `FacePipeline.from_pretrained`.
        revision: of the weights, likewise.
        detector: "auto", "yunet", "haar" or another that the pipeline knows.
        backend: likewise.
        mirror: likewise.
        crops: whether every image already is one face.
        columns: of the source that are kept.
        root: for `Reader`.
        http: for `Reader`.
        parquet: for `Reader`.
        min_face: as `FacePipeline.predict_batch`.
        detect: "fast" or "thorough", as `FacePipeline.from_pretrained`.
    """

    model: str | None = None
    revision: str | None = None
    detector: str = "auto"
    backend: str = "auto"
    mirror: bool = False
    crops: bool = False
    columns: tuple[str, ...] = ()
    root: str | None = None
    http: bool = False
    parquet: ParquetColumns | None = None
    min_face: float = MIN_FACE
    detect: str = "fast"

    def pipeline(self) -> FacePipeline:
        """Load the weights and the detector; errors as `FacePipeline.from_pretrained`."""
        backend: Any = self.backend
        detect: Any = self.detect
        detector = "haar" if self.crops else self.detector
        return FacePipeline.from_pretrained(
            self.model,
            self.revision,
            detector,
            backend=backend,
            mirror=self.mirror,
            threads=1,
            detect=detect,
        )


def face_fields() -> list[tuple[str, pa.DataType]]:
    """Columns of a face, in order."""
    fields: list[tuple[str, pa.DataType]] = [
        ("face", pa.int32()),
        *((name, pa.float32()) for name in ("x", "y", "width", "height", "score")),
        ("detector", pa.string()),
        ("turn", pa.int32()),
        ("crop_note", pa.string()),
        *((flag, pa.bool_()) for flag in ("small", "blurred", "cut")),
    ]
    for task in labels.TASKS:
        fields += [(task.name, pa.string()), (f"{task.name}_unsure", pa.bool_())]
        fields += [(f"{task.name}:{name}", pa.float32()) for name in task.classes]
    return fields


def image_fields(columns: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    """Columns of an image, in order; those of the source are text."""
    return [
        ("image", pa.int64()),
        ("id", pa.string()),
        ("name", pa.string()),
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("faces", pa.int32()),
        ("error", pa.string()),
        ("message", pa.string()),
        *((SOURCE_PREFIX + name, pa.string()) for name in columns),
    ]


def part_schema(columns: Sequence[str]) -> pa.Schema:
    """A row an image with its faces as a list, so that ids stay unique."""
    found = pa.list_(pa.struct([pa.field(*item) for item in face_fields()]))
    return pa.schema([*image_fields(columns), ("found", found)])


class Worker:
    """Runs the pipeline over parts; one process, one thread."""

    def __init__(self, settings: Settings) -> None:
        """Load the network; errors as `FacePipeline.from_pretrained`."""
        self.settings = settings
        self.pipeline = settings.pipeline()
        self._schema = part_schema(settings.columns)
        self._reader = Reader(root=settings.root, http=settings.http, parquet=settings.parquet)

    def table(
        self,
        first: int,
        refs: Sequence[Ref],
        *,
        skip: Collection[int] = (),
        alone: Callable[[int], None] | None = None,
    ) -> bytes:
        """The rows of a part as a Parquet file.

        Args:
            first: number of its first image within the collection.
            refs: the part's images.
            skip: positions within the part of images that end the process.
            alone: called with each position before its image is worked on; images are then
                worked on one by one.
        """
        rows: list[dict[str, Any]] = []
        step = 1 if alone else BATCH
        for start in range(0, len(refs), step):
            if alone:
                alone(start)
            skipped = [p - start for p in skip if start <= p < start + step]
            rows += self._rows(refs[start : start + step], skipped)
        for number, row in enumerate(rows, start=first):
            row["image"] = number
        buffer = io.BytesIO()
        table = pa.Table.from_pylist([_storable(row) for row in rows], schema=self._schema)
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    def _rows(self, refs: Sequence[Ref], skipped: Collection[int]) -> list[dict[str, Any]]:
        """Rows of a few images, faces classified together."""
        rows: list[dict[str, Any]] = []
        images: list[tuple[dict[str, Any], Any]] = []
        for position, ref in enumerate(refs):
            row = _empty_row(ref)
            rows.append(row)
            try:
                if position in skipped:
                    raise ReadError("crashed", "reading it ended the process", ref.columns)
                loaded = self._reader.read(ref)
                self._name(row, loaded.columns, loaded.name)
                images.append((row, open_image(_path_or_bytes(loaded))))
            except ReadError as error:
                self._name(row, error.columns, ref.name)
                row.update(error=error.kind, message=str(error))
            except ImageDecodeError as error:
                row.update(error="undecodable", message=str(error))
        self._find(images)
        return rows

    def _find(self, images: Sequence[tuple[dict[str, Any], Any]]) -> None:
        """Fill in the faces of images whose headers were read.

        Raises:
            FaceAttrError: for whatever is no image's fault, such as an option of the detector.
        """
        if not images:
            return
        try:
            found = self._predict([image for _, image in images])
        except ImageDecodeError as error:
            if len(images) == 1:
                images[0][0].update(error="undecodable", message=str(error))
            else:
                # One of them is damaged within: each for itself then.
                for one in images:
                    self._find([one])
            return
        for (row, image), faces in zip(images, found, strict=True):
            width, height = image.size
            values = [face_values(number, face, width, height) for number, face in enumerate(faces)]
            row.update(image_width=width, image_height=height, faces=len(faces), found=values)

    def _predict(self, images: Sequence[Any]) -> list[list[FaceResult]]:
        if self.settings.crops:
            with warnings.catch_warnings():
                # The tables hold what they say, face by face.
                warnings.simplefilter("ignore", CropWarning)
                return [[face] for face in self.pipeline.classify_crops(images)]
        return self.pipeline.predict_batch(images, min_face=self.settings.min_face)

    def _name(self, row: dict[str, Any], columns: Mapping[str, Any], name: str) -> None:
        """Fill in what the source says of an image."""
        row["name"] = name or None
        for column in self.settings.columns:
            row[SOURCE_PREFIX + column] = as_text(columns.get(column))


def _empty_row(ref: Ref) -> dict[str, Any]:
    return {"id": ref.id, "faces": 0, "found": []}


def _storable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose texts are UTF-8; bytes of a file name that are none become escapes."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }


def _path_or_bytes(loaded: Loaded) -> Path | bytes:
    return Path(loaded.content) if isinstance(loaded.content, str) else loaded.content


SINGLE_THREAD = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_NUM_THREADS"), "1"
    ),
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Environment variables of a process that computes with one thread."""
