"""`faceattr predict`: classify the faces of images from the command line."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from faceattr import arguments
from faceattr.detection import MIN_FACE
from faceattr.drawing import annotate
from faceattr.errors import (
    ArgumentError,
    CropWarning,
    FaceAttrError,
    ImageDecodeError,
    ImageNotFoundError,
    said_of,
)
from faceattr.images import ENDINGS, OpenedImage, open_image
from faceattr.limits import MOST_THREADS, OWN_PIXELS
from faceattr.pipeline import FacePipeline
from faceattr.results import ROW, FaceResult

DESCRIPTION = (
    "Find every face in images and print its perceived gender, age group and race with "
    "probabilities, unsure ones with a question mark, and in brackets the likeliest range of age. "
    "Labels are how FairFace's annotators perceived faces, not who people are."
)

COLUMNS = ("image", "face", *ROW, "error")
"""Of `--csv`: one row a face; one without a face's columns for an image with none or an error."""

_LONGEST_STEM = 180
"""Bytes of a file's name that written files keep: file systems allow 255 in all."""

T = TypeVar("T")


def _checked(check: Callable[[Any], T], kind: type[int] | type[float]) -> Callable[[str], T]:
    """A type for `argparse` that refuses with the library's own words."""

    def parse(text: str) -> T:
        value: object = text
        with contextlib.suppress(ValueError):
            value = kind(text)
        try:
            return check(value)
        except ArgumentError as error:
            # The parser names the argument itself.
            raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None

    return parse


def _whole(name: str, least: int, most: int | None = None) -> Callable[[str], int]:
    return _checked(lambda value: arguments.whole_number(name, value, least, most), int)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `faceattr predict`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files; folders, with all below them; or - for one image from standard input",
    )
    lines = parser.add_mutually_exclusive_group()
    lines.add_argument("--json", action="store_true", help="one JSON object a line and image")
    lines.add_argument("--csv", action="store_true", help="a table with one row a face")
    parser.add_argument("--save-annotated", type=Path, metavar="DIR", help="write numbered boxes")
    parser.add_argument("--save-crops", type=Path, metavar="DIR", help="write each face's crop")
    faces = parser.add_argument_group("faces")
    faces.add_argument(
        "--detector",
        choices=["auto", "yunet", "haar", "none"],
        default="auto",
        help="none: as --crops (default: %(default)s)",
    )
    faces.add_argument("--crops", action="store_true", help="each image already is one face's crop")
    faces.add_argument(
        "--align", action="store_true", help="with --crops: find the face in it and cut it anew"
    )
    faces.add_argument(
        "--detect",
        choices=["fast", "thorough"],
        default="fast",
        help="thorough: small faces of large images, too, at many times the cost; YuNet only "
        "(default: %(default)s)",
    )
    faces.add_argument(
        "--min-face",
        type=_checked(lambda value: arguments.pixels("min_face", value, MIN_FACE), float),
        default=MIN_FACE,
        metavar="PIXELS",
        help="least width of a face, from %(default)g on: narrower ones tell nothing reliable "
        "(default: %(default)g)",
    )
    faces.add_argument(
        "--max-faces",
        type=_whole("max_faces", 1),
        metavar="N",
        help="keep only the largest N of an image",
    )
    faces.add_argument(
        "--max-pixels",
        type=_whole("max_pixels", 1),
        default=OWN_PIXELS,
        metavar="N",
        help="largest width times height of an image (default: %(default)s)",
    )
    _add_network_arguments(parser.add_argument_group("network"))


def _add_network_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", help="weights folder, Hub id or name of bundled weights")
    group.add_argument("--revision", help="commit of the Hub repository")
    group.add_argument("--device", help="cpu (default), cuda or cuda:N; PyTorch only")
    group.add_argument(
        "--backend",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="what runs the network; auto: ONNX Runtime where the weights have a file for it and "
        "no device but cpu is given; answers agree within 0.01 (default: %(default)s)",
    )
    group.add_argument(
        "--mirror",
        action="store_true",
        help="answer with the mean over each face and its mirror image; twice the network's time",
    )
    group.add_argument(
        "--threads",
        type=_whole("threads", 1, MOST_THREADS),
        metavar="N",
        help="that compute together (default: one a processor)",
    )


