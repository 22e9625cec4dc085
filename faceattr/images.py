"""Anything that holds a picture → one upright RGB array, within limits.

Files and bytes are only offered to Pillow's readers for `FORMATS`; the size in bytes is checked
before a file is read and the size in pixels before a picture is decoded.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from faceattr.errors import ImageDecodeError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Formats that are read; of animations and multi-page files the first frame."""

MAX_BYTES = 15_000_000
MAX_PIXELS = 40_000_000

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any] | Picture"
)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_SIDE = (5, 6, 7, 8)
"""EXIF orientations of pictures whose stored width is the upright height."""
_JPEG_FLAGS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""By reduction; OpenCV's "reduced" flags without a colour are called grey."""

_ROWS = 256
_WARNINGS_LOCK = threading.Lock()


@dataclass(eq=False)
class Picture:
    """A picture whose header was read and whose size is within the limits; see `open_image`.

    Attributes:
        name: what messages call it.
        longer_side: in pixels.
        size: width and height of the upright picture in pixels; (0, 0) until it was decoded.
        decode_seconds: time spent decoding so far.
    """

    name: str
    longer_side: int
    _image: Image.Image
    _jpeg: bytes | None
    size: tuple[int, int] = (0, 0)
    decode_seconds: float = 0.0

    def reduction(self, side: int) -> int:
        """Largest of 1, 2, 4 and 8 that leaves the longer side at `side` pixels or more.

        JPEG files are read at a fraction of their size for a fraction of the cost; other
        pictures are not, and always give 1.
        """
        if self._jpeg is None:
            return 1
        return max(r for r in _JPEG_FLAGS if r == 1 or self.longer_side >= r * side)

    def decode(self, reduction: int = 1) -> NDArray[np.uint8]:
        """The upright picture, or a copy with its sides divided by `reduction` (rounded up).

        Args:
            reduction: as the method of that name gives it.

        Returns:
            A new contiguous uint8 array `(H, W, 3)`, RGB.

        Raises:
            ImageDecodeError: for damaged data.
        """
        start = time.perf_counter()
        try:
            return self._decode(reduction)
        finally:
            self.decode_seconds += time.perf_counter() - start

    def _decode(self, reduction: int) -> NDArray[np.uint8]:
        if self._jpeg is not None:
            pixels = _decode_jpeg(self._jpeg, reduction)
            # Pillow says what is wrong with a file that OpenCV does not read, or reads it.
            if pixels is not None:
                orientation = _orientation(self._image)
                width, height = self._image.size
                self.size = (height, width) if orientation in _ON_SIDE else (width, height)
                return _turn_jpeg(pixels, orientation)
        with _decoding(self.name):
            self._image.load()
            whole = np.array(_to_rgb(_upright(self._image), self.name), np.uint8, order="C")
        height, width = whole.shape[:2]
        self.size = (width, height)
        if reduction == 1:
            return whole
        return shrink(whole, -(-width // reduction), -(-height // reduction))


def open_image(
    source: ImageSource, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Read a picture's header; arguments and errors as `decode_image`."""
    if isinstance(source, Picture):
        return source
    content = None
    if isinstance(source, np.ndarray):
        image, name = _from_array(source, max_pixels), "the array"
    elif isinstance(source, Image.Image):
        image, name = source, "the PIL image"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name = "the data"
        content = _checked_bytes(source, name, max_bytes)
    elif isinstance(source, (str, os.PathLike)):
        name = _shown_name(source)
        content = _read_file(source, name, max_bytes)
    else:
        raise ImageDecodeError(
            "expected a picture as path, bytes, PIL image or array, "
            f"came {type(source).__module__}.{type(source).__qualname__}"
        )
    if content is not None:
        image = _open(content, name)
    _check_size(image.width, image.height, name, max_pixels)
    is_jpeg = content is not None and image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    return Picture(name, max(image.size), image, content if is_jpeg else None)


def decode_image(
    source: ImageSource, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read a picture as people see it.

    EXIF orientation is applied, transparency is laid on white, grey becomes RGB, 16-bit samples
    are scaled to 8 bits, colour profiles are not applied. PIL's modes "I" and "F" do not say
    their range: the smallest of 1 ("F" only), 255 and 65535 that holds every sample is white.
    JPEG files are decoded by OpenCV, twice as fast and to the same pixels as by Pillow.

    Args:
        source: path of a file; the bytes of a file; a PIL image; an array `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA of bool, uint8, uint16 or
            floats in 0 to 1; or what `open_image` gave, whose limits were checked then.
        max_bytes: largest file, or bytes, in bytes; not applied to PIL images and arrays.
        max_pixels: largest width times height.

    Returns:
        A new contiguous uint8 array `(H, W, 3)`, RGB.

    Raises:
        ImageDecodeError: for whatever cannot be read or exceeds a limit.
    """
    return open_image(source, max_bytes=max_bytes, max_pixels=max_pixels).decode()


def _decode_jpeg(content: bytes, reduction: int) -> NDArray[np.uint8] | None:
    """RGB pixels as they are stored, or None for what OpenCV cannot read."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _JPEG_FLAGS[reduction]
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _turn_jpeg(pixels: NDArray[np.uint8], orientation: int | None) -> NDArray[np.uint8]:
    """As `_upright`, for an array."""
    turned: Any = pixels
    if orientation in _ON_SIDE:
        turned = cv2.transpose(turned)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation or 1)
    if flip is not None:
        turned = cv2.flip(turned, flip)
    return np.ascontiguousarray(turned)


def shrink(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Make a picture smaller by averaging.

    OpenCV's area averaging takes time for every pixel it reads, except where it halves. So even
    sides are halved first; the result differs from averaging at once by 0.4 grey levels in the
    mean.
    """
    area = cv2.INTER_AREA
    while all(
        s >= 2 * t and s % 2 == 0 for s, t in zip(image.shape, (height, width), strict=False)
    ):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=area), np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=area), np.uint8)


def require_rgb(image: NDArray[Any]) -> None:
    """Refuse what is not a picture as `decode_image` returns it.

    Raises:
        ValueError: unless the array is uint8 `(H, W, 3)` with at least one pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"expected a uint8 image (H, W, 3), came shape {image.shape} and dtype {image.dtype}"
        )


def _shown_name(path: str | os.PathLike[str]) -> str:
    """The file's own name for a message; folders of a server are nobody's business."""
    name = Path(os.fsdecode(path)).name
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _read_file(path: str | os.PathLike[str], name: str, max_bytes: int) -> bytes:
    try:
        file = Path(os.fsdecode(path))
        if not file.exists():
            raise ImageDecodeError(f"there is no file {name}; check the path")
        if not file.is_file():
            raise ImageDecodeError(f"expected a picture file, but {name} is not a regular file")
        _check_bytes(file.stat().st_size, name, max_bytes)
        with file.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise ImageDecodeError(f"cannot read the file {name}: {reason}") from error
    return _checked_bytes(content, name, max_bytes)


def _check_bytes(count: int, name: str, max_bytes: int) -> None:
    if count > max_bytes:
        raise ImageDecodeError(
            f"{name}: expected at most {max_bytes:,} bytes, came {count:,}; "
            "shrink the picture or save it with more compression"
        )
    if count == 0:
        raise ImageDecodeError(f"{name}: expected a picture, came 0 bytes")


def _checked_bytes(content: bytes | bytearray | memoryview, name: str, max_bytes: int) -> bytes:
    _check_bytes(
        content.nbytes if isinstance(content, memoryview) else len(content), name, max_bytes
    )
    return bytes(content)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageDecodeError(f"{name}: expected at least one pixel, came {width} x {height}")
    if width * height > max_pixels:
        raise ImageDecodeError(
            f"{name}: expected at most {max_pixels:,} pixels, came {width} x {height}; "
            "shrink the picture"
        )


@cache
def _readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this build of Pillow has a reader for (MPO comes with JPEG)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Pillow's warnings: on size our own limit decides, on odd metadata nobody need act.

    Python keeps its warning filters per process, hence the lock, and hence this surrounds the
    reading of headers only, which takes well under a millisecond.
    """
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn what Pillow raises into `ImageDecodeError`."""
    try:
        yield
    except ImageDecodeError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(_readable_formats())
        raise ImageDecodeError(f"{name} is not a picture; expected one of {known}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ImageDecodeError(f"{name} has too many pixels; shrink the picture") from error
    # Pillow's readers raise nearly any type for damaged data (struct.error, EOFError, ...).
    except Exception as error:
        raise ImageDecodeError(
            f"{name} is damaged, cut off or of an unusual kind ({type(error).__name__}); "
            "open it in a picture editor and save it again as JPEG or PNG"
        ) from error


def _open(content: bytes, name: str) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    with _decoding(name), _quiet():
        return Image.open(BytesIO(content), formats=_readable_formats())


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    """An array as an 8-bit PIL image."""
    came = f"came shape {array.shape} and dtype {array.dtype}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageDecodeError(
            f"expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), {came}"
        )
    _check_size(array.shape[1], array.shape[0], "the array", max_pixels)
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    if kind == "f" and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ImageDecodeError(f"expected finite floats in 0 to 1, {came} with values outside")
    if kind not in "bf" and (kind, bits) not in (("u", 8), ("u", 16)):
        raise ImageDecodeError(f"expected bool, uint8, uint16 or floats in 0 to 1, {came}")
    white = 1 if kind in "bf" else 2**bits - 1
    pixels = array if (kind, bits) == ("u", 8) else _to_8_bits(array, white)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_8_bits(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Scale 0..`white` to 0..255, to the nearest."""
    scaled = np.empty(values.shape, np.uint8)
    # A few rows at a time: doubles of a whole large picture take eight times its memory.
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS].astype(np.float64) * (255 / white)
        scaled[start : start + _ROWS] = np.rint(rows)
    return scaled


def _orientation(image: Image.Image) -> int | None:
    """EXIF's orientation, 2 to 8; None for upright pictures and unreadable EXIF data."""
    try:
        with _quiet():
            orientation = image.getexif().get(_ORIENTATION_TAG)
    except (OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, AttributeError):
        return None
    return orientation if isinstance(orientation, int) and orientation in _UPRIGHT else None


def _upright(image: Image.Image) -> Image.Image:
    """Undo the camera's rotation; a picture with unreadable EXIF data stays as it is stored."""
    turn = _UPRIGHT.get(_orientation(image) or 1)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any mode → RGB, transparent parts on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_to_grey(image, name)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _deep_to_grey(image: Image.Image, name: str) -> Image.Image:
    """One channel of 16 or 32 bits → 8-bit grey."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        white = 65535
    else:
        low, high = float(values.min()), float(values.max())
        scales = [s for s in (1, 255, 65535) if high <= s and (s > 1 or image.mode == "F")]
        if not np.isfinite(values).all() or low < 0 or not scales:
            raise ImageDecodeError(
                f"{name}: expected grey values in 0 to 65535, came {low:g} to {high:g}; "
                "scale them to 0 to 255 and save the picture as PNG"
            )
        white = scales[0]
    grey = _to_8_bits(values, white)
    see_through = image.info.get("transparency")
    if see_through is not None:
        grey[values == see_through] = 255
    return Image.fromarray(grey)
