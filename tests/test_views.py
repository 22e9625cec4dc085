"""Views: one path of augmentation on bytes, a pure function of seed, row and number."""

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch

from faceattr.preprocessing import Preprocessing, resize_chip
from train.config import Augmentation
from train.data.augment import DEGRADED_SIDE, Changes, apply, degrade, draw
from train.data.batches import Order, Views, Wanted, decode, load
from train.data.source import Rows, Source

ALL = Augmentation(0.5, 12.0, 0.15, 0.07, 0.2, 0.2, 0.2, 0.3, 0.2, 0.3, 0.5)


@pytest.fixture(scope="module")
def rows(tiny_fairface):
    return Rows(Source(str(tiny_fairface)), "train")


@pytest.fixture(scope="module")
def chip():
    """A smooth chip of 64 pixels without symmetry."""
    coarse = np.random.default_rng(3).integers(40, 216, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)


def test_without_augmentation_a_view_is_what_the_pipeline_sees(rows):
    views = Views(rows, Augmentation(), 0)
    batch = views.__getitems__([Wanted(row, 0, 32) for row in range(4)])
    expected = Preprocessing(image_size=32).to_pixels([decode(rows.image(r)) for r in range(4)])
    assert np.abs(batch.pixels.numpy().astype(int) - expected).max() <= 2
    assert batch.targets.tolist() == rows.targets[:4].tolist()


def test_a_view_depends_on_seed_row_and_number_alone(rows):
    views = Views(rows, ALL, 5)
    whole = views.__getitems__([Wanted(row, 3, 32) for row in (7, 2, 9)]).pixels
    alone = Views(rows, ALL, 5).view(Wanted(2, 3, 32))
    assert np.array_equal(whole[1].numpy(), alone)
    others = [Views(rows, ALL, 6).view(Wanted(2, 3, 32)), views.view(Wanted(2, 4, 32))]
    assert all(not np.array_equal(alone, other) for other in others)


def test_the_same_view_in_more_pixels_is_the_same_picture(rows):
    """Degraded rows included: what is lost does not depend on the side."""
    small, large = (
        np.stack([Views(rows, ALL, 1).view(Wanted(row, 2, side)) for row in range(16)])
        for side in (24, 48)
    )
    shrunk = np.stack([resize_chip(view, 24) for view in large])
    assert np.abs(small.astype(float) - shrunk).mean() < 4


def test_a_mirrored_view_is_the_mirror_image(rows):
    views = Views(rows, ALL, 0)
    plain, mirrored = (views.view(Wanted(1, 0, 32, flag)) for flag in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1])


def test_plain_views_differ_by_the_canvas_alone(rows):
    with_canvas = replace(ALL, canvas=1.0, shift=0.2)
    without = replace(with_canvas, canvas=0.0)
    plain = Views(rows, with_canvas, 0, plain=True)
    other = Views(rows, without, 0)
    laid = Views(rows, with_canvas, 0)
    wanted = [Wanted(row, 1, 32) for row in range(12)]
    assert all(np.array_equal(plain.view(w), other.view(w)) for w in wanted)
    assert any(not np.array_equal(laid.view(w), other.view(w)) for w in wanted)


def test_a_sure_flip_is_the_mirror_image(chip):
    changes = draw(Augmentation(flip=1.0), 0, 0, 0)
    assert np.abs(apply(chip, 64, changes).astype(int) - chip[:, ::-1]).max() <= 1


def test_a_shift_moves_by_a_fraction_of_the_side(chip):
    move = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]])
    found = apply(chip, 64, Changes(move=move))
    assert np.abs(found[:, :56].astype(int) - chip[:, 8:]).max() <= 1
    assert np.array_equal(found[:, 57:], np.repeat(found[:, -1:], 7, axis=1))


def test_the_canvas_lies_where_the_chip_has_moved_away(chip):
    move = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]])
    changes = Changes(move=move, canvas=np.full((2, 2, 3), 9, np.float32))
    found = apply(chip, 64, changes)
    assert np.array_equal(found[:, :55], apply(chip, 64, changes, plain=True)[:, :55])
    assert (found[:, 57:] == 9).all()


