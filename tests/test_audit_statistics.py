"""Labels by hand, the shift test, figures made of shares, and rates of another system."""

import math

import numpy as np
import pytest
from audit_synthetic import collection, share, table
from scipy.stats import binomtest

from faceattr.audit.answers import Answers, single
from faceattr.audit.labelled import (
    FEWEST,
    Labelled,
    label_sample,
    powered,
    powered_shares,
)
from faceattr.audit.measures import (
    LEAST_COUNT,
    association,
    cramers_v,
    differences,
    figures,
    imbalance,
    reference_shares,
    total_variation,
)
from faceattr.audit.other_system import bounds, rates_by_group
from faceattr.audit.present import other_system
from faceattr.audit.prevalence import measure
from faceattr.audit.shift import FEWEST as FEWEST_TESTED
from faceattr.audit.shift import rake, shift_test
from faceattr.errors import AuditError
from faceattr.labels import AGE, GENDER, RACE, TASKS

SKEWED = {
    "gender": np.array([0.7, 0.3]),
    "race": np.array([0.4, 0.05, 0.05, 0.2, 0.1, 0.15, 0.05]),
}


@pytest.fixture(scope="module")
def known():
    return table(2000)


def labelled_sample(answers, true, n=300, seed=0):
    sample = label_sample(answers, n, seed)
    return Labelled(
        sample.rows, sample.inclusion, {name: codes[sample.rows] for name, codes in true.items()}
    )


def worse(answers, power=0.4):
    """Answers that are less sure of the same, as of a blurred image."""
    flat = {name: values**power for name, values in answers.probabilities.items()}
    return Answers(
        {name: values / values.sum(axis=1, keepdims=True) for name, values in flat.items()},
        answers.image,
    )


def test_each_face_is_as_likely_to_be_labelled_as_it_says():
    answers, _ = collection(40, seed=1)
    times = np.zeros(40)
    for seed in range(3000):
        sample = label_sample(answers, 10, seed)
        assert len(np.unique(sample.rows)) == 10
        times[sample.rows] += 1
    np.testing.assert_allclose(times / 3000, sample.inclusion[0], atol=0.05)


def test_a_sample_meets_each_stratum_in_its_proportion():
    answers, _ = collection(3000, SKEWED, seed=1)
    rows = label_sample(answers, 300).rows
    for name in ("gender", "race"):
        shown = answers.probabilities[name].argmax(axis=1)
        k = answers.probabilities[name].shape[1]
        np.testing.assert_allclose(share(shown[rows], k), share(shown, k), atol=0.03)


def test_more_labels_than_faces_are_all_faces():
    answers, _ = collection(20)
    np.testing.assert_array_equal(label_sample(answers, 99).rows, np.arange(20))
    with pytest.raises(AuditError, match="at least one face"):
        label_sample(answers, 0)


@pytest.mark.parametrize("population", [False, True])
def test_intervals_from_labels_cover_whatever_the_answers_are(population):
    hits = []
    for seed in range(120):
        answers, true = collection(800, SKEWED, seed=seed)
        # Answers that have nothing to do with the classes' calibration.
        wrong = worse(answers, 0.2 if seed % 2 else 3.0)
        found = powered_shares(
            wrong, labelled_sample(wrong, true, 200, seed), single(RACE), population=population
        )
        truth = SKEWED["race"] if population else share(true["race"], 7)
        hits.append((found.low <= truth) & (truth <= found.high))
    assert 0.92 < np.mean(hits) < 0.99


def test_good_answers_narrow_what_labels_say():
    answers, true = collection(4000, SKEWED, seed=3)
    labels = labelled_sample(answers, true, 300)
    useless = Answers(
        {name: np.full_like(v, 1 / v.shape[1]) for name, v in answers.probabilities.items()},
        answers.image,
    )
    with_answers = powered_shares(answers, labels, single(GENDER))
    alone = powered_shares(useless, labels, single(GENDER))
    assert (with_answers.high - with_answers.low < 0.7 * (alone.high - alone.low)).all()
    np.testing.assert_allclose(alone.value, share(labels.true["gender"], 2), atol=1e-9)


def test_a_collection_whose_faces_all_have_labels_is_known():
    answers, true = collection(300, SKEWED, seed=3)
    labels = labelled_sample(answers, true, 300)
    found = powered_shares(answers, labels, single(RACE))
    for known in (found.value, found.low, found.high):
        np.testing.assert_allclose(known, share(true["race"], 7), atol=1e-12)
    # Of the population they are so many draws, no more and no less.
    drawn = powered_shares(answers, labels, single(GENDER), population=True)
    expected = binomtest(int((true["gender"] == 0).sum()), 300).proportion_ci(0.95, "wilson")
    assert (drawn.low[0], drawn.high[0]) == pytest.approx(expected, abs=1e-3)


