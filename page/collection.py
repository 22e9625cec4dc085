"""Up to fifty images, or a zip of them, in; shares with intervals out. Knows nothing of Gradio.

Nothing is kept: the images are looked at one by one, and only what a table says of a face stays,
until the answer is made.
"""

from __future__ import annotations

import io
import logging
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

import faceattr
from faceattr.audit.calibration import CalibrationTable, find_table
from faceattr.audit.collected import FLAGS, Collected
from faceattr.audit.faces import face_values
from faceattr.audit.measured import Question
from faceattr.audit.report import NO_TABLE, build_report
from faceattr.audit.words import counted
from faceattr.config import WEIGHTS_NAME
from faceattr.detection import MIN_FACE
from faceattr.errors import AuditError
from faceattr.hub import WeightsFiles, find_beside
from faceattr.images import ENDINGS
from faceattr.labels import TASKS
from faceattr.limits import too_many_bytes
from faceattr.saving import sha256
from page.errors import RequestError
from page.limits import Limits
from page.service import FaceService, Found, Source, read

_ZIP = b"PK\x03\x04"
_ENTRY = b"PK\x01\x02"
_MOST_ENTRIES = 2_000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that are unpacked no further than asked for; 400 bytes of bzip2 make 400 MB at once."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, OverflowError, RuntimeError, ValueError),
)
"""What Python's reader raises for wrong bytes, names and places, and for what it cannot unpack."""
log = logging.getLogger("faceattr")


@dataclass(frozen=True)
class Item:
    """An image that came, or why there is none.

    Attributes:
        name: of its file, within an archive with its folders.
        content: encoded image, or what reads it: nothing is unpacked before it is looked at.
    """

    name: str
    content: Source


def unpack(name: str, source: Source, limits: Limits) -> list[Item]:
    """The images of a zip archive; any other file as it is.

    Args:
        name: of the file.
        source: is read again for each image of an archive.
        limits: of images, and of the bytes of each as it is unpacked, whatever the archive states.

    Raises:
        RequestError: for an archive that is damaged, or has no images or too many.
    """
    try:
        content = read(source)
    except RequestError as error:
        return [Item(name, error)]
    if not content.startswith(_ZIP):
        return [Item(name, source)]
    # Counted before they are read: what the archive states may be wrong.
    if (entries := content.count(_ENTRY)) > _MOST_ENTRIES:
        raise RequestError(
            "too_large", f"expected at most {_MOST_ENTRIES:,} files in the zip, came {entries:,}"
        )
    with _opened(content) as archive:
        wanted = [entry for entry in archive.infolist() if _is_image(entry)]
    check_count(len(wanted), limits)
    return [Item(entry.filename, partial(_unpacked, source, entry, limits)) for entry in wanted]


def _unpacked(source: Source, entry: zipfile.ZipInfo, limits: Limits) -> bytes:
    with _opened(read(source)) as archive:
        if entry.compress_type not in _METHODS:
            raise zipfile.BadZipFile(f"compression method {entry.compress_type}")
        with archive.open(entry) as stream:
            data = stream.read(limits.max_bytes + 1)
    if len(data) > limits.max_bytes:
        raise RequestError("too_large", too_many_bytes(limits.max_bytes))
    return data


