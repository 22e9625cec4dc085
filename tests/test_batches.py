from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from synthetic import picture

from faceattr.preprocessing import Preprocessing, resize_chip
from train.data.batches import (
    _degrade_some,
    _grid,
    _inside,
    _jpeg_side,
    augment,
    augment_chips,
    augment_together,
    decode_row,
    degrade,
    draw,
    training_batch,
)
from train.data.source import Row, Rows, Source
from train.recipe import RECIPES, Augmentation

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def rows(tiny_fairface):
    return list(Rows(Source(str(tiny_fairface)), "train").in_order())[:8]


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=seeded()) * 255


@pytest.fixture(scope="module")
def large():
    """Rows with pictures of FairFace's size."""
    rng = np.random.default_rng(3)
    return [Row(f"{n}.jpg", picture(rng, 224), (0, 0, 0), False) for n in range(1, 9)]


def views(images, side, augmentation, generator):
    return augment(images, side, draw(augmentation, generator, len(images)))


def changed(images, side, augmentation, generator):
    return views(images, side, augmentation, generator).images


def pixels_of(images, settings):
    std, mean = torch.tensor(settings.std), torch.tensor(settings.mean)
    return (images * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255


def test_without_augmentation_a_batch_is_what_the_pipeline_sees(rows):
    settings = Preprocessing(image_size=32)
    none = Augmentation()
    batch = training_batch(rows, settings, none, 32, seeded(), CPU)
    expected = settings.to_tensor([decode_row(row) for row in rows])
    torch.testing.assert_close(batch.images, expected, rtol=0, atol=0)
    assert batch.targets.tolist() == [list(row.targets) for row in rows]


def test_a_sure_flip_is_the_mirror_image(images):
    flipped = changed(images, 32, Augmentation(flip=1.0), seeded())
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
    assert (changed(disc, 33, turn, seeded(2)) - disc).abs().mean() < 6
    assert (changed(corner, 33, turn, seeded(2)) - corner).abs().mean() > 6


def test_shift_moves_by_a_fraction_of_the_side():
    images = torch.zeros(64, 3, 40, 40)
    images[..., 20, 20] = 255
    moved = changed(images, 40, Augmentation(shift=0.1), seeded())
    weights = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    columns = (weights.sum(1) * torch.arange(40)).sum(1) - 20
    assert columns.abs().max() <= 4.01
    assert columns.min() < -3
    assert columns.max() > 3


def test_a_canvas_replaces_the_repeated_border_and_nothing_else():
    images = torch.full((64, 3, 40, 40), 100.0)
    move = Augmentation(rotation=10.0, scale=0.2, shift=0.1)
    moved = changed(images, 40, move, seeded())
    assert torch.equal(moved.round(), torch.full_like(moved, 100.0))
    laid = changed(images, 40, replace(move, canvas=1.0), seeded())
    foreign = (laid - 100).abs().amax(1) > 0.5
    share = foreign.float().mean((1, 2))
    assert 0.03 < share.mean() < 0.2
    # The middle is the chip's, whatever the move; a band outside has one colour or a slope.
    assert not foreign[:, 8:32, 8:32].any()
    assert laid.min() > -0.01
    assert laid.max() < 255.01
    corners = laid[:, :, 0, 0][foreign[:, 0, 0]]
    assert corners.std(0).min() > 40
    half = changed(images, 40, replace(move, canvas=0.5), seeded())
    some = ((half - 100).abs().amax(1) > 0.5).any(2).any(1)
    assert torch.equal(half[some], laid[some])
    assert 0.3 < some.float().mean() < 0.7


def test_teachers_see_no_canvas(images):
    move = Augmentation(rotation=10.0, shift=0.1, erase=0.5)
    alone = views(images, 32, move, seeded())
    assert alone.plain is alone.images
    both = views(images, 32, replace(move, canvas=1.0), seeded())
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
    coloured = changed(
        same, 32, Augmentation(brightness=0.3, contrast=0.3, saturation=0.3), seeded()
    )
    assert coloured.min() >= 0
    assert coloured.max() <= 255
    assert (coloured[0] - coloured[1]).abs().mean() > 1


def test_erasing_greys_between_two_and_fifteen_percent(images):
    erased = changed(images + 1000, 32, Augmentation(erase=1.0), seeded())
    share = (erased == 127.5).all(1).double().mean((1, 2))
    assert share.min() > 0.005
    assert share.max() < 0.2


def test_grey_pictures_have_no_colour(images):
    grey = changed(images, 32, Augmentation(grey=1.0), seeded())
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 1], grey[:, 2])
    assert not torch.equal(grey[0], grey[1])


@pytest.mark.parametrize("way", [0, 1, 2])
def test_each_way_of_degrading_loses_detail_and_leaves_the_stored_chip_alone(way):
    chip = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    kept = chip.copy()
    worse = degrade(chip, [index == way for index in range(3)], [0.5] * 3, 64)
    assert np.array_equal(chip, kept)
    assert worse.shape == chip.shape
    assert worse.dtype == np.uint8
    assert (
        np.abs(np.diff(worse.astype(int), axis=0)).mean()
        < 0.9 * np.abs(np.diff(chip.astype(int), axis=0)).mean()
    )


