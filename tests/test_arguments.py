"""One checked set of arguments: each refusal names the argument, what was expected, what came."""

import io
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from faceattr.errors import ArgumentError, ArgumentTypeError, FaceAttrError, ImageDecodeError
from faceattr.images import decode_image
from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from faceattr.results import Detection, FaceBox

TINY = ModelConfig(
    sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}, preprocessing=Preprocessing(image_size=32)
)


class BrightDetector:
    """Finds one face where the image is not nearly black; with landmarks."""

    name = "bright"

    def detect(self, image, reduction=1):
        if image.max() < 10:
            return []
        points = ((28.0, 33.0), (52.0, 33.0), (40.0, 46.0), (31.0, 58.0), (49.0, 58.0))
        return [Detection(FaceBox(10, 10, 60, 60), 0.9, points, self.name)]


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return FacePipeline(LightweightMTLNet224(TINY), BrightDetector())


@pytest.fixture(scope="module")
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("method", ["classify_crops", "predict_batch"])
@pytest.mark.parametrize(
    "one",
    [
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((224, 224), np.uint8),
        "photo.jpg",
        b"bytes",
        Image.new("RGB", (8, 8)),
        io.BytesIO(b"bytes"),
        {"bytes": b"bytes", "path": None},
    ],
    ids=["array", "grey array", "path", "bytes", "pil", "file", "row"],
)
def test_one_image_where_a_list_belongs_is_refused_with_what_to_do(pipeline, method, one):
    with pytest.raises(
        TypeError, match=r"expected a list of images, came one .*\[image\]"
    ) as found:
        getattr(pipeline, method)(one)
    assert isinstance(found.value, FaceAttrError)


@pytest.mark.parametrize("value", [None, 5, 2.0])
def test_what_cannot_be_a_list_is_refused(pipeline, value):
    with pytest.raises(ArgumentTypeError, match="images: expected a list of images, came"):
        pipeline.predict_batch(value)


def test_lists_tuples_generators_and_stacks_give_the_same(pipeline, image):
    stack = np.stack([image, image[::-1]])
    expected = [f[0].to_dict() for f in pipeline.predict_batch([image, image[::-1]])]
    for value in (tuple(stack), (one for one in stack), stack, {0: stack[0], 1: stack[1]}.values()):
        assert [f[0].to_dict() for f in pipeline.predict_batch(value)] == expected
    assert len(pipeline.classify_crops(stack)) == len(pipeline.classify_crops(iter(stack))) == 2
    assert pipeline.predict_batch([]) == pipeline.classify_crops([]) == []


@pytest.mark.parametrize("method", ["classify_crops", "predict_batch"])
def test_a_bad_image_of_several_is_numbered(pipeline, image, method):
    kind = "crop" if method == "classify_crops" else "image"
    call = getattr(pipeline, method)
    with pytest.raises(ImageDecodeError, match=rf"^{kind} 2 of 3: the data is not an image"):
        call([image, b"no image", image])
    with pytest.raises(ImageDecodeError, match=rf"^{kind} 2: the data is not an image"):
        call(one for one in (image, b"no image"))
    with pytest.raises(ImageDecodeError, match="^the data is not an image"):
        call([b"no image"])
    with pytest.raises(TypeError, match=rf"^{kind} 1 of 2: expected an image as path.*NoneType"):
        call([None, image])


@pytest.mark.parametrize("value", [-1, -(2**70), np.int64(-3)])
def test_max_faces_below_zero_is_refused(pipeline, image, value):
    with pytest.raises(ValueError, match="max_faces: expected a whole number from 0 on, came"):
        pipeline(image, max_faces=value)


@pytest.mark.parametrize("value", ["2", 1.0, True, [1]])
def test_max_faces_that_is_no_whole_number_is_a_type_error(pipeline, image, value):
    with pytest.raises(TypeError, match="max_faces: expected a whole number"):
        pipeline(image, max_faces=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, -0.1])
def test_min_face_that_is_no_length_is_refused(pipeline, image, value):
    with pytest.raises(ArgumentError, match="min_face: expected a number of pixels from 0 on"):
        pipeline(image, min_face=value)
    with pytest.raises(ArgumentError, match="min_face: expected"):
        FacePipeline.from_pretrained(min_face=value)


