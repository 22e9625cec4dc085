from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faceattr.preprocessing import Preprocessing
from train.batches import _grid, _inside, augment, decode_row, degrade, stored_side, training_batch
from train.recipe import Augmentation
from train.samples import Rows, Source

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rows(tiny_fairface):
    return list(Rows(Source(str(tiny_fairface)), "train").in_order())[:8]


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=seeded()) * 255


def test_without_augmentation_a_batch_is_what_the_pipeline_sees(rows):
    settings = Preprocessing(image_size=32)
    none = Augmentation()
    batch = training_batch(rows, settings, none, stored_side(32, none), seeded(), CPU)
    expected = settings.to_tensor([decode_row(row) for row in rows])
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=0)
    assert batch.targets.tolist() == [list(row.targets) for row in rows]


def test_a_sure_flip_is_the_mirror_image(images):
    flipped = augment(images, 32, Augmentation(flip=1.0), seeded()).images
    torch.testing.assert_close(flipped, images.flip(3), rtol=0, atol=1e-3)


def test_the_grid_is_pytorchs():
    matrix = torch.randn(5, 2, 3, generator=seeded())
    expected = F.affine_grid(matrix, [5, 3, 24, 24], align_corners=False)
    torch.testing.assert_close(_grid(matrix, 24), expected, rtol=1e-5, atol=1e-5)


def test_rotation_keeps_a_centred_disc_and_moves_a_corner():
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    disc = (((y - 16) ** 2 + (x - 16) ** 2) < 100).float().expand(1, 3, 33, 33) * 255
    corner = torch.zeros(1, 3, 33, 33)
    corner[..., :8, :8] = 255
    turn = Augmentation(rotation=90.0)
    assert (augment(disc, 33, turn, seeded(2)).images - disc).abs().mean() < 6
    assert (augment(corner, 33, turn, seeded(2)).images - corner).abs().mean() > 6


def test_shift_moves_by_a_fraction_of_the_side():
    images = torch.zeros(64, 3, 40, 40)
    images[..., 20, 20] = 255
    moved = augment(images, 40, Augmentation(shift=0.1), seeded()).images
    weights = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    columns = (weights.sum(1) * torch.arange(40)).sum(1) - 20
    assert columns.abs().max() <= 4.01
    assert columns.min() < -3
    assert columns.max() > 3


def test_a_canvas_replaces_the_repeated_border_and_nothing_else():
    images = torch.full((64, 3, 40, 40), 100.0)
    move = Augmentation(rotation=10.0, scale=0.2, shift=0.1)
    moved = augment(images, 40, move, seeded()).images
    assert torch.equal(moved.round(), torch.full_like(moved, 100.0))
    laid = augment(images, 40, replace(move, canvas=1.0), seeded()).images
    foreign = (laid - 100).abs().amax(1) > 0.5
    share = foreign.float().mean((1, 2))
    assert 0.03 < share.mean() < 0.2
    # The middle is the chip's, whatever the move; a band outside has one colour or a slope.
    assert not foreign[:, 8:32, 8:32].any()
    assert laid.min() > -0.01
    assert laid.max() < 255.01
    corners = laid[:, :, 0, 0][foreign[:, 0, 0]]
    assert corners.std(0).min() > 40
    half = augment(images, 40, replace(move, canvas=0.5), seeded()).images
    some = ((half - 100).abs().amax(1) > 0.5).any(2).any(1)
    assert torch.equal(half[some], laid[some])
    assert 0.3 < some.float().mean() < 0.7


def test_teachers_see_no_canvas(images):
    move = Augmentation(rotation=10.0, shift=0.1, erase=0.5)
    alone = augment(images, 32, move, seeded())
    assert alone.plain is alone.images
    both = augment(images, 32, replace(move, canvas=1.0), seeded())
    assert torch.equal(both.plain, alone.images)
    assert not torch.equal(both.images, both.plain)


def test_the_canvas_begins_where_the_chip_ends():
    # A quarter of 40 pixels to the left, and half a pixel more in the second.
    matrix = torch.tensor([[[1, 0, 0.5], [0, 1, 0]], [[1, 0, 0.525], [0, 1, 0]]])
    inside = _inside(_grid(matrix, 40), 40)[:, 0]
    expected = (torch.arange(40) < 30).float().expand(40, 40)
    torch.testing.assert_close(inside[0], expected)
    torch.testing.assert_close(inside[1, 7, 28:32], torch.tensor([1.0, 0.5, 0.0, 0.0]))


def test_colour_changes_stay_in_range_and_differ_between_pictures(images):
    same = images[:1].expand(4, 3, 32, 32)
    changed = augment(
        same, 32, Augmentation(brightness=0.3, contrast=0.3, saturation=0.3), seeded()
    ).images
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert (changed[0] - changed[1]).abs().mean() > 1


def test_erasing_greys_between_two_and_fifteen_percent(images):
    erased = augment(images + 1000, 32, Augmentation(erase=1.0), seeded()).images
    share = (erased == 127.5).all(1).double().mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.2


def test_grey_pictures_have_no_colour(images):
    grey = augment(images, 32, Augmentation(grey=1.0), seeded()).images
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 1], grey[:, 2])
    assert not torch.equal(grey[0], grey[1])


class Draws:
    """Stands for a generator: the given chances first, then amounts of one half."""

    def __init__(self, *chances):
        self.left = [np.array(chances), np.full(3, 0.5)]

    def random(self, _count):
        return self.left.pop(0)


@pytest.mark.parametrize("chances", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
def test_each_way_of_degrading_loses_detail_and_leaves_the_stored_chip_alone(chances):
    chip = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    kept = chip.copy()
    worse = degrade(chip, 0.5, Draws(*chances))
    assert np.array_equal(chip, kept)
    assert worse.shape == chip.shape
    assert worse.dtype == np.uint8
    assert (
        np.abs(np.diff(worse.astype(int), axis=0)).mean()
        < 0.9 * np.abs(np.diff(chip.astype(int), axis=0)).mean()
    )


def test_degrading_may_do_nothing():
    chip = np.zeros((64, 64, 3), np.uint8)
    assert degrade(chip, 0.0, np.random.default_rng(1)) is chip


def test_the_same_generator_gives_the_same_pictures(rows):
    some = Augmentation(0.5, 10.0, 0.1, 0.05, 0.2, 0.2, 0.2, 0.5, 0.3, 0.5)
    settings = Preprocessing(image_size=32)
    batches = [training_batch(rows, settings, some, 36, seeded(s), CPU).images for s in (5, 5, 6)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("values", [{"flip": 1.5}, {"rotation": -1.0}, {"shift": 2.0}])
def test_impossible_amounts_are_refused(values):
    with pytest.raises(ValueError, match="must lie in 0 to"):
        Augmentation(**values)


def test_moving_chips_wait_a_seventh_larger():
    assert stored_side(112, Augmentation(flip=0.5)) == 128
    assert stored_side(112, Augmentation()) == 112