def test_a_larger_chip_is_degraded_as_its_smaller_copy(large):
    chip = decode_row(large[0])
    assert np.array_equal(
        degrade(chip, [False, True, True], [0.5] * 3, 96),
        degrade(resize_chip(chip, 96), [False, True, True], [0.5] * 3, 96),
    )


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.1, 27), (1.0, 100)])
def test_as_many_are_degraded_as_were_drawn(probability, expected):
    """Three ways at a tenth each spare 0.9^3 of the pictures."""
    chips = {place: np.zeros((16, 16, 3), np.uint8) for place in range(0, 200, 2)}
    before = dict(chips)
    _degrade_some(chips, 200, probability, 1, 16)
    assert sum(chips[place] is not before[place] for place in chips) == pytest.approx(
        expected, abs=12 if 0 < expected < 100 else 0
    )


def test_the_same_generator_gives_the_same_pictures(rows):
    some = Augmentation(0.5, 10.0, 0.1, 0.05, 0.2, 0.2, 0.2, 0.5, 0.3, 0.5)
    settings = Preprocessing(image_size=32)
    batches = [training_batch(rows, settings, some, 32, seeded(s), CPU).images for s in (5, 5, 6)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


@pytest.mark.parametrize("values", [{"flip": 1.5}, {"rotation": -1.0}, {"shift": 2.0}])
def test_impossible_amounts_are_refused(values):
    with pytest.raises(ValueError, match="must lie in 0 to"):
        Augmentation(**values)


@pytest.mark.parametrize("side", [32, 64, 112, 128])
def test_large_pictures_are_decoded_no_larger_than_needed(large, side):
    full = [decode_row(row) for row in large]
    chips = [decode_row(row, side) for row in large]
    assert chips[0].shape[0] == {32: 56, 64: 112, 112: 112, 128: 224}[side]
    settings = Preprocessing(image_size=side)
    difference = settings.to_pixels(chips).astype(int) - settings.to_pixels(full)
    assert np.abs(difference).mean() < 1


def test_real_chips_decoded_at_half_size_are_nearly_those_halved(fairface_dir):
    rows = list(islice(Rows(Source(str(fairface_dir)), "holdout").in_order(), 20))
    for side, limit in ((112, 0.5), (64, 0.7)):
        pairs = [(decode_row(row, side), decode_row(row)) for row in rows]
        difference = np.array(
            [
                resize_chip(half, side) - resize_chip(full, side).astype(float)
                for half, full in pairs
            ]
        )
        assert 0 < np.abs(difference).mean() < limit
        assert abs(difference.mean()) < 0.3


def test_the_side_of_a_jpeg_stands_in_its_header():
    pixels = np.zeros((30, 50, 3), np.uint8)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        encoded = cv2.imencode(".jpg", pixels, options)[1].tobytes()
        assert _jpeg_side(encoded) == 30
        assert [_jpeg_side(encoded[:end]) for end in (0, 1, 2, 3, 10, 20)] == [0] * 6
    png = cv2.imencode(".png", pixels)[1].tobytes()
    assert _jpeg_side(png) == 0
    assert decode_row(Row("1.png", png, (0, 0, 0), False), 8).shape == (30, 50, 3)


@pytest.mark.parametrize("recipe", ["lightweight", "teacher", "ours-ensemble"])
@pytest.mark.parametrize("side", [64, 112])
def test_pictures_on_the_cpu_are_changed_as_batches_on_a_device_are(large, recipe, side):
    settings = Preprocessing(image_size=side)
    changes = draw(RECIPES[recipe]().augmentation, seeded(4), len(large))
    chips = [decode_row(row, side) for row in large]
    expected = augment_together(chips, side, changes, settings, CPU)
    found = augment_chips(chips, side, changes, settings)
    assert (expected.images is expected.plain) == (recipe != "ours-ensemble")
    assert (found.images is found.plain) == (recipe != "ours-ensemble")
    for one, other in zip(found, expected, strict=True):
        difference = (pixels_of(one, settings) - pixels_of(other, settings)).abs()
        assert difference.mean() < 0.6
        assert difference.max() < 9


@pytest.mark.parametrize("side", [64, 112])
def test_moved_pictures_are_those_of_whole_pictures_resampled_twice(large, side):
    """As this package did it first: shrink to 8/7 of the largest side, 112, then sample."""
    settings = Preprocessing(image_size=side)
    moving = Augmentation(flip=0.5, rotation=12.0, scale=0.12, shift=0.06)
    changes = draw(moving, seeded(6), len(large))
    whole = np.stack([resize_chip(decode_row(row), 128) for row in large])
    expected = augment(torch.from_numpy(whole).permute(0, 3, 1, 2).float(), side, changes).images
    chips = [decode_row(row, 112) for row in large]
    found = pixels_of(augment_chips(chips, side, changes, settings).images, settings)
    assert (found - expected).abs().mean() < 1
    assert (found - expected.roll(1, 3)).abs().mean() > 2
