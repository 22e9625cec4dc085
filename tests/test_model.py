import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import PATH, golden_logits
from safetensors.torch import load_file, save_file
from synthetic import TINY_FACEATTRNET
from torch import nn

from faceattr.backends.export import export
from faceattr.errors import WeightsError
from faceattr.hub import BUNDLED, BUNDLED_NAMES, DEFAULT_MODEL, find_weights
from faceattr.labels import RACE, TASKS
from faceattr.layers import TaskPool
from faceattr.model import (
    ARCHITECTURES,
    FaceAttributeModel,
    FaceAttrNet,
    LightweightMTLNet224,
    ModelConfig,
    build_model,
    load_model,
)
from faceattr.preprocessing import Preprocessing
from train.evaluate.predict import multiply_adds

SMALL = Preprocessing(image_size=32)
TINY = ModelConfig(
    "LightweightMTLNet224", {"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}, preprocessing=SMALL
)
TINY_OURS = ModelConfig("FaceAttrNet", TINY_FACEATTRNET, preprocessing=SMALL)
LIMITS = {
    "LightweightMTLNet224": (668_077, 0.49e9),
    "FaceAttrNet": (668_077, 0.24e9),
    "FaceAttrNetLarge": (4_000_000, 1.0e9),
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    LightweightMTLNet224(TINY).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture(params=[TINY, TINY_OURS], ids=lambda config: config.architecture)
def either(request, tmp_path):
    """Weights of each network in turn."""
    torch.manual_seed(0)
    build_model(request.param).save_pretrained(tmp_path / "either")
    return tmp_path / "either"


def edit_config(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps(values))


def edit_weights(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


class ReportNet(nn.Module):
    """The report's listing 6.1, as an independent oracle."""

    def __init__(self):
        super().__init__()
        shapes = [(3, 64, 2), (64, 128, 1), (128, 128, 2), (128, 256, 1)]
        shapes += [(256, 256, 2), (256, 512, 1), (512, 512, 2)]
        self.blocks = nn.ModuleList()
        for inside, outside, stride in shapes:
            depthwise = nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False)
            pointwise = nn.Conv2d(inside, outside, 1, bias=False)
            self.blocks.append(nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(outside)))
        self.fc = nn.Linear(512, 256)
        self.gender_fc = nn.Linear(256, 2)
        self.age_fc = nn.Linear(256, 9)
        self.ethnicity_fc = nn.Linear(256, 7)

    def forward(self, x):
        for block in self.blocks:
            x = F.relu(block(x))
        x = F.relu(self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        return self.gender_fc(x), self.age_fc(x), self.ethnicity_fc(x)


def test_has_the_reports_number_of_parameters():
    assert sum(p.numel() for p in LightweightMTLNet224().parameters()) == 668077


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_networks_keep_to_their_limits(name):
    """The report's network by its own count; ours with as many parameters and half its work."""
    model = build_model(ModelConfig(name))
    parameters, work = LIMITS[name]
    assert sum(p.numel() for p in model.parameters()) <= parameters
    assert multiply_adds(model, 224) <= work


def test_multiply_adds_are_counted_for_one_picture():
    """By hand: each depthwise layer 9 C H W, each pointwise C K H W, then 512 × 256 and heads."""
    layers = [(3, 64, 2), (64, 128, 1), (128, 128, 2), (128, 256, 1)]
    layers += [(256, 256, 2), (256, 512, 1), (512, 512, 2)]
    side, expected = 224, 512 * 256 + 256 * 18
    for inside, outside, stride in layers:
        side //= stride
        expected += (9 + outside) * inside * side * side
    assert multiply_adds(LightweightMTLNet224(), 224) == expected


@pytest.mark.parametrize("side", [32, 48, 97])
@pytest.mark.parametrize("config", [TINY, TINY_OURS], ids=lambda config: config.architecture)
def test_any_input_size_gives_logits_for_every_class(config, side):
    model = build_model(config).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, side, side))
    assert {name: tuple(v.shape) for name, v in logits.items()} == {
        "gender": (2, 2),
        "age": (2, 9),
        "race": (2, 7),
    }


