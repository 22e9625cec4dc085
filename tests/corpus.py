"""Good, odd and bad picture files, made here, each with the outcome it must have.

All good ones show `BASE`: red in its two upper quarters, which the tests' detector takes for two
faces, black below. An outcome is the number of faces, or part of the error's message.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, features
from PIL.PngImagePlugin import PngInfo

WIDTH, HEIGHT = 200, 160
NOT_A_PICTURE = "not an image; expected one of JPEG"
DAMAGED = "damaged, cut off or of an unusual kind"
TOO_MANY = "expected at most 40,000,000 pixels"
FAR_TOO_MANY = "expected at most 40,000,000 pixels an image, came more"

ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYG"
    "CAsICQoKCgoKBggLDAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoK"
    "CgoKCgoKCgoKCgoKCgoKCgoKCgr/yQARCACgAMgDAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AOf5"
    "pm8y8Xmb3gAAABT+dyfo9/wg6ID/2Q=="
)
"""`BASE` as a JPEG with arithmetic coding, which Pillow reads and does not write: `jpegtran`."""


def _base() -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2, :, 0] = 255
    return image


BASE = _base()


@dataclass(frozen=True)
class Case:
    """One file.

    Attributes:
        name: of the file, unique.
        kind: what it is an instance of.
        content: its bytes.
        outcome: number of faces, or part of the message of the refusal.
        close: largest difference of a decoded sample from `BASE`; None where it shows less.
    """

    name: str
    kind: str
    content: bytes
    outcome: int | str
    close: int | None = None


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes = b"", *extra: bytes, depth: int = 8) -> bytes:
    """A PNG of three channels with any header and any compressed body."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    values = Image.Exif()
    values[0x0112] = orientation
    return values.tobytes()


def turned(orientation: int) -> Image.Image:
    """`BASE` as a camera held that way stores it: the inverse of what viewers apply."""
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    image = Image.fromarray(BASE)
    image.info["exif"] = exif(inverse)
    turned = ImageOps.exif_transpose(image)
    turned.info.pop("exif", None)
    return turned


def _encodings(base: Image.Image) -> Iterator[Case]:
    yield Case("plain.png", "png", saved(base, "PNG"), 2, 0)
    yield Case("interlaced-name.jpg", "png named jpg", saved(base, "PNG"), 2, 0)
    yield Case("plain.bmp", "bmp", saved(base, "BMP"), 2, 0)
    yield Case("plain.tiff", "tiff", saved(base, "TIFF"), 2, 0)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        content = saved(base, "TIFF", compression=compression)
        yield Case(f"{compression}.tiff", "compressed tiff", content, 2, 0)
    yield Case("lossless.webp", "lossless webp", saved(base, "WEBP", lossless=True), 2, 0)
    yield Case("lossy.webp", "webp", saved(base, "WEBP", quality=90), 2, 60)
    yield Case("plain.jpg", "jpeg", saved(base, "JPEG", quality=95), 2, 60)
    yield Case("worst.jpg", "jpeg", saved(base, "JPEG", quality=20), 2, 90)
    yield Case("444.jpg", "jpeg", saved(base, "JPEG", quality=98, subsampling=0), 2, 8)
    yield Case("progressive.jpg", "progressive jpeg", saved(base, "JPEG", progressive=True), 2, 60)
    yield Case("restart.jpg", "jpeg with restarts", saved(base, "JPEG", restart_marker_rows=1), 2)
    content = base64.b64decode(ARITHMETIC)
    yield Case("arithmetic.jpg", "arithmetic jpeg", content, 2, 4)
    yield Case("plain.gif", "gif", saved(base, "GIF"), 2, 8)
    if features.check("avif"):
        yield Case("plain.avif", "avif", saved(base, "AVIF", quality=90), 2, 60)