def test_rotation_keeps_the_middle_and_moves_a_corner():
    chip = np.zeros((65, 65, 3), np.uint8)
    chip[31:34, 31:34] = chip[2:10, 2:10] = 255
    changes = draw(Augmentation(rotation=45.0), 3, 1, 0)
    found = apply(chip, 65, changes)
    assert found[32, 32].min() > 250
    assert found[4:8, 4:8].mean() < 200


def test_erasing_greys_two_to_fifteen_percent(chip):
    shares = []
    for row in range(20):
        found = apply(chip, 64, draw(Augmentation(erase=1.0), 0, row, 0))
        shares.append(float((found == 127).all(2).mean()))
    assert 0.01 < min(shares) < max(shares) < 0.17


def test_grey_images_have_no_colour(chip):
    found = apply(chip, 64, draw(Augmentation(grey=1.0), 0, 0, 0)).astype(int)
    assert np.ptp(found, axis=2).max() <= 1


def test_colours_change_as_step_by_step(chip):
    brightness, contrast, saturation = 1.1, 0.8, 0.7
    bright = chip.astype(float) * brightness
    contrasted = bright.mean() + contrast * (bright - bright.mean())
    grey = (contrasted * (0.299, 0.587, 0.114)).sum(2, keepdims=True)
    expected = (grey + saturation * (contrasted - grey)).clip(0, 255)
    found = apply(chip, 64, Changes(colours=(brightness, contrast, saturation)))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("way", range(3))
def test_each_way_of_degrading_loses_detail_and_leaves_the_chip_alone(chip, way):
    before = chip.copy()
    noisy = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    losses = [None, None, None]
    losses[way] = 0.0 if way == 2 else 1.0
    found = degrade(noisy, tuple(losses))
    assert found.shape == (DEGRADED_SIDE, DEGRADED_SIDE, 3)
    assert cv2.Laplacian(found, cv2.CV_64F).std() < 0.9 * cv2.Laplacian(noisy, cv2.CV_64F).std()
    degrade(chip, tuple(losses))
    assert np.array_equal(chip, before)


@pytest.mark.parametrize("values", [{"flip": 1.5}, {"rotation": -1.0}, {"shift": 2.0}])
def test_impossible_amounts_are_refused(values):
    with pytest.raises(ValueError, match="must lie in"):
        Augmentation(**values)


@pytest.mark.parametrize(("side", "expected"), [(32, 56), (56, 56), (64, 112), (113, 224)])
def test_large_images_are_decoded_no_larger_than_needed(side, expected):
    image = cv2.imencode(".jpg", np.full((224, 224, 3), 99, np.uint8))[1].tobytes()
    assert decode(image, side).shape == (expected, expected, 3)
    assert decode(image).shape == (224, 224, 3)


def test_an_epoch_shows_each_row_once_in_an_order_of_seed_and_epoch(rows):
    order = Order(rows, 0, 10)
    first = [row for batch in order.epoch(0) for row in batch]
    assert order.batches == 11
    assert len(set(first)) == len(first) == 110
    assert first != [row for batch in order.epoch(1) for row in batch]
    assert first != [row for batch in Order(rows, 1, 10).epoch(0) for row in batch]
    assert list(order.epoch(0, 4)) == list(islice(order.epoch(0), 4, None))


def test_processes_share_the_batches_of_one(rows):
    alone = list(Order(rows, 3, 8).epoch(2))
    parts = [list(Order(rows, 3, 8, rank=rank, world=2).epoch(2)) for rank in range(2)]
    for batch, first, second in zip(alone, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)
        assert len(first) == len(second) == 4


def test_worker_processes_make_the_same_batches(rows, monkeypatch):
    wanted = [[Wanted(row, 0, 16) for row in batch] for batch in Order(rows, 0, 8).epoch(0)][:3]
    views = Views(rows, ALL, 0)
    alone = [batch.pixels for batch in load(views, wanted, torch.device("cpu"))]
    monkeypatch.setattr("train.data.batches.workers_for", lambda device: 2)
    together = [batch.pixels for batch in load(views, wanted, torch.device("cpu"))]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
