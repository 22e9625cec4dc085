"""Shares corrected for the classifier's errors, their intervals and the table they rest on."""

import json
import math

import numpy as np
import pytest
from audit_synthetic import collection, faces, share, table
from scipy.stats import binomtest

from faceattr.audit import em
from faceattr.audit.answers import DEFAULT_AXES, Answers, pair, parse_merge, single
from faceattr.audit.calibration import (
    CalibrationTable,
    find_table,
    read_table,
    write_table,
)
from faceattr.audit.matrix import adjusted, confusion
from faceattr.audit.prevalence import measure
from faceattr.audit.resampling import resampled_means
from faceattr.audit.shift import shift_test
from faceattr.audit.simplex import minimise
from faceattr.errors import AuditError, LabelError
from faceattr.hub import WeightsFiles
from faceattr.labels import AGE, GENDER, RACE, TASKS

SKEWED = {
    "gender": np.array([0.8, 0.2]),
    "race": np.array([0.4, 0.05, 0.05, 0.2, 0.1, 0.15, 0.05]),
    "age": np.array([0.02, 0.05, 0.1, 0.4, 0.2, 0.1, 0.08, 0.03, 0.02]),
}


LEVELS_OF_300 = table(300).to_dict()["levels"]


@pytest.fixture(scope="module")
def known():
    return table()


def looped_em(probabilities, prior, rounds=5000):
    """Saerens' EM face by face, as the paper writes it."""
    shares = list(prior)
    for _ in range(rounds):
        sums = [0.0] * len(shares)
        for row in probabilities:
            weights = [s / p * v for s, p, v in zip(shares, prior, row, strict=True)]
            total = math.fsum(weights)
            sums = [a + w / total for a, w in zip(sums, weights, strict=True)]
        new = [value / len(probabilities) for value in sums]
        done = max(abs(a - b) for a, b in zip(new, shares, strict=True)) < 1e-12
        shares = new
        if done:
            break
    return shares


def test_em_equals_the_papers_loop():
    _, probabilities = faces(60, SKEWED, seed=3, sharpness=1.5)
    for task in TASKS:
        values = probabilities[task.name]
        prior = np.full(values.shape[1], 1 / values.shape[1])
        found = em.fit(em.ratios(values, prior))
        np.testing.assert_allclose(found, looped_em(values, prior), atol=1e-6)