def test_faces_that_nobody_could_tell_are_left_out():
    answers, true = collection(900, seed=3)
    labels = labelled_sample(answers, true, 300)
    codes = {name: values.copy() for name, values in labels.true.items()}
    codes["age"][FEWEST - 1 :] = -1
    partly = Labelled(labels.rows, labels.inclusion, codes)
    assert set(powered(answers, partly)) == {"gender", "race", "gender × race"}
    with pytest.raises(AuditError, match=f"{FEWEST - 1} labelled faces"):
        powered_shares(answers, partly, single(AGE))


def test_labels_that_do_not_fit_are_refused():
    zeros = {task.name: np.zeros(2, np.int64) for task in TASKS}
    with pytest.raises(AuditError, match="more than once"):
        Labelled(np.array([1, 1]), np.ones(2), zeros)
    with pytest.raises(AuditError, match="inclusion"):
        Labelled(np.array([1, 2]), np.array([0.0, 1.0]), zeros)
    with pytest.raises(AuditError, match="'race'"):
        Labelled(np.array([1, 2]), np.ones(2), {**zeros, "race": np.array([1, 7])})


def test_a_shift_is_warned_of_and_skewed_shares_are_not(known):
    p_values = [
        shift_test(collection(600, SKEWED, seed=seed)[0], known, draws=100, seed=seed).p_value
        for seed in range(12)
    ]
    assert sum(p < 0.02 for p in p_values) <= 1
    assert np.median(p_values) > 0.15
    shifted = shift_test(worse(collection(600, SKEWED)[0]), known, draws=100)
    assert shifted.trusted is False
    assert min(shifted.by_task.values()) < 0.02
    assert shifted.to_dict()["trusted"] is False


def test_the_shift_test_says_nothing_of_a_few_faces(known):
    found = shift_test(collection(FEWEST_TESTED - 1)[0], known)
    assert found.p_value is None and found.trusted is None


def test_raked_weights_have_the_wanted_margins():
    rng = np.random.default_rng(0)
    classes = {"a": rng.integers(2, size=300), "b": rng.integers(4, size=300)}
    wanted = {"a": rng.dirichlet(np.ones(2), 5), "b": rng.dirichlet(np.ones(4), 5)}
    start = rng.integers(1, 4, size=(5, 300)).astype(float)
    weights = rake(start, classes, wanted)
    for name, codes in classes.items():
        for draw in range(5):
            margin = [weights[draw, codes == c].sum() for c in range(wanted[name].shape[1])]
            np.testing.assert_allclose(margin, wanted[name][draw], atol=1e-6)
    alike = (classes["a"] == 0) & (classes["b"] == 0)
    ratio = (weights / start)[:, alike]
    np.testing.assert_allclose(ratio, ratio[:, :1].repeat(alike.sum(), axis=1))


def test_figures_of_imbalance_equal_loops():
    shares = np.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
    found = figures(shares)
    for row, values in enumerate(shares):
        mean = sum(values) / 4
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
        expected = {
            "max_ratio": max(values),
            "min_ratio": min(values),
            "ratio_range": max(values) - min(values),
            "coefficient_of_variation": deviation / mean,
            "entropy": -sum(v * math.log2(v) for v in values if v),
            "gini": 1 - sum(v * v for v in values),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value), name


def test_imbalance_of_corrected_shares_has_intervals(known):
    answers, true = collection(3000, SKEWED, seed=5)
    shares = measure(answers, known, axes=(single(RACE),), draws=200)["race"]
    counted, corrected = imbalance(shares.counted), imbalance(shares.em)
    truth = figures(share(true["race"], 7))
    for name, value in truth.items():
        assert counted[name].low is None
        assert corrected[name].low <= value <= corrected[name].high
        assert abs(corrected[name].value - value) < abs(counted[name].value - value)


def test_differences_to_a_reference(known):
    answers, _ = collection(500, SKEWED, seed=5)
    shares = measure(answers, known, axes=(single(GENDER),), draws=50)["gender"]
    uniform = reference_shares(single(GENDER), "uniform")
    male = differences(shares.em, uniform)[0]
    assert male.value == pytest.approx(shares.em.value[0] - 0.5)
    assert male.low <= male.value <= male.high
    counts = reference_shares(single(GENDER), {"Female": 30, "Male": 10})
    np.testing.assert_allclose(counts, [0.25, 0.75])
    assert total_variation(shares.counted, counts).value == pytest.approx(
        abs(shares.counted.value[0] - 0.25)
    )
    assert differences(shares.counted, counts)[0].low is None


@pytest.mark.parametrize(
    "reference", ["fair", {"Male": 1}, {"Male": -1, "Female": 2}, {"Male": 0, "Female": 0}]
)
def test_references_that_cannot_be_are_refused(reference):
    with pytest.raises(AuditError):
        reference_shares(single(GENDER), reference)