def _modes(base: Image.Image) -> Iterator[Case]:
    yield Case("cmyk.jpg", "cmyk jpeg", saved(base.convert("CMYK"), "JPEG", quality=98), 2, 40)
    yield Case("cmyk.tiff", "cmyk tiff", saved(base.convert("CMYK"), "TIFF"), 2, 4)
    yield Case("palette.png", "palette png", saved(base.quantize(4), "PNG"), 2, 8)
    see_through = base.convert("RGBA")
    # Below, where the picture is black: transparent, so white.
    see_through.paste((255, 0, 0, 0), (0, HEIGHT // 2, WIDTH, HEIGHT))
    yield Case("rgba.png", "transparent png", saved(see_through, "PNG"), 2)
    yield Case("rgba.webp", "transparent webp", saved(see_through, "WEBP", lossless=True), 2)
    quantized = see_through.quantize(8)
    yield Case("palette-alpha.png", "palette with alpha", saved(quantized, "PNG"), 2)
    clear = Image.new("RGBA", base.size, (255, 0, 0, 0))
    yield Case("hidden-red.png", "hidden colour", saved(clear, "PNG"), 0)
    yield Case("la.png", "grey with alpha", saved(base.convert("LA"), "PNG"), 0)
    yield Case("grey.jpg", "grey jpeg", saved(base.convert("L"), "JPEG"), 0)
    yield Case("bits.png", "1-bit png", saved(base.convert("1"), "PNG"), 0)
    yield Case("bits.tiff", "1-bit tiff", saved(base.convert("1"), "TIFF", compression="group4"), 0)
    deep = BASE.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    yield Case("deep.png", "16-bit colour png", png(WIDTH, HEIGHT, rows, depth=16), 2, 0)
    grey16 = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    yield Case("grey16.png", "16-bit grey png", saved(grey16, "PNG"), 0)
    yield Case("grey16.tiff", "16-bit grey tiff", saved(grey16, "TIFF"), 0)
    unit = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    yield Case("float.tiff", "float tiff", saved(unit, "TIFF"), 0)
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("negative", -3.0)):
        bad = Image.fromarray(np.full((8, 8), value, np.float32))
        yield Case(f"{name}.tiff", "float tiff out of range", saved(bad, "TIFF"), "0 to 65535")


def _several(base: Image.Image) -> Iterator[Case]:
    other = [Image.new("RGB", base.size, "blue"), Image.new("RGB", base.size, "green")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        extra = {"lossless": True} if kind == "WEBP" else {}
        content = saved(base, kind, save_all=True, append_images=other, **extra)
        suffix = {"PNG": "apng", "MPO": "mpo.jpg"}.get(kind, kind.lower())
        yield Case(f"several.{suffix}", f"several frames, {kind}", content, 2)


def _metadata(base: Image.Image) -> Iterator[Case]:
    for orientation in range(1, 9):
        stored = turned(orientation)
        options = {"exif": exif(orientation)}
        content = saved(stored, "PNG", **options)
        yield Case(f"exif-{orientation}.png", "exif orientation", content, 2, 0)
        content = saved(stored, "JPEG", quality=98, subsampling=0, **options)
        yield Case(f"exif-{orientation}.jpg", "exif orientation", content, 2, 8)
    yield Case("exif-9.png", "exif of no meaning", saved(base, "PNG", exif=exif(9)), 2, 0)
    broken = b"Exif\x00\x00II*\x00\xff\xff\xff\x7f"
    yield Case("exif-broken.png", "broken exif", saved(base, "PNG", exif=broken), 2, 0)
    yield Case("exif-broken.jpg", "broken exif", saved(base, "JPEG", exif=broken), 2, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Case("icc.png", "icc profile", saved(base, "PNG", icc_profile=profile), 2, 0)
    yield Case("icc.jpg", "icc profile", saved(base, "JPEG", icc_profile=profile), 2, 60)
    junk = saved(base, "PNG", icc_profile=b"\xff" * 64)
    yield Case("icc-broken.png", "broken icc profile", junk, 2, 0)
    text = PngInfo()
    text.add_text("Comment", "<script>alert(1)</script>" * 20, zip=True)
    yield Case("text.png", "png with text", saved(base, "PNG", pnginfo=text), 2, 0)


def _cut(base: Image.Image) -> Iterator[Case]:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        options = {"quality": 95} if kind == "JPEG" else {}
        noisy = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        content = saved(Image.fromarray(noisy), kind, **options)
        for share in (0.1, 0.5, 0.9):
            outcome = DAMAGED
            yield Case(
                f"cut-{share:.0%}.{kind.lower()}",
                f"truncated {kind}",
                content[: int(len(content) * share)],
                outcome,
            )
    plain = saved(base, "PNG")
    flipped = bytearray(plain)
    flipped[-20] ^= 0xFF
    yield Case("crc.png", "wrong checksum", bytes(flipped), DAMAGED)
    yield Case("magic-only.png", "only the first bytes", plain[:8], NOT_A_PICTURE)
    yield Case("magic-only.jpg", "only the first bytes", b"\xff\xd8\xff", NOT_A_PICTURE)


def _no_pictures(base: Image.Image) -> Iterator[Case]:
    yield Case("empty.jpg", "zero bytes", b"", "0 bytes")
    yield Case("zeros.jpg", "only zeros", bytes(5_000), NOT_A_PICTURE)
    noise = np.random.default_rng(1).bytes(5_000)
    yield Case("noise.jpg", "noise", noise, NOT_A_PICTURE)
    yield Case("text.jpg", "text", b"this is a letter\n" * 40, NOT_A_PICTURE)
    yield Case(
        "page.jpg", "html", b"<!doctype html><html><img src=x onerror=alert(1)>", NOT_A_PICTURE
    )
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
    yield Case("drawing.svg", "svg", drawing, NOT_A_PICTURE)
    yield Case("paper.pdf", "pdf", saved(base, "PDF"), NOT_A_PICTURE)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    yield Case("script.jpg", "eps", script, NOT_A_PICTURE)
    yield Case("icon.ico", "ico", saved(base, "ICO"), NOT_A_PICTURE)
    yield Case("plain.ppm", "ppm", saved(base, "PPM"), NOT_A_PICTURE)
    yield Case("plain.tga", "tga", saved(base, "TGA"), NOT_A_PICTURE)
    yield Case("plain.jp2", "jpeg 2000", saved(base, "JPEG2000"), NOT_A_PICTURE)
    heic = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(400)
    yield Case("phone.heic", "heic", heic, "is a HEIC image")
    yield Case("archive.zip", "zip", b"PK\x03\x04" + bytes(60), NOT_A_PICTURE)
    yield Case("program", "executable", b"\x7fELF" + bytes(60), NOT_A_PICTURE)


def _sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (3, 5)):
        content = saved(Image.new("RGB", (width, height), "black"), "PNG")
        yield Case(f"{width}x{height}.png", "odd size", content, 0)
    for width, height in ((7_000, 7_000), (60_000, 60_000), (2**31 - 1, 1)):
        outcome = TOO_MANY if width < 10_000 else FAR_TOO_MANY
        yield Case(
            f"claims-{width}x{height}.png", "huge declared size", png(width, height), outcome
        )
    yield Case("no-pixels.png", "declares no pixels", png(0, 5), NOT_A_PICTURE)
    bits = Image.new("1", (12_000, 12_000))
    yield Case("bomb.png", "decompression bomb", saved(bits, "PNG"), TOO_MANY)
    group4 = saved(bits, "TIFF", compression="group4")
    yield Case("bomb.tiff", "decompression bomb", group4, TOO_MANY)
    header = b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6)
    frame = b"," + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\x02\x02\x44\x01\0;"
    yield Case("bomb.gif", "decompression bomb", header + frame, FAR_TOO_MANY)
    body = zlib.compress(bytes(80_000_000), 9)
    text = chunk(b"zTXt", b"Comment\0\0" + body)
    small = b"".join(b"\0" + row.tobytes() for row in BASE)
    yield Case("bomb-text.png", "bomb in a text", png(WIDTH, HEIGHT, small, text), DAMAGED)


def _polyglots(base: Image.Image) -> Iterator[Case]:
    trailing = b"<html><script>alert(1)</script></html>" * 30
    yield Case("html-behind.png", "polyglot", saved(base, "PNG") + trailing, 2, 0)
    yield Case("zip-behind.jpg", "polyglot", saved(base, "JPEG") + b"PK\x03\x04" + bytes(99), 2, 60)
    yield Case("script.gif", "polyglot", b"GIF89a/*" + trailing, NOT_A_PICTURE)
    yield Case("two.jpg", "two files in one", saved(base, "JPEG") * 2, 2, 60)


def cases() -> list[Case]:
    """All files; the same at every call."""
    base = Image.fromarray(BASE)
    return [
        *_encodings(base),
        *_modes(base),
        *_several(base),
        *_metadata(base),
        *_cut(base),
        *_no_pictures(base),
        *_sizes(),
        *_polyglots(base),
    ]