def _check_together(args: argparse.Namespace) -> bool:
    """Refuse options that would change nothing; whether each image is a crop.

    Raises:
        ArgumentError: naming the option, and what it goes with.
    """
    is_crop: bool = args.crops or args.detector == "none"
    if args.align and not is_crop:
        raise ArgumentError("--align: expected with --crops only; the faces of photos always are")
    if args.detector == "haar" and args.detect == "thorough":
        raise ArgumentError("--detect thorough: YuNet only; leave out --detector haar")
    if args.images.count("-") > 1:
        raise ArgumentError("'-': standard input can be read once only, came several times")
    idle = {
        f"--detector {args.detector}": args.detector not in ("auto", "none"),
        "--detect thorough": args.detect == "thorough",
        "--min-face": args.min_face > MIN_FACE,
        "--max-faces": args.max_faces is not None,
    }
    if is_crop:
        arguments.refuse_idle(idle, "with --crops, where each image is one face; leave out one")
    return is_crop


def _make_folder(option: str, folder: Path) -> None:
    """Make the folder that an option names, if it is not there.

    Raises:
        ArgumentError: when it cannot be made or written to.
    """
    reason = "may not be written to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    except FileExistsError:
        reason = "is a file"
    except OSError as error:
        reason = f"cannot be made: {(error.strerror or str(error)).lower()}"
    raise ArgumentError(
        f"{option}: expected a folder to write to, came {str(folder)!r}, which {reason}; "
        "name another folder"
    )


def files_of(images: Sequence[str]) -> list[str]:
    """The files that arguments name: each as it is, a folder's images in order of their names.

    Raises:
        ImageDecodeError: for a folder without an image, and for one that cannot be read.
    """
    files: list[str] = []
    for given in images:
        if given == "-" or not os.path.isdir(given):
            files.append(given)
            continue
        found = []
        for folder, below, names in os.walk(given, onerror=_refuse_folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            shown = (name for name in names if not name.startswith("."))
            found += [os.path.join(folder, n) for n in shown if Path(n).suffix.lower() in ENDINGS]
        if not found:
            raise ImageDecodeError(
                f"the folder {given!r} holds no image; expected files ending in "
                f"{', '.join(sorted(ENDINGS))}"
            )
        files += sorted(found)
    return files


def _refuse_folder(error: OSError) -> None:
    raise ImageDecodeError(
        f"the folder {error.filename!r} cannot be read: {said_of(error)}; make it readable, or "
        "name the others"
    ) from error


def _open(file: str, max_pixels: int) -> OpenedImage:
    """Open an image as its owner named it.

    Raises:
        ImageDecodeError: as `open_image`; for a missing file with the folder that was looked in.
    """
    try:
        if file == "-":
            if sys.stdin is None:
                raise ImageDecodeError("standard input is closed; send an image there")
            return open_image(sys.stdin.buffer, max_pixels=max_pixels)
        return open_image(file, max_pixels=max_pixels)
    except ImageNotFoundError:
        folder = Path(file).absolute().parent
        reason = "" if folder.is_dir() else ", which is not there either"
        raise ImageNotFoundError(
            f"there is no file {Path(file).name!r} in the folder {str(folder)!r}{reason}; "
            "check the path"
        ) from None


class _Lines:
    """Writes results in the form that was asked for, one line at a time, beside a progress bar."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._json, self._csv = args.json, args.csv
        # JSON's own escapes where the output cannot hold a letter.
        encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
        self._plain = encoding not in ("utf8", "utf16", "utf32")
        if self._csv:
            self._row(dict(zip(COLUMNS, COLUMNS, strict=True)))

    def faces(self, name: str, faces: Sequence[FaceResult]) -> None:
        """Write an image's faces."""
        if self._json:
            self._record({"image": name, "faces": [face.to_dict() for face in faces]})
        elif self._csv:
            for number, face in enumerate(faces, start=1):
                self._row({"image": name, "face": number, **face.to_row()})
            if not faces:
                self._row({"image": name})
        else:
            self._write(_table(name, faces))

    def notes(self, name: str, faces: Sequence[FaceResult]) -> None:
        """Write to standard error what is to be known of crops."""
        for face in faces:
            if face.crop_note:
                with tqdm.external_write_mode(file=sys.stderr):
                    print(f"note: {name}: {face.crop_note}", file=sys.stderr)

    def error(self, name: str, error: Exception) -> None:
        """Write why an image has no result, to standard error as well."""
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"error: {name}: {error}", file=sys.stderr)
        if self._json:
            self._record({"image": name, "error": str(error)})
        elif self._csv:
            self._row({"image": name, "error": str(error)})

    def _record(self, record: dict[str, Any]) -> None:
        self._write(json.dumps(record, ensure_ascii=self._plain))

    def _row(self, row: dict[str, Any]) -> None:
        with tqdm.external_write_mode(file=sys.stdout):
            writer = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
            writer.writerow(row)
            sys.stdout.flush()

    def _write(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stdout):
            print(text, flush=True)