def looped_v(counts):
    """Bergsma's bias-corrected V, cell by cell."""
    rows = [r for r in counts if sum(r)]
    columns = [j for j in range(len(counts[0])) if sum(r[j] for r in rows)]
    n = sum(map(sum, rows))
    square = 0.0
    for row in rows:
        for j in columns:
            expected = sum(row) * sum(r[j] for r in rows) / n
            square += (row[j] - expected) ** 2 / expected
    r, c = len(rows), len(columns)
    phi = max(0.0, square / n - (r - 1) * (c - 1) / (n - 1))
    return math.sqrt(phi / (min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1))


@pytest.mark.parametrize(
    "counts",
    [[[10, 20, 30], [30, 20, 10]], [[50, 0], [0, 50]], [[5, 0, 9], [0, 0, 0], [3, 0, 1]]],
)
def test_cramers_v_equals_a_loop(counts):
    assert float(cramers_v(np.array(counts, float))) == pytest.approx(looped_v(counts))


def test_an_association_is_found_and_small_cells_stay_in_the_table():
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=2000)
    cells = np.where(rng.random(2000) < 0.25, group, rng.integers(2, size=2000))
    group[:10] = 2
    image = np.arange(2000)
    found = association(single(GENDER), cells, group, ("a", "b", "c"), image, draws=200)
    assert found.counts.sum() == 2000
    np.testing.assert_array_equal(found.small, found.counts < LEAST_COUNT)
    assert found.small[2].all() and not found.small[:2].any()
    assert found.cramers_v.low <= 0.25 <= found.cramers_v.high
    one = association(single(GENDER), cells, np.zeros(2000, np.int64), ("a",), image)
    assert one.cramers_v is None
    left_out = association(single(GENDER), cells, np.full(2000, -1), ("a",), image)
    assert left_out.counts.sum() == 0 and left_out.cramers_v is None


def test_bounds_are_as_sharp_as_linear_programming_finds_them():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    for _ in range(15):
        strata, groups = 4, 3
        mass = rng.dirichlet(np.ones(strata))
        right = rng.random(strata)
        member = rng.dirichlet(np.full(groups, 0.5), strata)
        low, high = bounds(mass, right, member)
        size = mass @ member
        # Variables: right faces of each group within each stratum, per face of the stratum.
        limits = [(0, member[s, g]) for s in range(strata) for g in range(groups)]
        sums = np.kron(np.eye(strata), np.ones(groups))
        one, two = (
            np.array(
                [mass[s] * (g == which) / size[which] for s in range(strata) for g in range(3)]
            )
            for which in (0, 1)
        )
        for goal, expected in (
            (one, low[0]),
            (-one, -high[0]),
            (one - two, low[0] - high[1]),
            (two - one, low[1] - high[0]),
        ):
            best = optimize.linprog(goal, A_eq=sums, b_eq=right, bounds=limits)
            assert best.fun == pytest.approx(expected, abs=1e-8)


def test_rates_of_another_system_are_found_by_group(known):
    inside, covered = [], []
    for seed in range(8):
        answers, true = collection(2500, SKEWED, seed=seed)
        wanted = np.array([0.95, 0.7])
        right = np.random.default_rng(1000 + seed).random(2500) < wanted[true["gender"]]
        found = rates_by_group(answers, right, known, single(GENDER), draws=150, seed=seed)
        for group, rate in zip(found.groups, wanted, strict=True):
            assert group.interval[0] <= group.low <= group.high <= group.interval[1]
            inside.append(group.interval[0] <= rate <= group.interval[1])
            covered.append(group.estimate.low <= rate <= group.estimate.high)
        assert found.overall == pytest.approx(right.mean())
        difference = found.differences[0]
        assert difference.interval[0] <= 0.25 <= difference.interval[1]
        assert difference.low == pytest.approx(found.groups[0].low - found.groups[1].high)
    assert np.mean(inside) == 1
    assert np.mean(covered) > 0.8
    assert found.to_dict()["groups"][0]["name"] == "Male"


def test_a_system_that_is_always_right_is_so_for_everybody(known):
    answers, _ = collection(300, seed=1)
    found = rates_by_group(answers, np.ones(300, bool), known, single(RACE), draws=20)
    for group in found.groups:
        assert group.low == pytest.approx(1) and group.high == pytest.approx(1)
        assert group.estimate is None or group.estimate.value == pytest.approx(1)


def test_a_group_that_no_face_is_put_in_has_no_counted_rate(known):
    answers, _ = collection(60, {"gender": np.array([1.0, 0.0])}, seed=2, sharpness=6.0)
    right = np.arange(60) % 2 == 0
    found = rates_by_group(answers, right, known, single(GENDER), draws=20)
    male, female = found.groups
    assert male.counted.value == 0.5 and female.counted is None
    assert [row["counted"] for row in found.to_dict()["differences"]] == [None]
    rows = other_system([found], "true", "said", 0)["tables"][0]["rows"]
    assert [row["cells"][0] for row in rows][1:] == ["–", "–"]


def test_outcomes_that_do_not_fit_are_refused(known):
    answers, _ = collection(10)
    with pytest.raises(AuditError, match="outcome for each face"):
        rates_by_group(answers, np.ones(9, bool), known, single(GENDER))