def test_leaning_equals_more_faces_of_the_wanted_shares():
    _, probabilities = faces(80, SKEWED, seed=5, sharpness=1.5)
    values = probabilities["gender"]
    goal = np.array([0.25, 0.75])
    leaning = em.fit(em.ratios(values, np.full(2, 0.5)), towards=goal, strength=0.1)
    # Faces whose class is beyond doubt: 2 and 6 for 80 others are a strength of 0.1.
    sure = np.array([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 6)
    with_faces = em.fit(em.ratios(np.concatenate([values, sure]), np.full(2, 0.5)))
    np.testing.assert_allclose(leaning, with_faces, atol=1e-6)


@pytest.mark.slow
def test_point_estimates_equal_quapys():
    aggregative = pytest.importorskip("quapy.method.aggregative")
    true, probabilities = faces(3000, seed=1, sharpness=1.6)
    _, drawn = faces(2000, SKEWED, seed=2, sharpness=1.6)
    for task in TASKS:
        k = len(task.classes)
        shown = probabilities[task.name].argmax(axis=1)
        rates = aggregative.ACC.getPteCondEstim(np.arange(k), true[task.name], shown)
        np.testing.assert_allclose(confusion(shown, true[task.name], k), rates, atol=1e-12)
        counted = share(drawn[task.name].argmax(axis=1), k)
        theirs = aggregative.ACC.solve_adjustment(rates, counted, "inversion", "exact-raise")
        ours = adjusted(rates[None], counted[None])[0]
        assert (theirs > 0).all()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        prior = probabilities[task.name].mean(axis=0)
        theirs, _ = aggregative.EMQ.EM(prior, drawn[task.name], epsilon=1e-11)
        np.testing.assert_allclose(em.fit(em.ratios(drawn[task.name], prior)), theirs, atol=1e-6)


def test_adjusted_counts_lie_at_the_best_point_of_the_simplex():
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    rates = np.stack([rng.dirichlet(np.full(5, 0.4), size=5).T for _ in range(30)])
    counted = rng.dirichlet(np.full(5, 0.3), size=30)
    found = adjusted(rates, counted)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for matrix, goal, ours in zip(rates, counted, found, strict=True):
        # Non-negative least squares with a heavy row for the sum.
        heavy = np.vstack([matrix, np.full(5, 1e4)])
        best, _ = optimize.nnls(heavy, np.append(goal, 1e4))
        assert ((matrix @ ours - goal) ** 2).sum() <= ((matrix @ best - goal) ** 2).sum() + 1e-7


def test_a_quadratic_without_a_unique_minimum_still_gives_shares():
    found = minimise(np.zeros((1, 3, 3)), np.zeros((1, 3)))
    np.testing.assert_allclose(found.sum(), 1)
    assert (found >= 0).all()


def test_corrected_shares_are_nearer_to_the_truth_than_counted_ones(known):
    answers, true = collection(4000, SKEWED, seed=7)
    for name, shares in measure(answers, known, draws=50).items():
        truth = share(shares.axis.cell_of(true), len(shares.axis.cells))
        counted = np.abs(shares.counted.value - truth).mean()
        assert np.abs(shares.em.value - truth).mean() < counted, name
        assert shares.counts.sum() == 4000
        np.testing.assert_allclose(shares.em.value.sum(), 1)
        np.testing.assert_allclose(shares.matrix.value.sum(), 1)


@pytest.mark.parametrize("population", [False, True])
def test_intervals_cover_what_they_say(known, population):
    hits = {"matrix": [], "em": []}
    for seed in range(40):
        answers, true = collection(600, SKEWED, seed=seed)
        axis = single(RACE)
        known_again = table(2000, seed=500 + seed)
        found = measure(answers, known_again, axes=(axis,), population=population, draws=200)[
            "race"
        ]
        truth = SKEWED["race"] if population else share(true["race"], 7)
        for name, rows in hits.items():
            estimate = getattr(found, name)
            rows.append((estimate.low <= truth) & (truth <= estimate.high))
    for name, rows in hits.items():
        assert 0.88 < np.mean(rows) < 0.995, name


def test_a_share_of_which_em_leaves_nothing_may_still_be_some():
    blurred = table(1000, sharpness=1.0)
    few = np.array([0.3, 0.3, 0.02, 0.1, 0.1, 0.1, 0.08])
    inside, empty = [], 0
    for seed in range(25):
        answers, true = collection(300, {"race": few}, seed=seed, sharpness=1.0)
        found = measure(answers, blurred, axes=(single(RACE),), draws=100)["race"].em
        nothing = found.value < 1e-6
        empty += nothing.sum()
        assert (found.high[nothing] > 0.005).all()
        inside += list(found.high[nothing] >= share(true["race"], 7)[nothing])
    assert empty >= 10
    assert np.mean(inside) > 0.85


def test_shares_in_these_images_are_known_better_than_in_their_population(known):
    answers, _ = collection(1500, SKEWED, seed=1)
    here = measure(answers, known, axes=(single(GENDER),))["gender"]
    there = measure(answers, known, axes=(single(GENDER),), population=True)["gender"]
    assert np.isnan(here.counted.low).all()
    assert not np.isnan(there.counted.low).any()
    assert (here.em.high - here.em.low < there.em.high - there.em.low).all()
    np.testing.assert_array_equal(here.em.value, there.em.value)


def test_the_interval_stops_shrinking_where_the_calibration_rows_end():
    few, many = table(500, seed=1), table(20_000, seed=1)
    answers, _ = collection(20_000, SKEWED, seed=1)
    axis = single(RACE)
    wide = measure(answers, few, axes=(axis,), draws=200)["race"].matrix
    narrow = measure(answers, many, axes=(axis,), draws=200)["race"].matrix
    assert ((narrow.high - narrow.low) < 0.6 * (wide.high - wide.low)).all()


def test_faces_of_one_image_stay_together():
    answers, _ = collection(1000, seed=2)
    repeated = Answers(
        {
            name: np.repeat(values[:100], 10, axis=0)
            for name, values in answers.probabilities.items()
        },
        np.repeat(np.arange(100), 10),
    )
    apart = Answers(repeated.probabilities, np.arange(1000))
    axis = (single(GENDER),)
    together = measure(repeated, None, axes=axis, population=True)["gender"].counted
    alone = measure(apart, None, axes=axis, population=True)["gender"].counted
    assert (together.high - together.low > 2 * (alone.high - alone.low)).all()


def test_resampled_means_have_the_spread_of_clustered_sampling():
    rng = np.random.default_rng(0)
    image = np.sort(rng.integers(200, size=900))
    values = rng.normal(size=(900, 1)) + rng.normal(size=200)[image, None]
    found = resampled_means(image, values, 4000, seed=1)
    centred = values[:, 0] - values.mean()
    expected = math.sqrt(sum(centred[image == i].sum() ** 2 for i in range(200))) / 900
    assert found.std() == pytest.approx(expected, rel=0.06)
    assert found.mean() == pytest.approx(values.mean(), abs=0.01)


def test_the_order_of_faces_does_not_matter():
    rng = np.random.default_rng(0)
    image, values = rng.integers(50, size=300), rng.normal(size=(300, 2))
    usual = resampled_means(image, values, 3, seed=1)
    order = np.argsort(image, kind="stable")
    np.testing.assert_allclose(resampled_means(image[order], values[order], 3, seed=1), usual)


def test_the_same_seed_gives_the_same_intervals(known):
    answers, _ = collection(300, seed=4)
    one, two = (measure(answers, known, draws=50, seed=9) for _ in range(2))
    assert {n: s.to_dict() for n, s in one.items()} == {n: s.to_dict() for n, s in two.items()}
    json.dumps(one["gender × age"].to_dict())


def test_a_part_of_a_large_collection_is_counted_in_full(known, monkeypatch):
    from faceattr.audit import prevalence

    answers, _ = collection(3000, SKEWED, seed=4)
    usual = measure(answers, known, axes=(single(RACE),), draws=50)["race"]
    monkeypatch.setattr(prevalence, "MOST_FACES", 1500)
    part = measure(answers, known, axes=(single(RACE),), draws=50)["race"]
    np.testing.assert_array_equal(part.counts, usual.counts)
    np.testing.assert_allclose(part.matrix.value, usual.matrix.value)
    np.testing.assert_allclose(part.em.value, usual.em.value, atol=0.05)


def test_a_pair_counts_cells_as_a_loop_does():
    answers, _ = collection(200, seed=6)
    found = measure(answers, None, axes=DEFAULT_AXES)["gender × race"]
    expected = dict.fromkeys(found.axis.cells, 0)
    for gender, race in zip(
        answers.probabilities["gender"], answers.probabilities["race"], strict=True
    ):
        race_name = RACE.display_name(RACE.classes[int(race.argmax())])
        expected[f"{GENDER.classes[int(gender.argmax())]}, {race_name}"] += 1
    assert dict(zip(found.axis.cells, found.counts.tolist(), strict=True)) == expected
    assert found.em is None and found.best is None


def test_a_pairs_soft_cells_are_products():
    answers, _ = collection(20, seed=6)
    cells = pair(single(GENDER), single(AGE)).soft(answers.probabilities)
    gender, age = answers.probabilities["gender"], answers.probabilities["age"]
    assert cells[3, 9 + 4] == pytest.approx(gender[3, 1] * age[3, 4])


def test_own_bins_are_sums_of_corrected_classes(known):
    answers, _ = collection(800, SKEWED, seed=8)
    axis = parse_merge("age: child = 0-2,3-9, 10-19; old=60-69,70+")
    assert axis.cells == ("child", "20-29", "30-39", "40-49", "50-59", "old")
    found = measure(answers, known, axes=(single(AGE), axis), draws=50)
    age, bins = found["age"], found[axis.name]
    for name in ("counted", "matrix", "em"):
        single_values, merged = getattr(age, name).value, getattr(bins, name).value
        assert merged[0] == pytest.approx(single_values[:3].sum())
        assert merged[-1] == pytest.approx(single_values[7:].sum())
        # What widens the classes' intervals widens those of bins; a bin of one class keeps its own.
        if name != "counted":
            kept = [(getattr(one, name).low, getattr(one, name).high) for one in (age, bins)]
            np.testing.assert_array_equal(np.array(kept[0])[:, 3:7], np.array(kept[1])[:, 1:5])
    assert age.rival is not None
    rival = age.rival.value[:3].sum()
    assert bins.em.low[0] <= rival <= bins.em.high[0]
    assert bins.counts.sum() == 800
    assert (bins.em.low <= bins.em.value).all() and (bins.em.value <= bins.em.high).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("age", "TASK:BIN"),
        ("age:child", "BIN=CLASS"),
        ("age:=0-2", "BIN=CLASS"),
        ("age:a=0-2;a=3-9", "twice"),
        ("age:a=0-2;b=0-2", "one bin"),
        ("age:20-29=0-2,3-9", "name of a class"),
        ("gender:all=Male,Female", "two bins"),
        ("age:", "one bin"),
    ],
)
def test_bins_that_cannot_be_are_refused(text, said):
    with pytest.raises(AuditError, match=said):
        parse_merge(text)


