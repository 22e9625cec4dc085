import io
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from faceattr.__main__ import main
from faceattr.alignment import align_face
from faceattr.crops import LARGEST_CROP
from faceattr.detection import load_detector
from faceattr.errors import FaceAttrError
from faceattr.images import decode_image
from faceattr.labels import TASKS
from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from faceattr.results import Detection, FaceBox

TINY = ModelConfig(
    sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}, preprocessing=Preprocessing(image_size=32)
)


class CornerDetector:
    """Finds one face in the left upper corner of each picture wider than 100 pixels."""

    name = "corner"

    def detect(self, image, reduction=1):
        if image.shape[1] <= 100:
            return []
        box = FaceBox(10, 10, 60, 60)
        points = ((28.0, 33.0), (52.0, 33.0), (40.0, 46.0), (31.0, 58.0), (49.0, 58.0))
        return [Detection(box, 0.9, points, self.name)]


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    return FacePipeline(LightweightMTLNet224(TINY), CornerDetector())


def picture(width=160, height=120, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_a_face_has_everything_the_api_promises(pipeline):
    (face,) = pipeline(picture())
    assert face.box == FaceBox(10, 10, 60, 60)
    assert (face.score, face.detector) == (0.9, "corner")
    assert face.crop.shape == (224, 224, 3)
    for task in TASKS:
        attribute = getattr(face, task.name)
        assert list(attribute.probabilities) == list(task.classes)
        assert sum(attribute.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert attribute.probability == attribute.probabilities[attribute.label]


def test_no_face_is_an_empty_list(pipeline):
    assert pipeline(picture(width=80)) == []


def test_small_faces_and_more_than_asked_for_are_left_out(pipeline):
    assert len(pipeline(picture(), min_face=60)) == 1
    assert pipeline(picture(), min_face=60.1) == []
    assert pipeline(picture(), max_faces=0) == []
    pictures = [picture(), picture(width=80), picture(seed=1)]
    found = pipeline.predict_batch(pictures, min_face=60, max_faces=1)
    assert [len(faces) for faces in found] == [1, 0, 1]


def test_a_batch_gives_each_picture_its_own_answer(pipeline):
    pictures = [picture(seed=s, width=w) for s, w in enumerate((160, 80, 200, 160))]
    together = pipeline.predict_batch(pictures)
    assert [len(faces) for faces in together] == [1, 0, 1, 1]
    for alone, faces in zip(map(pipeline, pictures), together, strict=True):
        for one, other in zip(alone, faces, strict=True):
            assert np.array_equal(one.crop, other.crop)
            assert one.race.probability == pytest.approx(other.race.probability, abs=1e-6)


def test_more_faces_than_one_chunk_keep_their_order(pipeline):
    chips = [picture(64, 64, seed) for seed in range(37)]
    together = [face.age.probability for face in pipeline.classify_crops(chips)]
    alone = [pipeline.classify_crops([chip])[0].age.probability for chip in chips]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_chip_is_classified_as_training_saw_it(pipeline):
    chip = picture(224, 224)
    (face,) = pipeline.classify_crops([chip])
    with torch.inference_mode():
        batch = pipeline.model.config.preprocessing.to_tensor([chip])
        expected = pipeline.model.probabilities(batch)["age"][0]
    np.testing.assert_allclose(list(face.age.probabilities.values()), expected, atol=1e-6)
    assert (face.box, face.score) == (FaceBox(0, 0, 224, 224), None)


def test_with_the_mirror_image_the_logits_are_averaged():
    pipeline = FacePipeline.from_pretrained(detector="haar", mirror=True, backend="torch")
    model = pipeline.model
    chips = [picture(224, 224, seed) for seed in range(3)]
    with torch.inference_mode():
        batch = model.config.preprocessing.to_tensor(chips)
        one, other = model(batch), model(batch.flip(3))
        mean = model.calibrate({name: (one[name] + other[name]) / 2 for name in one})
        alone = model.calibrate(one)
    turned = pipeline.classify_crops([chip[:, ::-1] for chip in chips])
    for i, face in enumerate(pipeline.classify_crops(chips)):
        for task in TASKS:
            found = list(getattr(face, task.name).probabilities.values())
            np.testing.assert_allclose(found, mean[task.name][i], atol=1e-5)
            assert not np.allclose(found, alone[task.name][i], atol=1e-4)
            same = list(getattr(turned[i], task.name).probabilities.values())
            np.testing.assert_allclose(found, same, atol=1e-4)


def test_with_the_mirror_image_both_backends_agree():
    pytest.importorskip("onnxruntime")
    chips = [picture(224, 224, seed) for seed in range(9)]
    one, other = (
        FacePipeline.from_pretrained(detector="haar", backend=kind, mirror=True)
        for kind in ("torch", "onnx")
    )
    assert one.info.mirror
    for torch_face, onnx_face in zip(
        one.classify_crops(chips), other.classify_crops(chips), strict=True
    ):
        for task in TASKS:
            found = (getattr(f, task.name).probabilities for f in (torch_face, onnx_face))
            # The ONNX file keeps folded weights in float16.
            np.testing.assert_allclose(*(list(p.values()) for p in found), rtol=0, atol=5e-4)


class Certain:
    """Certain of everything: a chip whose left is the brighter side is of another gender."""

    name, config = "certain", TINY

    def probabilities(self, pixels):
        half = pixels.shape[2] // 2
        left = float(pixels[:, :, :half].mean() > pixels[:, :, half:].mean())
        answers = {"gender": [left, 1 - left], "age": [1] + [0] * 8, "race": [0] * 6 + [1]}
        return {name: np.array([values], np.float32) for name, values in answers.items()}


def test_certain_answers_that_contradict_each_other_stay_probabilities():
    chip = np.full((224, 224, 3), 60, np.uint8)
    chip[:, :112] = 200
    pipeline = FacePipeline(Certain(), CornerDetector(), mirror=True)
    (face,) = pipeline.classify_crops([chip])
    for attribute in face.attributes:
        assert sum(attribute.probabilities.values()) == pytest.approx(1)
    assert list(face.age.probabilities.values())[0] == pytest.approx(1)
    assert list(face.gender.probabilities.values()) == pytest.approx([0.5, 0.5])


def test_a_chip_that_is_not_square_is_padded_with_its_edge(pipeline):
    (face,) = pipeline.classify_crops([picture(60, 100)])
    assert face.crop.shape == (100, 100, 3)
    assert np.array_equal(face.crop[:, 0], face.crop[:, 20])
    assert np.array_equal(face.crop[:, 20:80], picture(60, 100))


def test_an_unknown_detector_is_refused():
    with pytest.raises(FaceAttrError, match="retina"):
        load_detector("retina")


def test_bundled_weights_read_real_chips(fairface_dir):
    """About nine in ten perceived genders of real validation rows; chance is five in ten."""

    from train.data.source import Rows, Source

    validation = Rows(Source(str(fairface_dir)), "validation")
    rows = [validation[i] for i in range(100)]
    pipeline = FacePipeline.from_pretrained(detector="haar")
    faces = pipeline.classify_crops([row.image for row in rows])
    right = [
        TASKS[0].classes[row.targets[0]] == f.gender.label
        for row, f in zip(rows, faces, strict=True)
    ]
    assert np.mean(right) > 0.8


@pytest.fixture
def photos(tmp_path):
    for name in ("one.png", "two.png"):
        Image.fromarray(picture(seed=len(name))).save(tmp_path / name)
    (tmp_path / "bad.jpg").write_bytes(b"this is no picture")
    return tmp_path


def test_command_line_goes_on_after_a_bad_file(photos, capsys):
    names = [str(photos / n) for n in ("one.png", "bad.jpg", "two.png")]
    status = main(["--json", "--detector", "none", *names])
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [line["image"] for line in lines] == names
    assert [len(line.get("faces", [])) for line in lines] == [1, 0, 1]
    assert "bad.jpg" in lines[1]["error"]
    assert "bad.jpg" in err


def test_command_line_prints_a_table_and_saves_boxes(photos, capsys):
    folder = photos / "boxes"
    status = main(["--detector", "none", "--save-annotated", str(folder), str(photos / "one.png")])
    out = capsys.readouterr().out
    assert status == 0
    assert "one.png: 1 face" in out
    assert "%" in out
    with Image.open(folder / "001-one.png") as annotated:
        assert annotated.size == (160, 120)


def test_command_line_asks_about_the_mirror_image_when_told(photos, capsys):
    answers = []
    for told in ([], ["--mirror"]):
        assert main(["--json", "--detector", "none", *told, str(photos / "one.png")]) == 0
        answers.append(json.loads(capsys.readouterr().out)["faces"][0]["age"]["probability"])
    assert answers[0] != answers[1]


def test_command_line_says_what_is_wrong_with_a_model(photos, capsys):
    assert main(["--model", str(photos), str(photos / "one.png")]) == 2
    assert "config.json is missing" in capsys.readouterr().err


def test_group_photos_give_one_result_a_face(photos_dir):
    pipeline = FacePipeline.from_pretrained()
    boxes = json.loads((photos_dir / "boxes.json").read_text())
    results = pipeline.predict_batch([photos_dir / name for name in boxes])
    assert [len(faces) for faces in results] == [len(labelled) for labelled in boxes.values()]
    for faces in results:
        areas = [face.box.area for face in faces]
        assert areas == sorted(areas, reverse=True)
        assert all(face.detector == "yunet" and face.landmarks for face in faces)


def enlarged(path, factor, orientation=1):
    """A photo as a camera might have stored it: large, and lying on its side."""
    with Image.open(path) as photo:
        large = photo.resize(
            (photo.width * factor, photo.height * factor), Image.Resampling.BICUBIC
        )
    if orientation == 6:
        large = large.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", quality=92, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(("factor", "orientation"), [(8, 1), (8, 6), (4, 1)])
def test_a_large_photo_decoded_small_gives_the_same_faces(photos_dir, factor, orientation):
    """With 8 the chips come from the reduced copy or a second decoding, as each is large enough."""
    pipeline = FacePipeline.from_pretrained()
    data = enlarged(photos_dir / "2008_002506.jpg", factor, orientation)
    reduced, whole = pipeline(data), pipeline(decode_image(data))
    assert len(reduced) == len(whole) == 3
    for one, other in zip(reduced, whole, strict=True):
        assert one.box.iou(other.box) > 0.93
        away = np.abs(one.crop.astype(int) - other.crop)
        assert away.mean() < 6
        for first, second in zip(one.attributes, other.attributes, strict=True):
            for name, probability in first.probabilities.items():
                assert probability == pytest.approx(second.probabilities[name], abs=0.1)


class SmallFaceDetector(CornerDetector):
    """Says that each copy shows one face of 300 pixels of the picture."""

    def detect(self, image, reduction=1):
        self.seen = (image.shape, reduction)
        return [Detection(FaceBox(400, 200, 300, 300), 1.0, None, self.name)]


def test_a_chip_is_never_enlarged_for_having_been_decoded_small(monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(picture(2600, 1400)).save(buffer, "JPEG")
    detector = SmallFaceDetector()
    torch.manual_seed(0)
    pipeline = FacePipeline(LightweightMTLNet224(TINY), detector)
    (face,) = pipeline(buffer.getvalue())
    assert detector.seen == ((700, 1300, 3), 2)
    # 300 / 0.8 = 374 pixels of the picture are 187 of the copy, fewer than the chip's 224.
    whole = decode_image(buffer.getvalue())
    expected = align_face(whole, Detection(FaceBox(400, 200, 300, 300), 1.0, None, "x"))
    assert np.array_equal(face.crop, expected)


@pytest.mark.parametrize(("width", "height"), [(20_000, 1), (1, 20_000), (2_000, 1_000)])
def test_a_large_or_thin_crop_is_shrunk_before_it_is_made_square(pipeline, width, height):
    chip = picture(width, height)
    (face,) = pipeline.classify_crops([chip])
    assert face.crop.shape == (LARGEST_CROP, LARGEST_CROP, 3)
    assert face.box == FaceBox(0, 0, width, height)
    # Half and half on either side of what the picture became.
    shorter = max(1, round(min(width, height) * LARGEST_CROP / max(width, height)))
    first = (LARGEST_CROP - shorter) // 2
    rows = face.crop if width >= height else face.crop.transpose(1, 0, 2)
    assert (rows[: first + 1] == rows[first]).all()
    assert (rows[first + shorter - 1 :] == rows[-1]).all()
