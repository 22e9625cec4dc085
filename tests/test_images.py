"""Decoding: every source and mode, upright, limits first, one kind of error."""

import struct
import zlib
from io import BytesIO, RawIOBase
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from faceattr import images
from faceattr.errors import ImageDecodeError
from faceattr.images import decode_image, open_image, require_rgb, shrink
from faceattr.limits import UPLOAD_PIXELS

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encode(image, kind="PNG", **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)


def ramp16():
    return (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)


def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path, noise):
    data = encode(Image.fromarray(noise))
    file = tmp_path / "a.png"
    file.write_bytes(data)
    for source in (
        file,
        str(file),
        data,
        bytearray(data),
        memoryview(data),
        Image.fromarray(noise),
        noise,
    ):
        pixels = decode_image(source)
        np.testing.assert_array_equal(pixels, noise)
        assert pixels.dtype == np.uint8
        assert pixels.flags["C_CONTIGUOUS"]


def test_result_shares_no_memory_with_an_array(noise):
    assert not np.shares_memory(decode_image(noise), noise)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF"])
def test_every_allowed_format_is_read(kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    pixels = decode_image(encode(image, kind))
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 8


def test_first_frame_of_an_animation_and_first_page_of_a_tiff_are_read():
    pages = [Image.new("RGB", (8, 8), c) for c in (RED, WHITE)]
    for kind in ("GIF", "TIFF", "MPO"):
        pixels = decode_image(encode(pages[0], kind, save_all=True, append_images=pages[1:]))
        assert np.abs(pixels.astype(int) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_in_files(kind, orientation):
    blocks = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((16, 16), np.uint8))
    upright = Image.fromarray(blocks).convert("RGB")
    # Store what a camera held that way records: the inverse of what viewers apply.
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = inverse
    turned = upright.copy()
    turned.info["exif"] = exif.tobytes()
    stored = ImageOps.exif_transpose(turned)
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encode(stored, kind, exif=exif.tobytes(), **lossless)
    pixels = decode_image(data)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels[8::16, 8::16].astype(int) - np.asarray(upright)[8::16, 8::16]).max() <= 3
    with Image.open(BytesIO(data)) as opened:
        np.testing.assert_array_equal(decode_image(opened), pixels)


@pytest.mark.parametrize("exif", [b"II*\x00\xff\xff\xff\x7f", b"II*\x00", b"MM\x00*\x00\x00", b"x"])
def test_damaged_exif_does_not_refuse_the_picture(noise, exif):
    data = encode(Image.fromarray(noise), exif=b"Exif\x00\x00" + exif)
    np.testing.assert_array_equal(decode_image(data), noise)