def _table(name: str, faces: Sequence[FaceResult]) -> str:
    lines = [f"{name}: {len(faces)} face{'' if len(faces) == 1 else 's'}"]
    for number, face in enumerate(faces, start=1):
        box = face.box
        place = f"{box.x:.0f},{box.y:.0f} {box.width:.0f}×{box.height:.0f}"
        gender, age, race = (
            f"{a.display_label:<{width}} {a.probability:>4.0%}{'?' if a.unsure else ' '}"
            for a, width in zip(face.attributes, (6, 5, 15), strict=True)
        )
        years = face.age_range
        young = " may be under 20" if years.may_be_under_20 else ""
        span = f"({years.label} {years.probability:.0%})"
        lines.append(f"  {number:>3}  {place:<20} {gender} {age} {span:<12} {race}{young}".rstrip())
    return "\n".join(lines)


def _save(picture: OpenedImage, faces: Sequence[FaceResult], stem: str, args: Any) -> None:
    """Write what `--save-annotated` and `--save-crops` ask for."""
    if args.save_annotated:
        boxes = [face.box for face in faces]
        Image.fromarray(annotate(picture, boxes)).save(args.save_annotated / f"{stem}.png")
    if args.save_crops:
        for number, face in enumerate(faces, start=1):
            Image.fromarray(face.crop).save(args.save_crops / f"{stem}-{number:03d}.png")


def _stem(number: int, file: str) -> str:
    """Name without ending of a written file; the number keeps equal names apart."""
    stem = os.fsencode("stdin" if file == "-" else Path(file).stem)
    # Cut off between letters.
    name = stem[:_LONGEST_STEM].decode("utf-8", "ignore")
    return f"{number:03d}-{name}"


def _progress(values: Sequence[T]) -> Iterator[T]:
    """The values, with a bar on a terminal's standard error where there are several."""
    hidden = len(values) < 2 or not sys.stderr.isatty()
    yield from tqdm(values, unit="image", disable=hidden, file=sys.stderr)


def _crop(pipeline: FacePipeline, crop: OpenedImage, args: argparse.Namespace) -> list[FaceResult]:
    """The one answer about a crop; what is wrong with it is printed, not warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CropWarning)
        return pipeline.classify_crops([crop], align=args.align)


def run(args: argparse.Namespace) -> int:
    """Carry out `faceattr predict`.

    Returns:
        0 when every image was read, 1 when at least one was not, 2 when nothing could start.
    """
    try:
        is_crop = _check_together(args)
        pipeline = FacePipeline.from_pretrained(
            args.model,
            args.revision,
            "auto" if is_crop else args.detector,
            args.device,
            backend=args.backend,
            mirror=args.mirror,
            threads=args.threads,
            detect=args.detect,
        )
        for name in ("save_annotated", "save_crops"):
            if folder := getattr(args, name):
                _make_folder(f"--{name.replace('_', '-')}", folder)
        files = files_of(args.images)
    except (FaceAttrError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = 0
    lines = _Lines(args)
    options = {"min_face": args.min_face, "max_faces": args.max_faces}
    for number, file in enumerate(_progress(files), start=1):
        try:
            picture = _open(file, args.max_pixels)
            faces = _crop(pipeline, picture, args) if is_crop else pipeline(picture, **options)
        except (FaceAttrError, OSError) as error:
            failed += 1
            lines.error(file, error)
            continue
        lines.faces(file, faces)
        lines.notes(file, faces)
        try:
            _save(picture, faces, _stem(number, file), args)
        except OSError as error:
            failed += 1
            reason = error.strerror or error
            target = "the output" if error.filename is None else repr(error.filename)
            print(f"error: {file}: cannot write {target}: {reason}", file=sys.stderr)
    return 1 if failed else 0
