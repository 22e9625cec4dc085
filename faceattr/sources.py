"""Anything that may hold an image → a file's bytes or an 8-bit PIL image, and a name for messages.

Nothing is decoded here, and nothing is fetched from a network.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceattr.errors import ImageDecodeError, ImageNotFoundError, ImageTypeError
from faceattr.limits import too_many_bytes, too_many_pixels

RawSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any] "
    "| Image.Image | NDArray[Any]"
)

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_ROWS = 256
_PIECE = 1 << 20


def read_source(
    source: RawSource, *, max_bytes: int, max_pixels: int, channels: str
) -> tuple[str, bytes | Image.Image]:
    """What messages call an image, and its file's content or its pixels.

    Args:
        source: see `faceattr.images.decode_image`.
        max_bytes: as there.
        max_pixels: as there.
        channels: "rgb" or "bgr".

    Raises:
        ImageTypeError: for what cannot hold an image.
        ImageDecodeError: for a file that cannot be read, too many bytes or pixels, and an
            array of a kind that is not read.
    """
    if isinstance(source, np.ndarray):
        return "the array", _from_array(source, max_pixels, channels)
    if isinstance(source, Image.Image):
        return "the PIL image", source
    if isinstance(source, (bytes, bytearray, memoryview)):
        count = source.nbytes if isinstance(source, memoryview) else len(source)
        check_bytes(count, "the data", max_bytes)
        return "the data", bytes(source)
    if isinstance(source, (str, os.PathLike)):
        name = _shown_name(source)
        return name, _read_file(source, name, max_bytes)
    if isinstance(source, Mapping):
        return _read_row(source, max_bytes)
    if callable(getattr(source, "read", None)):
        return _read_stream(source, max_bytes)
    kind = f"{type(source).__module__}.{type(source).__qualname__}".removeprefix("builtins.")
    advice = "; convert it with .numpy(), channels last" if kind.startswith("torch.") else ""
    raise ImageTypeError(
        "expected an image as path, bytes, file object, row {'bytes': ..., 'path': ...}, PIL "
        f"image or NumPy array, came {kind}{advice}"
    )


def _read_row(row: Mapping[str, Any], max_bytes: int) -> tuple[str, bytes]:
    """An image of the Hub's data sets as it is stored: its bytes, or else the path of its file."""
    content, path = row.get("bytes"), row.get("path")
    name = _shown_name(path) if isinstance(path, (str, os.PathLike)) else "the row's image"
    if isinstance(content, (bytes, bytearray, memoryview)):
        check_bytes(len(content), name, max_bytes)
        return name, bytes(content)
    if content is None and isinstance(path, (str, os.PathLike)):
        return name, _read_file(path, name, max_bytes)
    keys = ", ".join(map(repr, list(row)[:8])) or "none"
    raise ImageTypeError(
        "expected a row of the form {'bytes': ..., 'path': ...} with one of them set, came a "
        f"mapping with the keys {keys}; pass the value that is the image"
    )


def _read_on(stream: Any, name: str, max_bytes: int) -> bytes:
    """What is left, to one piece above `max_bytes` at most.

    Piece by piece: Python sets aside at once all that a call may give, and some streams give less
    than there is.
    """
    pieces: list[bytes] = []
    while sum(map(len, pieces)) <= max_bytes:
        piece = stream.read(_PIECE)
        if not isinstance(piece, bytes):
            raise ImageTypeError(f"{name}: expected a file opened in binary mode: open(path, 'rb')")
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


def _read_stream(stream: Any, max_bytes: int) -> tuple[str, bytes]:
    """What a file object still has, as far as `max_bytes`."""
    path = getattr(stream, "name", None)
    name = _shown_name(path) if isinstance(path, (str, os.PathLike)) else "the file object"
    try:
        content = _read_on(stream, name, max_bytes)
    except ImageDecodeError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageDecodeError(f"cannot read {name}: {reason}") from error
    if not content:
        advice = "check what writes to it"
        with contextlib.suppress(AttributeError, OSError, ValueError):
            advice = "it is at its end, call seek(0) before" if stream.tell() > 0 else advice
        raise ImageDecodeError(f"{name}: expected an image, came 0 bytes; {advice}")
    if len(content) > max_bytes:
        raise ImageDecodeError(f"{name}: {too_many_bytes(max_bytes)}")
    return name, content