def test_grey_modes_become_equal_channels():
    grey = Image.linear_gradient("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode_image(grey), expected)
    for mode in ("I", "F"):
        np.testing.assert_array_equal(decode_image(grey.convert(mode)), expected)
    bits = decode_image(grey.point(lambda v: 255 * (v > 99)).convert("1"))
    np.testing.assert_array_equal(bits, np.where(expected > 99, 255, 0))


def test_16_bits_are_scaled_and_not_clipped():
    expected = np.arange(256).reshape(16, 16)
    for source in (
        encode(Image.fromarray(ramp16())),
        encode(Image.fromarray(ramp16()), "TIFF"),
        Image.fromarray(ramp16()),
        Image.fromarray(ramp16().astype(np.int32)),
        ramp16(),
        ramp16().astype(">u2"),
    ):
        np.testing.assert_array_equal(decode_image(source)[:, :, 1], expected)


def test_transparent_sample_of_a_16_bit_picture_is_white():
    image = Image.fromarray(ramp16())
    image.info["transparency"] = 0
    pixels = decode_image(image)
    assert tuple(pixels[0, 0]) == WHITE
    assert tuple(pixels[0, 1]) == (1, 1, 1)


def test_unit_floats_of_mode_f_are_scaled():
    image = Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16))
    np.testing.assert_array_equal(decode_image(image)[:, :, 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("bad", [-1.0, 70000.0, np.nan, np.inf])
def test_mode_f_outside_its_range_is_refused(bad):
    image = Image.fromarray(np.full((4, 4), bad, dtype=np.float32))
    with pytest.raises(ImageDecodeError, match="0 to 65535"):
        decode_image(image)


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa"])
def test_transparent_parts_become_white(mode):
    rgba = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    rgba.paste((10, 20, 30, 0), (0, 0, 2, 2))
    image = rgba.convert("LA").convert(mode) if mode[0] == "L" else rgba.convert(mode)
    pixels = decode_image(image)
    assert (pixels[:, :2] == 255).all()
    assert (pixels[:, 2:] == 0).all()


def test_palette_with_alpha_is_laid_on_white():
    image = Image.new("PA", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((0, 0), (0, 255))
    image.putpixel((1, 0), (1, 0))
    np.testing.assert_array_equal(decode_image(image), [[RED, WHITE]])


def test_half_transparent_black_on_white_is_middle_grey():
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert (decode_image(encode(image)) == 127).all()


def test_transparent_palette_entry_becomes_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        pixels = decode_image(encode(image, kind, transparency=1))
        np.testing.assert_array_equal(pixels, [[RED, WHITE]])
    pixels = decode_image(encode(image, transparency=b"\xff\x00"))
    np.testing.assert_array_equal(pixels, [[RED, WHITE]])


def test_cmyk_and_ycbcr_become_rgb():
    for mode in ("CMYK", "YCbCr", "HSV"):
        pixels = decode_image(Image.new("RGB", (8, 8), RED).convert(mode))
        assert np.abs(pixels.astype(int) - RED).max() <= 2
    jpeg = encode(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode_image(jpeg).astype(int) - RED).max() <= 8


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[True, False]]), [[255, 0]]),
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]]),
        (np.array([[0.0, 1.0]], dtype=np.float16), [[0, 255]]),
        (np.array([[[7], [9]]], dtype=np.uint8), [[7, 9]]),
        (np.array([[0, 65535, 32896]], dtype=np.uint16), [[0, 255, 128]]),
        (np.array([[[0, 0, 0, 0], [9, 9, 9, 255]]], dtype=np.uint8), [[255, 9]]),
    ],
)
def test_arrays_of_other_kinds_are_scaled(array, expected):
    np.testing.assert_array_equal(decode_image(array)[:, :, 0], expected)


def test_strided_arrays_are_read(noise):
    np.testing.assert_array_equal(decode_image(noise[::2, ::-1]), noise[::2, ::-1])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 3), np.complex64),
        np.array([["a"]]),
        np.array([[object()]]),
        np.full((4, 4), 1.01),
        np.full((4, 4), -0.01),
        np.full((4, 4), np.nan),
    ],
)
def test_other_arrays_are_refused_with_shape_and_dtype(array):
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(array)
    assert str(array.shape) in str(caught.value)
    assert str(array.dtype) in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0), (0, 0, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_empty_arrays_are_refused(shape, dtype):
    with pytest.raises(ImageDecodeError, match="at least one pixel"):
        decode_image(np.zeros(shape, dtype))


def test_other_types_are_refused_by_name():
    for source in (None, 3, [1, 2]):
        with pytest.raises(ImageDecodeError, match=type(source).__name__) as caught:
            decode_image(source)
        assert isinstance(caught.value, TypeError)


def test_bytes_limit_is_checked_before_a_file_is_read(tmp_path, monkeypatch):
    file = tmp_path / "large.png"
    with file.open("wb") as stream:
        stream.truncate(2_000)

    def fail(*_args, **_kwargs):
        raise AssertionError("the file was opened")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(ImageDecodeError, match="at most 1,000 bytes an image, came 2,000"):
        decode_image(file, max_bytes=1_000)


def test_bytes_limit_holds_for_bytes(noise):
    data = encode(Image.fromarray(noise))
    assert decode_image(data, max_bytes=len(data)).shape == noise.shape
    for source in (data, memoryview(data)):
        with pytest.raises(ImageDecodeError, match=f"came {len(data):,}"):
            decode_image(source, max_bytes=len(data) - 1)


def png_header(width, height):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_000, 10_000, 60_000])
def test_pixel_limit_is_read_from_the_header(side, monkeypatch):
    def fail(_self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageDecodeError, match="at most 40,000,000 pixels"):
        decode_image(png_header(side, side), max_pixels=UPLOAD_PIXELS)


def test_pixel_limit_holds_for_arrays_and_pil_images(noise):
    for source in (noise, Image.fromarray(noise)):
        assert decode_image(source, max_pixels=23 * 31).shape == noise.shape
        with pytest.raises(ImageDecodeError, match="31 x 23"):
            decode_image(source, max_pixels=23 * 31 - 1)