@pytest.mark.parametrize("text", ["height:a=b", "age:a=200"])
def test_bins_of_unknown_names_are_refused(text):
    with pytest.raises(LabelError):
        parse_merge(text)


def test_no_faces_are_refused(known):
    answers, _ = collection(5)
    with pytest.raises(AuditError, match="at least one face"):
        measure(answers.select(np.zeros(5, bool)), known)


def test_a_table_comes_back_from_its_file(known, tmp_path):
    path = tmp_path / "audit.json"
    write_table(known, path)
    back = read_table(path)
    assert back.rows == known.rows and back.weights_sha256 == known.weights_sha256
    for task in TASKS:
        assert back.counts(task) == known.counts(task)
        np.testing.assert_allclose(
            back.probabilities[task.name].mean(axis=0),
            known.probabilities[task.name].mean(axis=0),
            atol=1e-5,
        )
    answers, _ = collection(800, SKEWED, seed=3)
    for name, shares in measure(answers, back, draws=20).items():
        expected = measure(answers, known, draws=20)[name]
        np.testing.assert_allclose(shares.matrix.value, expected.matrix.value, atol=1e-9)
        pair = "×" in name
        np.testing.assert_allclose(shares.em.value, expected.em.value, atol=0.01 if pair else 1e-4)
    again = tmp_path / "again.json"
    write_table(known, again)
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema"),
        ({"more": 1}, "keys"),
        ({"rows": 10}, "'rows' says 10"),
        ({"rows": 0}, "'rows'"),
        ({"rows": "x"}, "'rows'"),
        ({"labels": "%%%"}, "damaged"),
        ({"labels": "AAAA"}, "damaged|hold"),
        ({"likeliest": LEVELS_OF_300}, "of no class"),
        ({"steps": {"gender": "AAAAA"}}, "steps are damaged"),
        ({"steps": {"gender": [0, 1]}}, "steps are damaged"),
        ({"steps": {}}, "steps are damaged"),
        ({"counts": {"gender": [1, 2], "age": [], "race": []}}, "'counts'"),
        ({"classes": {"gender": ["Female", "Male"]}}, "classes of 'gender'"),
    ],
)
def test_a_damaged_table_is_refused(known, tmp_path, change, said):
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({**known.to_dict(), **change}))
    with pytest.raises(AuditError, match=said):
        read_table(path)