@pytest.mark.parametrize("value", ["30", None, True, 1j])
def test_min_face_that_is_no_number_is_a_type_error(pipeline, image, value):
    with pytest.raises(TypeError, match="min_face: expected a number"):
        pipeline(image, min_face=value)


def test_numpys_numbers_are_numbers(pipeline, image):
    assert len(pipeline(image, min_face=np.float32(20), max_faces=np.uint8(1))) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0, "is not to be had here"),
        ("cuda", "is not to be had here"),
        ("cuda:9", "is not to be had here"),
        (torch.device("cuda"), "is not to be had here"),
        ("gpu", "is not to be had here"),
        (-1, "expected 'cpu', 'cuda'"),
        ("", "expected 'cpu', 'cuda'"),
        (True, "expected 'cpu', 'cuda'"),
        (0.0, "expected 'cpu', 'cuda'"),
        ([], "expected 'cpu', 'cuda'"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_and_never_taken_for_the_cpu(value, reason):
    with pytest.raises(ArgumentError, match=rf"^device: .*{reason}"):
        FacePipeline.from_pretrained(device=value)
    with pytest.raises(ArgumentError, match=rf"^device: .*{reason}"):
        FacePipeline(LightweightMTLNet224(TINY), BrightDetector(), device=value)


@pytest.mark.parametrize("value", [None, "cpu", torch.device("cpu"), "cpu:0"])
def test_the_cpu_is_there(value, image):
    torch.manual_seed(0)
    pipeline = FacePipeline(LightweightMTLNet224(TINY), BrightDetector(), device=value)
    assert pipeline.device.type == "cpu"
    assert len(pipeline(image)) == 1


@pytest.mark.parametrize("value", [0, -2, 1.0, "2", True, 100_000])
def test_threads_are_counted_from_1(value):
    with pytest.raises(ArgumentError, match="threads: expected a whole number from 1 to 1024"):
        FacePipeline.from_pretrained(threads=value)


def test_8_bits_kept_in_16_find_the_face(pipeline, image):
    (face,) = pipeline(image.astype(np.uint16))
    assert face.to_dict() == pipeline(image)[0].to_dict()


def test_bgr_arrays_give_the_answers_of_rgb_ones(pipeline, image):
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    assert pipeline(bgr, channels="bgr")[0].to_dict() == pipeline(image)[0].to_dict()
    assert pipeline(bgr)[0].to_dict() != pipeline(image)[0].to_dict()
    both = [pipeline.classify_crops([bgr], channels="bgr"), pipeline.classify_crops([image])]
    assert both[0][0].to_dict() == both[1][0].to_dict()
    with pytest.raises(ArgumentError, match="channels: expected 'rgb' or 'bgr', came 'BGR'"):
        pipeline(image, channels="BGR")


def test_every_way_in_gives_the_same_answer(pipeline, image, tmp_path):
    data = png(image)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as stream:
        sources = [
            *(image, Image.fromarray(image), data, path, str(path)),
            *(io.BytesIO(data), stream, {"bytes": data, "path": None}, {"path": str(path)}),
        ]
        answers = {json.dumps(pipeline(source)[0].to_dict()) for source in sources}
    assert len(answers) == 1


def test_a_pixel_limit_holds_for_every_method(pipeline, image):
    for call in (
        lambda **o: pipeline(image, **o),
        lambda **o: pipeline.predict_batch([image], **o),
        lambda **o: pipeline.classify_crops([image], **o),
    ):
        with pytest.raises(ImageDecodeError, match="at most 100 pixels an image, came 160 x 120"):
            call(max_pixels=100)
        with pytest.raises(ArgumentError, match="max_pixels: expected a whole number from 1 on"):
            call(max_pixels=0)


def test_a_persons_own_48_megapixel_photo_and_17_mb_png_are_read(pipeline):
    photo = io.BytesIO()
    Image.new("RGB", (8064, 6048), "white").save(photo, "JPEG")
    assert len(pipeline(photo.getvalue())) == 1
    noise = np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), dtype=np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).save(large, "PNG", compress_level=0)
    assert len(large.getvalue()) > 17_000_000
    assert decode_image(large.getvalue()).shape == (2400, 2400, 3)
    assert len(pipeline(large.getvalue())) == 1


def test_a_pipeline_says_what_it_is(pipeline):
    assert repr(pipeline) == (
        "FacePipeline('unnamed', detector='bright', backend='torch', mirror=False)"
    )