def test_the_learned_pooling_starts_as_the_mean_and_then_weighs_places():
    pool = TaskPool(3, 2)
    x = torch.randn(4, 3, 2, 2)
    for part in pool(x):
        torch.testing.assert_close(part, x.mean((2, 3)))
    with torch.no_grad():
        pool.weight.zero_()
        pool.weight[1, :, 0, 1] = 2.0
    gender, age, _ = pool(x)
    torch.testing.assert_close(age, 2 * x[:, :, 0, 1])
    assert not gender.any()


def test_computes_what_the_reports_listing_computes():
    torch.manual_seed(1)
    ours, listing = LightweightMTLNet224().eval(), ReportNet().eval()
    values = iter(list(listing.state_dict().values()))
    ours.load_state_dict({key: next(values) for key in ours.state_dict()})
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        answers, expected = ours(x), listing(x)
    assert list(answers) == ["gender", "age", "race"]
    for answer, wanted in zip(answers.values(), expected, strict=True):
        torch.testing.assert_close(answer, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("config", [TINY, TINY_OURS], ids=lambda config: config.architecture)
def test_saved_and_loaded_weights_give_the_same_logits(config, tmp_path):
    torch.manual_seed(0)
    before = build_model(config).eval()
    before.save_pretrained(tmp_path)
    after = FaceAttributeModel.from_pretrained(tmp_path)
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        for name, logits in before(x).items():
            assert torch.equal(logits, after(x)[name])
    assert type(after) is type(before)
    assert after.config == config
    assert not after.training


def test_probabilities_use_the_temperature_and_our_class_order():
    swapped = tuple(reversed(RACE.classes))
    classes = {**TINY.classes, "race": swapped}
    temperatures = {"gender": 1.0, "age": 1.0, "race": 2.5}
    model = LightweightMTLNet224(TINY.replace(classes=classes, temperatures=temperatures)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        logits = model(x)["race"].numpy().astype(np.float64)
        found = model.probabilities(x)["race"].numpy()
    expected = np.exp(logits / 2.5)
    expected = (expected / expected.sum(1, keepdims=True))[:, ::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("heads.age.bias"), "missing.*heads.age.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected.*extra"),
        (
            lambda s: s.update({"heads.age.bias": torch.zeros(3)}),
            r"heads.age.bias: expected \(9,\), came \(3,\)",
        ),
        (
            lambda s: s.update({"heads.age.bias": torch.full((9,), torch.nan)}),
            r"not finite: \['heads.age.bias'\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(either, edit, message):
    edit_weights(either, edit)
    with pytest.raises(WeightsError, match=message):
        load_model(either)


def test_a_class_loads_its_own_weights_only(folder):
    assert type(LightweightMTLNet224.from_pretrained()) is LightweightMTLNet224
    assert type(FaceAttrNet.from_pretrained()) is FaceAttrNet
    assert type(FaceAttributeModel.from_pretrained()) is ARCHITECTURES[DEFAULT_MODEL]
    with pytest.raises(WeightsError, match="expected weights of 'FaceAttrNet', came.*Lightweight"):
        FaceAttrNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "blue"}, "unknown config keys.*colour"),
        ({"architecture": "ResNet"}, "unknown architecture 'ResNet'"),
        ({"sizes": {"widths": [1, 2], "hidden": 8}}, "'widths': expected 7 whole numbers"),
        ({"sizes": {"widths": "1234567", "hidden": 8}}, "'widths': expected 7 whole numbers"),
        ({"sizes": {"widths": [64.9] * 7, "hidden": 8}}, "'widths': expected 7 whole numbers"),
        ({"sizes": {"widths": [10**9] * 7, "hidden": 8}}, "from 1 to 8192"),
        ({"sizes": {"widths": [4] * 7, "hidden": True}}, "'hidden': expected a whole number"),
        ({"sizes": {"widths": [4] * 7, "hidden": [8]}}, "'hidden': expected a whole number"),
        ({"sizes": {"widths": [4] * 7, "hidden": []}}, "'hidden': expected a whole number"),
        ({"sizes": {"widths": [4] * 7, "hidden": "8"}}, "'hidden': expected a whole number"),
        ({"sizes": {"widths": [4] * 7, "hidden": 8, "depth": 3}}, r"unknown sizes \['depth'\]"),
        ({"sizes": {"widths": [4] * 7}}, r"lacks the sizes \['hidden'\]"),
        ({"sizes": 7}, "wrong type"),
        ({"architecture": "FaceAttrNet"}, "unknown sizes"),
        ({"temperatures": {"gender": float("inf"), "age": 1, "race": 1}}, "finite"),
        ({"temperatures": {"gender": 1.0}}, "temperatures: expected the tasks"),
        ({"temperatures": {"gender": 0.0, "age": 1, "race": 1}}, "above zero"),
        ({"preprocessing": {"image_size": 32}}, "preprocessing: expected the keys"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(WeightsError, match=message):
        load_model(folder)


def test_unknown_class_names_are_refused(either):
    classes = {task.name: list(task.classes) for task in TASKS}
    classes["race"][0] = "Martian"
    edit_config(either, classes=classes)
    with pytest.raises(WeightsError, match="'race'.*Martian"):
        load_model(either)


def test_a_missing_class_is_refused(either):
    classes = {task.name: list(task.classes) for task in TASKS}
    classes["age"].pop()
    edit_config(either, classes=classes)
    with pytest.raises(WeightsError, match="more than 70.*missing"):
        load_model(either)


def test_a_cut_off_weights_file_is_refused(either):
    path = either / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(either)


def test_a_folder_without_weights_names_the_file(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json is missing"):
        load_model(tmp_path)


def test_a_revision_for_local_weights_is_refused(folder):
    with pytest.raises(WeightsError, match="local weights"):
        load_model(folder, revision="main")


def test_a_name_that_is_no_hub_id_is_refused():
    with pytest.raises(WeightsError, match="neither a folder here nor a Hub id"):
        load_model("no/such/folder")


def test_a_folder_here_goes_before_bundled_weights_of_its_name(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "FaceAttrNet")
    monkeypatch.chdir(tmp_path)
    for model in ("FaceAttrNet", Path("FaceAttrNet")):
        assert type(load_model(model)) is LightweightMTLNet224
    assert type(FaceAttrNet.from_pretrained()) is FaceAttrNet
    assert find_weights("FaceAttrNetLarge").config.parent.parent == BUNDLED
    monkeypatch.chdir("FaceAttrNet")
    assert find_weights(".").name == "FaceAttrNet"


@pytest.mark.parametrize("name", ["no/folder", "FaceAttrNet"])
def test_a_path_is_a_folder_and_never_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (load_model, export):
        with pytest.raises(WeightsError, match=f"there is no folder '{name}'"):
            use(Path(name))


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_bundled_weights_load_by_name_and_know_their_run(name):
    model = load_model(name)
    assert type(model) is ARCHITECTURES[name]
    assert find_weights(name).weights.stat().st_size < 8_500_000
    assert model.config.training["recipe"]


def test_the_default_weights_are_bundled_ones():
    assert find_weights() == find_weights(DEFAULT_MODEL)
    assert DEFAULT_MODEL in BUNDLED_NAMES


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_bundled_weights_give_the_stored_logits(name):
    """Fails when network code, weights or preprocessing drift apart."""
    stored = json.loads(PATH.read_text())[name]
    for task, values in golden_logits(name).items():
        np.testing.assert_allclose(values, stored[task], atol=1e-4)