def _shown_name(path: str | os.PathLike[str]) -> str:
    """The file's own name for a message; folders of a server are nobody's business."""
    name = Path(os.fsdecode(path)).name
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _read_file(path: str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    text = os.fsdecode(path)
    if _ADDRESS.match(text):
        kind = text.partition(":")[0]
        raise ImageDecodeError(
            f"expected an image's file, came an address ({kind}:...); nothing is fetched from a "
            "network here, so that no image or question leaves the machine unasked: download it "
            "first (e.g. urllib.request.urlopen(address).read()) and pass the bytes"
        )
    try:
        file = Path(text)
        if not file.exists():
            raise ImageNotFoundError(f"there is no file {name}; check the path")
        if not file.is_file():
            raise ImageDecodeError(f"expected an image file, but {name} is not a regular file")
        check_bytes(size := file.stat().st_size, name, max_bytes)
        with file.open("rb") as stream:
            content = stream.read(size + 1)
    except ImageDecodeError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise ImageDecodeError(f"cannot read the file {name}: {reason}") from error
    check_bytes(len(content), name, max_bytes)
    return content


def check_bytes(count: int, name: str, max_bytes: int) -> None:
    """Refuse an empty file and one of too many bytes.

    Raises:
        ImageDecodeError: naming what came.
    """
    if count > max_bytes:
        raise ImageDecodeError(f"{name}: {too_many_bytes(max_bytes, count)}")
    if count == 0:
        raise ImageDecodeError(f"{name}: expected an image, came 0 bytes")


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Refuse an image without pixels and one with too many.

    Raises:
        ImageDecodeError: naming what came.
    """
    if width < 1 or height < 1:
        raise ImageDecodeError(f"{name}: expected at least one pixel, came {width} x {height}")
    if width * height > max_pixels:
        raise ImageDecodeError(f"{name}: {too_many_pixels(max_pixels, (width, height))}")


def _from_array(array: NDArray[Any], max_pixels: int, channels: str) -> Image.Image:
    """An array as an 8-bit PIL image."""
    came = f"came shape {array.shape} and dtype {array.dtype}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageDecodeError(
            f"expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), {came}"
        )
    check_size(array.shape[1], array.shape[0], "the array", max_pixels)
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f" and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ImageDecodeError(
            f"expected finite floats in 0 to 1, {came} with values outside; divide by the "
            "largest value there can be, or pass .astype('uint8') of values in 0 to 255"
        )
    if kind not in "bf" and (kind, bits) not in (("u", 8), ("u", 16)):
        raise ImageDecodeError(f"expected bool, uint8, uint16 or floats in 0 to 1, {came}")
    if (kind, bits) == ("u", 8):
        pixels = array
    elif kind in "bf":
        pixels = to_8_bits(array, 1)
    else:
        pixels = to_8_bits(array, white_of(float(array.max())))
    if channels == "bgr" and pixels.ndim == 3 and pixels.shape[2] >= 3:
        pixels = pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def white_of(highest: float) -> int:
    """The white level of whole numbers up to `highest`: 255, or 65535 where that is not enough.

    Samples of 8 bits are often kept in 16; taken for 16 bits they would all be black.
    """
    return 255 if highest <= 255 else 65535


def to_8_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Scale 0..`white` to 0..255, to the nearest."""
    scaled = np.empty(values.shape, np.uint8)
    # A few rows at a time: doubles of a whole large image take eight times its memory.
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS].astype(np.float64) * (255 / white)
        scaled[start : start + _ROWS] = np.rint(rows)
    return scaled
