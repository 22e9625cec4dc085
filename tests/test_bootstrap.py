import numpy as np
import pytest

from train.evaluate.bootstrap import Resamples, estimates, interval


def test_every_resample_holds_as_many_faces_as_there_are():
    drawn = Resamples.draw(50, 20)
    assert drawn.times.shape == (50, 20)
    assert drawn.times.sum(axis=0).tolist() == [50] * 20
    assert (drawn.times == Resamples.draw(50, 20).times).all()
    assert (drawn.times != Resamples.draw(50, 20, seed=1).times).any()


def test_counts_agree_with_plain_loops():
    drawn = Resamples.draw(30, 4)
    cell = np.arange(30) % 6
    found = drawn.counts(cell, (2, 3))
    for draw in range(4):
        expected = np.zeros(6)
        for row in range(30):
            expected[cell[row]] += drawn.times[row, draw]
        assert found[draw].ravel().tolist() == expected.tolist()


def test_a_proportions_interval_is_as_wide_as_theory_says():
    correct = np.arange(1000) < 300
    counts = Resamples.draw(1000, 4000).counts(correct.astype(np.int64), (2,))
    found = interval(counts[:, 1] / 1000)
    reach = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert [found["low"], found["high"]] == pytest.approx([0.3 - reach, 0.3 + reach], abs=0.002)


def test_a_statistic_without_values_has_a_null_interval():
    def statistics(counts):
        with np.errstate(invalid="ignore"):
            return {"share": counts[:, 0] / counts.sum(axis=1)}

    assert estimates(statistics, np.zeros((1, 2)), np.zeros((5, 2))) == {
        "share": {"value": None, "low": None, "high": None}
    }