@contextmanager
def _opened(content: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield archive
    except _BROKEN as error:
        raise RequestError(
            "bad_picture", "the zip archive is damaged, encrypted or of an unusual kind"
        ) from error


def _is_image(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in ENDINGS and not hidden and not entry.is_dir()


def check_count(count: int, limits: Limits) -> None:
    """Refuse a collection by its number of images.

    Raises:
        RequestError: "bad_request" for none, or more than `Limits.max_collection`.
    """
    if not 1 <= count <= limits.max_collection:
        raise RequestError(
            "bad_request",
            f"expected 1 to {limits.max_collection} images, came {count}; `faceattr audit` on "
            "your own computer takes any number",
        )


@dataclass
class Gathered:
    """What is known of a collection while it is looked at: no pixel.

    Attributes:
        images: a row each: number, name, faces, and kind and message of an error or "".
        faces: a row each: number and name of its image, then as `face_values`.
        remarks: names of crops that were handed in, and what is wrong with them.
        truncated: number of images with more faces than were taken.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    faces: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    truncated: int = 0

    def add(self, name: str, found: Found | RequestError) -> None:
        """Note what one image gave."""
        image = {"image": len(self.images), "name": name, "faces": 0, "error": "", "message": ""}
        self.images.append(image)
        if isinstance(found, RequestError):
            image |= {"error": found.kind, "message": str(found)}
            return
        image["faces"] = len(found.faces)
        self.truncated += found.truncated
        for place, face in enumerate(found.faces):
            if face.crop_note:
                self.remarks.append((name, face.crop_note))
            values = face_values(place, face, *found.picture.size)
            self.faces.append({"image": image["image"], "name": name, **values})

    @property
    def unused(self) -> list[tuple[str, str]]:
        """Names of images that gave no face, and why: what could not be read first."""
        failed = [(image["name"], image["message"]) for image in self.images if image["error"]]
        empty = [i["name"] for i in self.images if not (i["faces"] or i["error"])]
        return failed + [(name, "no face found") for name in empty]

    def collected(self) -> Collected:
        """As the statistics want it."""
        failed = [image for image in self.images if image["error"]]
        kinds = sorted(image["error"] for image in failed)
        of_images = [-1 if image["error"] else image["faces"] for image in self.images]

        def column(name: str, kind: Any = np.bool_) -> NDArray[Any]:
            return np.array([face[name] for face in self.faces], kind)

        return Collected(
            images=len(self.images),
            failed=Counter(kinds),
            messages={image["error"]: (image["name"], image["message"]) for image in failed},
            faces_of=np.array(of_images, np.int64),
            image=column("image", np.int64),
            probabilities={
                task.name: np.stack(
                    [column(f"{task.name}:{name}", np.float32) for name in task.classes], axis=1
                )
                for task in TASKS
            },
            unsure={task.name: column(f"{task.name}_unsure") for task in TASKS},
            flags={flag: column(flag) for flag in FLAGS},
        )


def look(service: FaceService, item: Item, *, crops: bool) -> Found | RequestError:
    """The faces of one image, or why there are none."""
    try:
        return service.whole(item.content) if crops else service.find(item.content)
    except RequestError as error:
        return error


def report(service: FaceService, gathered: Gathered, *, crops: bool) -> dict[str, Any]:
    """The report's values, as `faceattr audit` gives them."""
    info = service.pipeline.info
    files = service.pipeline.files
    weights = None if files is None else files.weights
    facts: dict[str, Any] = {
        "source": counted(len(gathered.images), "uploaded image"),
        "kind": "upload",
        "created": date.today().isoformat(),
        "revision": None,
        "notes": [],
        "weights": {
            "model": info.model,
            "revision": info.revision,
            "sha256": "" if weights is None else sha256(weights),
            "file": "" if weights is None else weights.name,
        },
        "detector": "none" if crops else info.detector,
        "detect": "fast",
        "min_face": MIN_FACE,
        "backend": info.backend,
        "mirror": info.mirror,
        "crops": crops,
        "columns": [],
        "faceattr": faceattr.__version__,
    }
    table, why_not = (None, NO_TABLE) if files is None else _calibration(files)
    values = build_report(gathered.collected(), facts, Question(), table, why_not)
    if gathered.truncated:
        said = f"of {counted(gathered.truncated, 'image')} only the {service.limits.max_faces:,} "
        said += "largest were taken."
        values["warnings"].append({"title": "Not all faces are counted:", "text": said})
    return values


def _calibration(files: WeightsFiles) -> tuple[CalibrationTable | None, str]:
    """The table of the weights in use, or None and why there is none."""
    original = find_beside(files, WEIGHTS_NAME)
    try:
        return find_table(files, None if original is None else sha256(original)), NO_TABLE
    except AuditError as error:
        log.warning("collections are not corrected: %s", error)
        return None, "The calibration table beside these weights cannot be used"
