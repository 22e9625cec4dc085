import copy

import pytest
import torch

from faceattr.model import LightweightMTLNet224, ModelConfig
from train.fit.networks import SlicedConv2d, slice_strided

SIZES = {"widths": (16, 16, 24, 24, 32, 32, 40), "hidden": 8}


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = LightweightMTLNet224(ModelConfig("LightweightMTLNet224", SIZES))
    sliced = copy.deepcopy(model)
    slice_strided(sliced)
    return model.double(), sliced.double()


def test_sliced_convolutions_take_the_place_of_the_strided_ones(pair):
    model, sliced = pair
    kinds = [name for name, m in sliced.named_modules() if isinstance(m, SlicedConv2d)]
    # Not conv1's: three channels are too few.
    assert kinds == [f"conv{number}.depthwise" for number in (3, 5, 7)]
    assert list(sliced.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("side", [32, 33, 47])
def test_sliced_convolutions_change_neither_answers_nor_gradients(pair, side):
    model, sliced = pair
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    for network in pair:
        network.train()
        sum(part.square().sum() for part in network(x).values()).backward()
    for (name, a), b in zip(model.named_parameters(), sliced.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for a, b in zip(model.buffers(), sliced.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_sliced_convolutions_answer_as_plain_ones_outside_training(pair):
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    plain, sliced = (network.eval()(x) for network in pair)
    assert all(torch.equal(plain[name], sliced[name]) for name in plain)