def test_a_table_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "audit.json"
    for text in ("[]", "no json", ""):
        path.write_text(text)
        with pytest.raises(AuditError, match="calibration table"):
            read_table(path)


def test_a_table_needs_faces_of_every_class():
    true, probabilities = faces(50)
    true["gender"][:] = 0
    with pytest.raises(AuditError, match="Female"):
        CalibrationTable("ab" * 32, {}, true, probabilities)


def test_a_table_of_other_weights_is_refused(known, tmp_path):
    files = WeightsFiles(tmp_path / "config.json", tmp_path / "model.onnx", "model")
    assert find_table(files) is None
    write_table(known, tmp_path / "audit.json")
    found = find_table(files, known.weights_sha256)
    assert found is not None and found.rows == known.rows
    with pytest.raises(AuditError, match="audit-table"):
        find_table(files, "cd" * 32)


def test_faces_that_are_shown_again_tell_no_more_of_these_images(known):
    few, _ = collection(400, SKEWED, seed=21, sharpness=1.2)
    again = np.repeat(np.arange(400), 9)
    many = few.select(again)
    once, often = (
        measure(answers, known, axes=(single(GENDER),), seed=4)["gender"].em
        for answers in (few, many)
    )
    np.testing.assert_allclose(often.value, once.value, atol=1e-6)
    widths = [float((found.high - found.low).mean()) for found in (once, often)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_a_class_that_was_never_seen_may_be_in_the_population(known):
    answers, _ = collection(40, {"gender": [1.0, 0.0]}, seed=2, sharpness=6.0)
    found = measure(answers, known, axes=(single(GENDER),), population=True)["gender"].counted
    # Clopper and Pearson's interval of 0 in 40.
    expected = binomtest(0, 40).proportion_ci(0.95, "exact").high
    assert found.value[1] == 0 and found.high[1] == pytest.approx(expected)
    assert found.low[0] == pytest.approx(1 - expected)


def test_a_bin_of_classes_that_were_never_seen_may_be_in_the_population(known):
    answers, _ = collection(40, {"race": [1.0, 0, 0, 0, 0, 0, 0]}, seed=2, sharpness=6.0)
    axis = parse_merge("race:asian=East Asian,Southeast Asian,Indian;rest=White,Latino,Black")
    found = measure(answers, known, axes=(single(RACE), axis), population=True)
    race, bins = found["race"].counted, found[axis.name].counted
    assert bins.value.tolist() == [1, 0, 0]
    assert bins.high[1] == race.high[3] > 0 and bins.low[0] == pytest.approx(race.low[0])


def test_answers_like_those_in_a_file_are_not_taken_for_a_shift(tmp_path):
    path = tmp_path / "audit.json"
    # So sure that a file holds many of these answers as certain.
    exact = table(1500, sharpness=3.0)
    write_table(exact, path)
    warned = dict.fromkeys(("exact", "stored"), 0)
    for seed in range(30, 42):
        answers, _ = collection(1500, SKEWED, seed=seed, sharpness=3.0)
        for name, known in (("exact", exact), ("stored", read_table(path))):
            warned[name] += not shift_test(answers, known, draws=100).trusted
    # Were answers not rounded as the file is, all twelve would warn.
    assert warned["stored"] <= warned["exact"] + 3 < 12