def test_pictures_above_pillows_own_warning_give_no_warning():
    # 100 megapixels lie between our limit and Pillow's error; pytest makes warnings errors.
    with pytest.raises(ImageDecodeError, match="10000 x 10000"):
        decode_image(png_header(10_000, 10_000), max_pixels=UPLOAD_PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7])
def test_truncated_pictures_are_an_error(kind, share, noise):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this build of Pillow has no AVIF")
    data = encode(Image.fromarray(np.tile(noise, (4, 4, 1))), kind)
    with pytest.raises(ImageDecodeError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damaged_pictures_give_pixels_or_our_error(kind, noise):
    data = np.frombuffer(encode(Image.fromarray(noise), kind), np.uint8)
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(60):
        broken = data.copy()
        broken[rng.integers(0, len(data), 12)] = rng.integers(0, 256, 12)
        try:
            outcomes.add(decode_image(broken.tobytes(), max_pixels=10_000).ndim)
        except ImageDecodeError:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is text\n" * 9,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"P5 2 2 255 abcd",
        b"\x00",
    ],
)
def test_what_is_no_allowed_picture_is_refused(data):
    with pytest.raises(ImageDecodeError, match="not an image; expected one of JPEG"):
        decode_image(data)


def test_empty_bytes_are_refused(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    for source in (b"", tmp_path / "empty.jpg"):
        with pytest.raises(ImageDecodeError, match="0 bytes"):
            decode_image(source)


def test_missing_files_and_folders_are_refused_without_naming_the_folder(tmp_path):
    cases = [tmp_path / "gone.png", tmp_path, tmp_path / "no\0name", str(tmp_path / ("x" * 5000))]
    for source in cases:
        with pytest.raises(ImageDecodeError) as caught:
            decode_image(source)
        assert str(tmp_path) not in str(caught.value)
        assert len(str(caught.value)) < 250
    with pytest.raises(ImageDecodeError, match="no file 'gone.png'"):
        decode_image(cases[0])
    with pytest.raises(ImageDecodeError, match="not a regular file"):
        decode_image(tmp_path)


def test_closed_pil_images_are_called_closed_not_damaged(tmp_path, noise):
    file = tmp_path / "a.png"
    file.write_bytes(encode(Image.fromarray(noise)))
    closed = Image.open(file)
    closed.close()
    with Image.open(file) as left:
        pass
    loaded = Image.fromarray(noise)
    loaded.close()
    for image in (closed, left, loaded):
        with pytest.raises(ImageDecodeError, match="the PIL image is closed; pass it before"):
            decode_image(image)
    with Image.open(file) as kept:
        kept.load()
    np.testing.assert_array_equal(decode_image(kept), noise)


def test_a_truncated_pil_image_is_damaged_not_closed(noise):
    data = encode(Image.fromarray(np.tile(noise, (9, 9, 1))))
    with (
        Image.open(BytesIO(data[: len(data) // 2])) as image,
        pytest.raises(ImageDecodeError, match="damaged"),
    ):
        decode_image(image)


def test_file_objects_are_read_from_where_they_stand(tmp_path, noise):
    data = encode(Image.fromarray(noise))
    file = tmp_path / "photo.png"
    file.write_bytes(data)
    np.testing.assert_array_equal(decode_image(BytesIO(data)), noise)
    with file.open("rb") as stream:
        np.testing.assert_array_equal(decode_image(stream), noise)
    written = BytesIO()
    Image.fromarray(noise).save(written, "PNG")
    with pytest.raises(ImageDecodeError, match=r"the file object: .* 0 bytes.*seek\(0\)"):
        decode_image(written)
    with file.open("rb") as stream, pytest.raises(ImageDecodeError, match="at most 9 bytes"):
        decode_image(stream, max_bytes=9)


class Dripping(RawIOBase):
    """A stream that gives less than it is asked for, and notes what that was."""

    def __init__(self, data):
        self.rest, self.most = BytesIO(data), 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.most = max(self.most, len(buffer))
        piece = self.rest.read(min(len(buffer), 50))
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_stream_may_give_its_bytes_in_small_pieces_and_no_room_is_wasted(noise):
    stream = Dripping(encode(Image.fromarray(noise)))
    np.testing.assert_array_equal(decode_image(stream), noise)
    assert stream.most <= 1 << 20


def test_a_file_opened_as_text_or_closed_is_named(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("some text")
    with file.open() as stream:
        with pytest.raises(TypeError, match=r"'notes.txt': expected a file opened in binary mode"):
            decode_image(stream)
        stream.close()
        with pytest.raises(ImageDecodeError, match=r"cannot read 'notes.txt': .*closed"):
            decode_image(stream)


def test_rows_of_a_hub_data_set_are_read(tmp_path, noise):
    data = encode(Image.fromarray(noise))
    file = tmp_path / "17.png"
    file.write_bytes(data)
    for row in (
        {"bytes": data, "path": None},
        {"bytes": data, "path": "17.png"},
        {"bytes": data},
        {"bytes": None, "path": str(file)},
        {"path": file},
    ):
        np.testing.assert_array_equal(decode_image(row), noise)
    with pytest.raises(ImageDecodeError, match=r"'17.png' is damaged"):
        decode_image({"bytes": data[:90], "path": "train/17.png"})
    for wrong in ({"bytes": None, "path": None}, {"image": {"bytes": data}}, {}):
        with pytest.raises(TypeError, match=r"expected a row .* mapping with the keys"):
            decode_image(wrong)


@pytest.mark.parametrize(
    "address",
    ["https://example.org/a.jpg", "HTTP://example.org/a.jpg", "s3://bucket/a.jpg",
     "file:///tmp/a.jpg", "data:image/png;base64,AAAA"],
)  # fmt: skip
def test_addresses_are_refused_with_what_to_do(address):
    with pytest.raises(ImageDecodeError, match=r"came an address .*nothing is fetched.*download"):
        decode_image(address)


def test_a_colon_in_a_file_name_is_no_address(tmp_path, noise, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a: b.png").write_bytes(encode(Image.fromarray(noise)))
    np.testing.assert_array_equal(decode_image("a: b.png"), noise)


def test_a_missing_file_is_what_python_calls_it():
    with pytest.raises(FileNotFoundError, match="no file 'gone.png'"):
        decode_image("gone.png")


def test_opencvs_order_of_channels_is_undone(noise):
    np.testing.assert_array_equal(decode_image(noise, channels="bgr"), noise[:, :, ::-1])
    opaque = np.dstack([noise, np.full(noise.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(opaque, channels="bgr"), noise[:, :, ::-1])
    grey = noise[:, :, :1]
    np.testing.assert_array_equal(decode_image(grey, channels="bgr"), np.repeat(grey, 3, 2))
    file = encode(Image.fromarray(noise))
    np.testing.assert_array_equal(decode_image(file, channels="bgr"), noise)
    with pytest.raises(ValueError, match="channels: expected 'rgb' or 'bgr', came 'gbr'"):
        decode_image(noise, channels="gbr")


def test_8_bits_kept_in_16_are_not_black(noise):
    np.testing.assert_array_equal(decode_image(noise.astype(np.uint16)), noise)
    for kind in ("PNG", "TIFF"):
        data = encode(Image.fromarray(noise[:, :, 0].astype(np.uint16)), kind)
        np.testing.assert_array_equal(decode_image(data)[:, :, 2], noise[:, :, 0])


def heic(image, **options):
    heif = pytest.importorskip("pillow_heif")
    stream = BytesIO()
    heif.from_pillow(image).save(stream, quality=90, **options)
    return stream.getvalue()


def test_heic_is_read_where_pillow_heif_is_installed():
    image = smooth(64, 48)
    pixels = decode_image(heic(image))
    assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < 10
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(heic(image, exif=exif.tobytes()))
    assert turned.shape == (64, 48, 3)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert np.abs(turned.astype(int) - upright).mean() < 10
    assert np.abs(turned[::-1].astype(int) - upright).mean() > 30
    with pytest.raises(ImageDecodeError, match="64 x 48"):
        decode_image(heic(image), max_pixels=64 * 48 - 1)
    with pytest.raises(ImageDecodeError, match="HEIC image that is damaged|damaged, cut off"):
        decode_image(heic(image)[:300])


def test_formats_that_cannot_be_read_here_are_named(monkeypatch):
    monkeypatch.setattr("faceattr.images.find_spec", lambda name: None)
    images._heic_is_readable.cache_clear()
    data = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64)
    with pytest.raises(ImageDecodeError, match=r"is a HEIC image.*JPEG, or.*\.\[heif\]"):
        decode_image(data)
    images._heic_is_readable.cache_clear()
    monkeypatch.setattr("faceattr.images._readable_formats", lambda: ("JPEG", "PNG"))
    data = b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + bytes(64)
    with pytest.raises(ImageDecodeError, match=r"is an AVIF image.*pip install -U pillow"):
        decode_image(data)


def test_a_phones_48_megapixels_are_read_unless_a_limit_says_otherwise():
    image = Image.new("L", (8064, 6048))
    data = encode(image, "JPEG")
    assert open_image(data).decode(8).shape == (756, 1008, 3)
    with pytest.raises(ImageDecodeError, match="8064 x 6048; shrink the image$"):
        open_image(data, max_pixels=UPLOAD_PIXELS)


def test_more_than_pillows_own_limit_is_allowed_by_ours_and_pillows_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageDecodeError, match=r"came 16000 x 16000; .*allow it with max_pixels"):
        open_image(png_header(16_000, 16_000))
    assert open_image(png_header(16_000, 16_000), max_pixels=300_000_000).longer_side == 16_000
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("wrong", [0, -5, 1.5, "9", True])
def test_limits_are_whole_numbers_from_1_on(noise, wrong):
    for name in ("max_bytes", "max_pixels"):
        with pytest.raises(ValueError, match=f"{name}: expected a whole number from 1 on"):
            decode_image(noise, **{name: wrong})


def test_empty_pil_images_are_refused():
    with pytest.raises(ImageDecodeError, match="at least one pixel"):
        decode_image(Image.new("RGB", (0, 5)))


def test_the_callers_pil_image_is_left_as_it_was():
    image = Image.new("RGBA", (3, 2), (1, 2, 3, 0))
    decode_image(image)
    assert image.mode == "RGBA"
    assert image.getpixel((0, 0)) == (1, 2, 3, 0)


def test_require_rgb_names_what_came():
    require_rgb(np.zeros((1, 1, 3), np.uint8))
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=str(bad.dtype)):
            require_rgb(bad)


def smooth(width, height, seed=0):
    coarse = Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    )
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_pixels_are_those_that_pillow_decodes(mode, options):
    data = encode(smooth(67, 45).convert(mode), "JPEG", **options)
    with Image.open(BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)


def test_a_cmyk_jpeg_is_read_by_pillow():
    data = encode(smooth(40, 30).convert("CMYK"), "JPEG")
    with Image.open(BytesIO(data)) as opened:
        np.testing.assert_array_equal(decode_image(data), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_jpeg_is_the_small_upright_picture(orientation, reduction):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(smooth(320, 200), "JPEG", exif=exif.tobytes(), quality=95)
    whole = decode_image(data)
    opened = open_image(data)
    assert opened.size == (0, 0)
    reduced = opened.decode(reduction)
    assert opened.size == whole.shape[1::-1]
    height, width = (-(-side // reduction) for side in whole.shape[:2])
    assert reduced.shape == (height, width, 3)
    assert reduced.flags["C_CONTIGUOUS"]
    away = np.abs(reduced.astype(int) - shrink(whole, width, height))
    assert away.mean() < 2.5


def test_only_jpeg_files_are_reduced_and_never_below_the_side_asked_for():
    picture = smooth(2600, 40)
    jpeg = open_image(encode(picture, "JPEG"))
    assert [jpeg.reduction(side) for side in (2601, 2600, 1300, 1299, 650, 325, 1)] == [
        1,
        1,
        2,
        2,
        4,
        8,
        8,
    ]
    for source in (encode(picture, "PNG"), picture, np.asarray(picture)):
        assert open_image(source).reduction(10) == 1


def test_an_opened_picture_keeps_the_limits_it_was_opened_with():
    opened = open_image(np.zeros((50, 60, 3), np.uint8), max_pixels=3_000)
    assert open_image(opened, max_pixels=1) is opened
    assert decode_image(opened, max_pixels=1).shape == (50, 60, 3)
    assert opened.size == (60, 50)


@pytest.mark.parametrize("cut", [2, 60, 400])
def test_a_cut_off_jpeg_is_damaged_at_any_size(cut):
    data = encode(smooth(320, 200), "JPEG")[:-cut]
    for reduction in (1, 4):
        with pytest.raises(ImageDecodeError, match="damaged"):
            open_image(data).decode(reduction)


def test_shrinking_averages():
    whole = np.asarray(smooth(640, 480))
    small = shrink(whole, 100, 75)
    exact = np.asarray(smooth(640, 480).resize((100, 75), Image.Resampling.BOX))
    assert small.shape == (75, 100, 3)
    assert np.abs(small.astype(int) - exact).mean() < 1
