"""Anything that holds an image → one upright RGB array, within limits.

Files and bytes are only offered to Pillow's readers for `FORMATS`; the size in bytes is checked
before a file is read and the size in pixels before an image is decoded.
"""

from __future__ import annotations

import struct
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from faceattr import arguments
from faceattr.errors import ImageDecodeError, how_to_install
from faceattr.limits import OWN_BYTES, OWN_PIXELS, too_many_pixels
from faceattr.sources import RawSource, check_size, read_source, to_8_bits, white_of

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Formats that are read; of animations and multi-page files the first frame.

HEIC, an iPhone's own, is read as well where the package pillow-heif is installed.
"""

ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "bmp", "dib", "gif"),
        *("tif", "tiff", "avif", "avifs", "heic", "heif", "hif"),
    )
)
"""Endings, in lower case, of the files in folders and archives that are taken for images."""

CHANNELS = ("rgb", "bgr")
"""Orders of an array's channels."""

ImageSource: TypeAlias = "RawSource | OpenedImage"

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
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
"""EXIF orientations of images whose stored width is the upright height."""
JPEG_FLAGS = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's flags for a JPEG file at that fraction of its size, to be joined with a colour's.

Its "reduced" flags without a colour are called grey.
"""

_WARNINGS_LOCK = threading.Lock()


@dataclass(eq=False)
class OpenedImage:
    """An image whose header was read and whose size is within the limits; see `open_image`.

    Attributes:
        name: what messages call it.
        longer_side: in pixels.
        size: width and height of the upright image in pixels; (0, 0) until it was decoded.
        decode_seconds: time spent decoding so far.
    """

    name: str
    longer_side: int
    _image: Image.Image
    _jpeg: bytes | None
    size: tuple[int, int] = (0, 0)
    decode_seconds: float = 0.0

    @property
    def shorter_side(self) -> int:
        """In pixels."""
        return min(self._image.size)

    def reduction(self, side: int) -> int:
        """Largest of 1, 2, 4 and 8 that leaves the longer side at `side` pixels or more.

        JPEG files are read at a fraction of their size for a fraction of the cost; other
        images are not, and always give 1.
        """
        if self._jpeg is None:
            return 1
        return max(r for r in JPEG_FLAGS if r == 1 or self.longer_side >= r * side)

    def decode(self, reduction: int = 1) -> NDArray[np.uint8]:
        """The upright image, or a copy with its sides divided by `reduction` (rounded up).

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
            _load(self._image, self.name)
            whole = np.array(_to_rgb(_upright(self._image), self.name), np.uint8, order="C")
        height, width = whole.shape[:2]
        self.size = (width, height)
        if reduction == 1:
            return whole
        return shrink(whole, -(-width // reduction), -(-height // reduction))


def open_image(
    source: ImageSource,
    *,
    max_bytes: int = OWN_BYTES,
    max_pixels: int = OWN_PIXELS,
    channels: str = "rgb",
) -> OpenedImage:
    """Read an image's header; arguments and errors as `decode_image`."""
    arguments.choice("channels", channels, CHANNELS)
    max_bytes = arguments.whole_number("max_bytes", max_bytes, 1)
    max_pixels = arguments.whole_number("max_pixels", max_pixels, 1)
    if isinstance(source, OpenedImage):
        return source
    name, content = read_source(
        source, max_bytes=max_bytes, max_pixels=max_pixels, channels=channels
    )
    if isinstance(content, Image.Image):
        check_size(content.width, content.height, name, max_pixels)
        return OpenedImage(name, max(content.size), content, None)
    image = _open(content, name, max_pixels)
    check_size(image.width, image.height, name, max_pixels)
    is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    return OpenedImage(name, max(image.size), image, content if is_jpeg else None)


def decode_image(
    source: ImageSource,
    *,
    max_bytes: int = OWN_BYTES,
    max_pixels: int = OWN_PIXELS,
    channels: str = "rgb",
) -> NDArray[np.uint8]:
    """Read an image as people see it.

    EXIF orientation is applied, transparency is laid on white, grey becomes RGB, 16-bit samples
    are scaled to 8 bits, colour profiles are not applied. Neither 16-bit arrays nor PIL's modes
    "I" and "F" say their range: the smallest of 1 ("F" only), 255 and 65535 that holds every
    sample is white. JPEG files are decoded by OpenCV, twice as fast and to the same pixels as by
    Pillow.

    Args:
        source: path of a file; the bytes of a file; a binary file object such as `BytesIO`, read
            from where it stands; a row `{"bytes": ..., "path": ...}` as the Hub's data sets store
            images; a PIL image; an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)`
            RGBA of bool, uint8, uint16 or floats in 0 to 1; or what `open_image` gave, whose
            limits were checked then. Addresses are refused: nothing is fetched.
        max_bytes: largest file, or bytes, in bytes; not applied to PIL images and arrays.
        max_pixels: largest width times height. Servers set both lower (`faceattr.limits`).
        channels: order of an array's channels: "rgb", or "bgr" as OpenCV reads. Files and PIL
            images know theirs.

    Returns:
        A new contiguous uint8 array `(H, W, 3)`, RGB.

    Raises:
        ImageDecodeError: for whatever cannot be read or exceeds a limit; `ImageTypeError`, which
            is a TypeError as well, for what cannot hold an image, and `ImageNotFoundError`, a
            FileNotFoundError as well, for a missing file.
        ArgumentError: for a limit or order that cannot be.
    """
    return open_image(
        source, max_bytes=max_bytes, max_pixels=max_pixels, channels=channels
    ).decode()


def _decode_jpeg(content: bytes, reduction: int) -> NDArray[np.uint8] | None:
    """RGB pixels as they are stored, or None for what OpenCV cannot read."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | JPEG_FLAGS[reduction]
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
    """Make an image smaller by averaging.

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
    """Refuse what is not an image as `decode_image` returns it.

    Raises:
        ValueError: unless the array is uint8 `(H, W, 3)` with at least one pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"expected a uint8 image (H, W, 3), came shape {image.shape} and dtype {image.dtype}"
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
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(f"{name} has too many pixels; shrink the image") from error
    except MemoryError as error:
        raise ImageDecodeError(f"{name} has more pixels than memory holds; shrink it") from error
    # Pillow's readers raise nearly any type for damaged data (struct.error, EOFError, ...).
    except Exception as error:
        raise ImageDecodeError(
            f"{name} is damaged, cut off or of an unusual kind ({type(error).__name__}); "
            "open it in an image editor and save it again as JPEG or PNG"
        ) from error


def _open(content: bytes, name: str, max_pixels: int) -> Image.Image:
    """Read the header; no pixel is decoded yet."""
    formats = _readable_formats()
    is_iso = content[4:8] == b"ftyp"
    if is_iso and content[8:12] in _HEIC_BRANDS and _heic_is_readable():
        formats = (*formats, "HEIF")
    with _decoding(name), _quiet(), _pillows_limit(max_pixels):
        try:
            return Image.open(BytesIO(content), formats=formats)
        except Image.DecompressionBombError:
            raise ImageDecodeError(f"{name}: {too_many_pixels(max_pixels)}") from None
        except UnidentifiedImageError:
            raise ImageDecodeError(_unread(content, name)) from None


def _unread(content: bytes, name: str) -> str:
    """What to say of a file that no reader takes."""
    brand = content[8:12] if content[4:8] == b"ftyp" else b""
    if brand in _HEIC_BRANDS:
        if _heic_is_readable():
            return f"{name} is a HEIC image that is damaged or cut off; save it again as JPEG"
        return (
            f"{name} is a HEIC image, for which the package pillow-heif is needed; save it as "
            f"JPEG, or run {how_to_install('heif')}"
        )
    if brand in _AVIF_BRANDS and "AVIF" not in _readable_formats():
        return (
            f"{name} is an AVIF image, which this build of Pillow does not read; run "
            "pip install -U pillow, or save the image as JPEG"
        )
    return f"{name} is not an image; expected one of {', '.join(_readable_formats())}"


@cache
def _heic_is_readable() -> bool:
    """Whether pillow-heif is installed; if so, Pillow learns its format."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


@contextmanager
def _pillows_limit(max_pixels: int) -> Iterator[None]:
    """Let our limit decide where it is above Pillow's own, which holds for the whole process.

    Called under the lock of `_quiet`, for the reading of headers only.
    """
    before = Image.MAX_IMAGE_PIXELS
    if before is not None and max_pixels > before:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _orientation(image: Image.Image) -> int | None:
    """EXIF's orientation, 2 to 8; None for upright images and unreadable EXIF data."""
    try:
        with _quiet():
            orientation = image.getexif().get(_ORIENTATION_TAG)
    except (OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, AttributeError):
        return None
    except struct.error:  # Derived from nothing but Exception.
        return None
    return orientation if isinstance(orientation, int) and orientation in _UPRIGHT else None


def _load(image: Image.Image, name: str) -> None:
    """Decode, unless that was done before.

    Raises:
        ImageDecodeError: for an image that its owner has closed; otherwise what Pillow raises.
    """
    try:
        image.load()
    except (ValueError, AssertionError, AttributeError) as error:
        # Of an image read from a file, `fp` goes with the pixels or with being closed.
        if getattr(image, "fp", None) is None:
            raise ImageDecodeError(
                f"{name} is closed; pass it before it is closed (inside the `with` block), or "
                "call its load() there"
            ) from error
        raise


def _upright(image: Image.Image) -> Image.Image:
    """Undo the camera's rotation; an image with unreadable EXIF data stays as it is stored."""
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
        white = white_of(float(values.max()))
    else:
        low, high = float(values.min()), float(values.max())
        scales = [s for s in (1, 255, 65535) if high <= s and (s > 1 or image.mode == "F")]
        if not np.isfinite(values).all() or low < 0 or not scales:
            raise ImageDecodeError(
                f"{name}: expected grey values in 0 to 65535, came {low:g} to {high:g}; "
                "scale them to 0 to 255 and save the image as PNG"
            )
        white = scales[0]
    grey = to_8_bits(values, white)
    see_through = image.info.get("transparency")
    if see_through is not None:
        grey[values == see_through] = 255
    return Image.fromarray(grey)
