import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from predictions_table import TRAINING, columns, table
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from faceattr.labels import AGE, GENDER, RACE, TASKS
from train.__main__ import main
from train.evaluate.cells import Cell, wilson_interval
from train.evaluate.predictions import Predictions, read_predictions
from train.evaluate.reliability import brier_score, calibration, reliability, risk_coverage
from train.evaluate.report import SCHEMA, evaluate
from train.report import reference as published
from train.tables import TableError


@pytest.fixture
def data():
    return columns()


def store(path, content, **changes):
    pq.write_table(table(content, **changes), path)
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `columns()` gives, evaluated once."""
    path = store(tmp_path_factory.mktemp("evaluate") / "p.parquet", columns())
    return evaluate(read_predictions(path), draws=400)


def evaluated(tmp_path, content):
    return evaluate(read_predictions(store(tmp_path / "p.parquet", content)), draws=20)


def answers(content, task):
    """Label and likeliest class of each face by name, with plain loops over the columns."""
    pairs = []
    for index in range(len(content["row"])):
        best = max(task.classes, key=lambda name: content[f"{task.name}:{name}"][index])
        pairs.append((content[f"{task.name}_true"][index], best))
    return pairs


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_the_published_values(correct, count, low, high):
    assert [round(end, 4) for end in wilson_interval(correct, count)] == [low, high]


def test_an_empty_cell_has_no_accuracy():
    assert Cell.of(np.zeros(0, dtype=bool)).to_dict() == {
        "n": 0,
        "correct": 0,
        "accuracy": None,
        "low": None,
        "high": None,
    }


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_overall_metrics_agree_with_plain_loops(report, data, task):
    found = report["overall"][task.name]
    pairs = answers(data, task)
    recalls, scores = [], []
    for name in task.classes:
        hits = sum(true == best == name for true, best in pairs)
        wanted = sum(true == name for true, _ in pairs)
        given = sum(best == name for _, best in pairs)
        recalls.append(hits / wanted)
        scores.append(2 * hits / (wanted + given))
    correct = sum(true == best for true, best in pairs)
    assert (found["n"], found["correct"]) == (len(pairs), correct)
    assert found["accuracy"] == round(correct / len(pairs), 6)
    assert found["balanced_accuracy"] == round(sum(recalls) / len(recalls), 6)
    assert found["macro_f1"] == round(sum(scores) / len(scores), 6)


def test_results_on_service_test_rows_count_only_those(report, data):
    for task in TASKS:
        pairs = [p for p, m in zip(answers(data, task), data["service_test"], strict=True) if m]
        assert report["service_test"][task.name]["n"] == len(pairs) < 400
        assert report["service_test"][task.name]["correct"] == sum(a == b for a, b in pairs)


def test_a_table_without_service_test_rows_has_null_results_there(tmp_path, data):
    data["service_test"] = [False] * 400
    found = evaluated(tmp_path, data)["service_test"]["age"]
    assert found["n"] == 0
    assert found["accuracy"] is found["balanced_accuracy"] is found["macro_f1"] is None


@pytest.mark.parametrize(
    ("number", "task", "down", "across"),
    [("4.1", GENDER, AGE, RACE), ("4.2", AGE, GENDER, RACE), ("4.3", RACE, GENDER, AGE)],
)
def test_the_reports_tables_agree_with_plain_loops(report, data, number, task, down, across):
    found = report["subgroups"][number]
    assert found["task"] == task.name
    assert found["rows"] == {"task": down.name, "classes": list(down.classes)}
    assert found["columns"] == {"task": across.name, "classes": list(across.classes)}
    pairs = answers(data, task)
    for i, row in enumerate(down.classes):
        for j, column in enumerate(across.classes):
            group = [
                true == best
                for k, (true, best) in enumerate(pairs)
                if data[f"{down.name}_true"][k] == row and data[f"{across.name}_true"][k] == column
            ]
            cell = found["cells"][i][j]
            assert (cell["n"], cell["correct"]) == (len(group), sum(group))
            if group:
                low, high = binomtest(sum(group), len(group)).proportion_ci(method="wilson")
                assert cell["low"] == pytest.approx(low, abs=1e-6)
                assert cell["high"] == pytest.approx(high, abs=1e-6)


def test_confusion_counts_have_labels_down_and_predictions_across(report, data):
    genders = data["gender_true"]
    for task in TASKS:
        groups = {"overall": (report["confusion"]["overall"], range(400))}
        for name in GENDER.classes if task is not GENDER else ():
            rows = [k for k in range(400) if genders[k] == name]
            groups[name] = (report["confusion"]["by_gender"][name], rows)
        pairs = answers(data, task)
        for matrices, rows in groups.values():
            chosen = [pairs[k] for k in rows]
            assert matrices[task.name]["classes"] == list(task.classes)
            assert matrices[task.name]["counts"] == [
                [chosen.count((true, best)) for best in task.classes] for true in task.classes
            ]


def test_a_gender_without_faces_has_a_confusion_matrix_of_zeros(tmp_path, data):
    data["gender_true"] = ["Male"] * 400
    found = evaluated(tmp_path, data)["confusion"]["by_gender"]["Female"]["race"]["counts"]
    assert found == [[0] * 7] * 7


def test_recall_by_class_counts_the_faces_of_that_label(report, data):
    found = report["per_class"]["age"]
    pairs = answers(data, AGE)
    assert [(entry["class"], entry["n"], entry["correct"]) for entry in found] == [
        (name, sum(t == name for t, _ in pairs), sum(t == b == name for t, b in pairs))
        for name in AGE.classes
    ]


def test_calibration_error_agrees_with_a_hand_count():
    # Two faces at 0.95, one of them right; two at 0.65, both right: (0.45 + 0.35) / 2.
    top = np.array([0.95, 0.95, 0.65, 0.65])
    faces = np.stack([top, 1 - top], axis=1), np.array([0, 1, 0, 0])
    assert calibration(*faces)["expected_calibration_error"] == pytest.approx(0.4)
    bins = [(b["n"], b["accuracy"]) for b in reliability(*faces) if b["n"]]
    assert bins == [(2, 1.0), (2, 0.5)]


def test_calibration_error_agrees_with_plain_loops(data):
    values = np.stack([data[f"race:{name}"] for name in RACE.classes], axis=1).astype(float)
    true = np.array([RACE.classes.index(name) for name in data["race_true"]])
    bins = {}
    for row, label in zip(values.tolist(), true.tolist(), strict=True):
        top = max(row)
        bins.setdefault(math.ceil(top * 15), []).append((top, row.index(top) == label))
    expected = sum(abs(sum(p for p, _ in b) - sum(c for _, c in b)) for b in bins.values()) / 400
    assert calibration(values, true)["expected_calibration_error"] == pytest.approx(expected)
    assert sum(b["n"] for b in reliability(values, true)) == 400


def test_certain_and_right_predictions_are_perfectly_calibrated_and_in_the_last_bin():
    faces = np.eye(2), np.array([0, 1])
    assert calibration(*faces)["expected_calibration_error"] == 0.0
    assert reliability(*faces)[-1]["n"] == 2


def test_equal_probabilities_mean_the_first_class():
    half = np.full((1, 2), 0.5)
    predictions = Predictions(
        ("",), np.array([False]), {"gender": np.array([0])}, {"gender": half}, {}
    )
    assert predictions.predicted(GENDER).tolist() == [0]


def test_the_report_compares_with_the_reports_own_accuracies(report, data):
    found = report["report_comparison"]
    assert found["rows"] == 10_954
    assert {n: v["report"] for n, v in found["accuracy"].items()} == {
        "gender": 0.8735,
        "age": 0.5083,
        "race": 0.5933,
    }
    for name, values in found["accuracy"].items():
        assert values["here"] == report["overall"][name]["accuracy"]
        assert values["difference"] == pytest.approx(values["here"] - values["report"], abs=2e-6)


def test_metadata_is_passed_through_unrounded(report, data):
    assert report["schema"] == SCHEMA
    assert report["training"] == {k: v for k, v in TRAINING.items() if k != "runs"}
    assert report["weights_sha256"] == "ab" * 32
    assert report["dataset"]["rows"] == 400


def test_evaluating_twice_writes_the_same_bytes(tmp_path, data):
    source = store(tmp_path / "p.parquet", data)
    outputs = [tmp_path / "a.json", tmp_path / "new" / "b.json"]
    for output in outputs:
        assert main(["evaluate", str(source), "--output", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert json.loads(outputs[0].read_text(encoding="utf-8"))["overall"]["gender"]["n"] == 400


def spoil(data, column, row, value):
    data[column] = list(data[column])
    data[column][row] = value


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("race:White", 5, math.nan, "'race' are not all finite in 1 rows, first in line 5"),
        ("age:0-2", 6, -0.25, "'age' do not all lie in 0 to 1"),
        ("gender:Male", 7, 0.99999, "'gender' do not sum to 1.*'8.jpg'"),
        ("race_true", 8, "Martian", "'race_true': 'Martian' is not a class of 'race'"),
        ("race_true", 8, None, r"\['race_true'\] have missing values"),
        ("row", 9, 0, "'row' must be unique, 1 values"),
        ("file", 9, "1.jpg", "'file' must be unique"),
        ("sha256", 9, "abc", "'sha256' must hold 64 hexadecimal digits, came 'abc'"),
    ],
)
def test_a_spoilt_value_is_named(tmp_path, data, column, row, value, message):
    data["gender:Male"][7] = 0.25
    data["gender:Female"][7] = 0.75
    spoil(data, column, row, value)
    with pytest.raises(TableError, match=message):
        read_predictions(store(tmp_path / "p.parquet", data))


def test_missing_and_unknown_columns_are_named(tmp_path, data):
    data["race:Martian"] = data["race:White"]
    with pytest.raises(TableError, match=r"\['race:Martian'\] belong to no class"):
        read_predictions(store(tmp_path / "p.parquet", data))
    del data["race:White"]
    with pytest.raises(TableError, match=r"\['race:White'\] are missing"):
        read_predictions(store(tmp_path / "p.parquet", data))


def test_metadata_that_is_absent_or_does_not_fit_is_refused(tmp_path, data):
    path = tmp_path / "p.parquet"
    pq.write_table(table(data).replace_schema_metadata(None), path)
    with pytest.raises(TableError, match="no key 'faceattr'.*python -m train predict"):
        read_predictions(path)
    with pytest.raises(
        TableError,
        match=r"'config' lacks \['training', 'preprocessing', 'temperatures', 'thresholds'\]",
    ):
        read_predictions(store(path, data, config={}))
    facts = {"id": "x", "config": "0.25", "split": "validation", "revision": None, "rows": 401}
    with pytest.raises(TableError, match="says 401 rows, the table holds 400"):
        read_predictions(store(path, data, dataset=facts))


def test_a_file_that_is_no_parquet_is_an_error_without_a_traceback(tmp_path, capsys):
    path = tmp_path / "p.parquet"
    path.write_bytes(b"not a table")
    assert main(["evaluate", str(path), "--output", str(tmp_path / "r.json")]) == 1
    assert "p.parquet is no table of predictions" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_chance_alone_gives_the_error_that_theory_says():
    """One bin of n equal claims p: the mean of |k/n - p| tends to sqrt(2 p (1 - p) / (pi n))."""
    n, claim = 4000, 0.7
    values = np.tile([claim, 1 - claim], (n, 1))
    found = calibration(values, np.zeros(n, np.int64))["if_calibrated"]
    assert found["mean"] == pytest.approx(np.sqrt(2 * claim * (1 - claim) / (np.pi * n)), rel=0.06)
    assert found["p95"] == pytest.approx(1.96 * np.sqrt(claim * (1 - claim) / n), rel=0.12)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bootstrap_intervals_agree_with_faces_drawn_in_a_plain_loop(report, data, task):
    pairs = answers(data, task)
    rng = np.random.default_rng(5)
    drawn = {"accuracy": [], "balanced_accuracy": [], "macro_f1": []}
    for _ in range(150):
        sample = [pairs[index] for index in rng.integers(400, size=400)]
        true, best = zip(*sample, strict=True)
        drawn["accuracy"].append(accuracy_score(true, best))
        drawn["balanced_accuracy"].append(balanced_accuracy_score(true, best))
        drawn["macro_f1"].append(f1_score(true, best, average="macro"))
    for name, values in drawn.items():
        found = report["overall"][task.name]["bootstrap"][name]
        expected = np.quantile(values, [0.025, 0.975])
        assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.02), name


def test_every_cell_of_the_reports_tables_stands_beside_ours(report, data):
    for number, printed in published.SUBGROUPS.items():
        table = report["report_comparison"]["tables"][number]
        outside = higher = compared = 0
        for i, line in enumerate(printed):
            for j, theirs in enumerate(line):
                ours = report["subgroups"][number]["cells"][i][j]
                cell = table["cells"][i][j]
                assert (cell["n"], cell["report"]) == (ours["n"], theirs)
                if not ours["n"]:
                    continue
                assert cell["difference"] == pytest.approx(ours["accuracy"] - theirs, abs=1e-6)
                far = theirs + 0.005 < ours["low"] or theirs - 0.005 > ours["high"]
                assert cell["outside"] == far
                if ours["n"] >= 30:
                    compared += 1
                    higher += ours["accuracy"] > theirs
                    outside += far and ours["accuracy"] > theirs
        assert (table["compared"], table["higher"]) == (compared, higher)
        assert table["higher_outside"] == outside


def test_the_remarks_on_age_agree_with_plain_loops(report, data):
    found = report["remarks"]
    steps = [AGE.index(best) - AGE.index(true) for true, best in answers(data, AGE)]
    wrong = [abs(step) for step in steps if step]
    assert found["age_errors"]["errors"] == len(wrong)
    assert found["age_errors"]["neighbouring"]["count"] == wrong.count(1)
    assert found["age_errors"]["mean_distance"] == round(sum(wrong) / 400, 6)
    assert found["age_errors"]["mean_distance_of_errors"] == round(sum(wrong) / len(wrong), 6)
    for gender in GENDER.classes:
        thirties = [
            best
            for k, (true, best) in enumerate(answers(data, AGE))
            if true == "30-39" and data["gender_true"][k] == gender
        ]
        taken = found["by_gender"][gender]["taken"]
        assert (taken["n"], taken["count"]) == (len(thirties), thirties.count("20-29"))


def test_the_most_confused_races_agree_with_plain_loops(report, data):
    found = report["remarks"]
    pairs = answers(data, RACE)
    shares = {}
    for i, one in enumerate(RACE.classes):
        for other in RACE.classes[i + 1 :]:
            faces = [p for p in pairs if p[0] in (one, other)]
            mistaken = sum(set(p) == {one, other} for p in faces)
            shares[one, other] = (mistaken / len(faces), mistaken, len(faces))
    best = sorted(shares, key=lambda pair: -shares[pair][0])
    assert [tuple(entry["pair"]) for entry in found["confused_races"]] == best[:4]
    for entry in found["confused_races"]:
        assert (entry["count"], entry["n"]) == shares[tuple(entry["pair"])][1:]
    printed = [set(pair) for pair in published.CONFUSED_RACES]
    ranks = [rank for rank, pair in enumerate(best, 1) if set(pair) in printed]
    assert found["report_pairs_ranks"] == ranks


def test_rows_of_the_same_picture_are_counted_with_their_disagreements(tmp_path, data):
    assert evaluated(tmp_path, data)["duplicates"]["rows"] == 0
    data["sha256"][3] = data["sha256"][7] = data["sha256"][1]
    data["sha256"][5] = data["sha256"][6]
    data["race_true"] = list(data["race_true"])
    for row, name in ((1, "White"), (3, "White"), (7, "Indian"), (5, "Black"), (6, "Black")):
        data["race_true"][row] = name
    found = evaluated(tmp_path, data)["duplicates"]
    assert (found["pictures"], found["rows"]) == (2, 5)
    assert found["labels_differ"]["race"] == 1


def test_robustness_results_of_other_weights_are_refused(tmp_path, data):
    predictions = read_predictions(store(tmp_path / "p.parquet", data))
    with pytest.raises(TableError, match="of other weights than the predictions"):
        evaluate(predictions, robustness={"weights_sha256": "0" * 64}, draws=5)
    kept = {"schema": 1, "weights_sha256": "ab" * 32, "clean": {}}
    assert evaluate(predictions, robustness=kept, draws=5)["robustness"] == {
        "weights_sha256": "ab" * 32,
        "clean": {},
    }


def test_brier_score_agrees_with_plain_loops(data):
    total = 0.0
    for index in range(400):
        for name in AGE.classes:
            total += (data[f"age:{name}"][index] - (data["age_true"][index] == name)) ** 2
    values = np.stack([data[f"age:{name}"] for name in AGE.classes], axis=1).astype(float)
    true = np.array([AGE.index(name) for name in data["age_true"]])
    assert brier_score(values, true) == pytest.approx(total / 400)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2.0


def test_calibration_by_group_counts_the_faces_of_that_group(report, data):
    found = report["calibration"]["race"]["by_group"]["gender"]
    assert [entry["class"] for entry in found] == list(GENDER.classes)
    for entry in found:
        rows = [k for k in range(400) if data["gender_true"][k] == entry["class"]]
        tops = [max(float(data[f"race:{name}"][k]) for name in RACE.classes) for k in rows]
        assert entry["n"] == len(rows)
        assert entry["confidence"] == pytest.approx(sum(tops) / len(tops), abs=1e-6)
        # One bin holds all of a group only when it is all of one probability: bound it instead.
        assert entry["expected_calibration_error"] >= abs(entry["accuracy"] - entry["confidence"])


def test_a_group_without_faces_has_null_calibration(tmp_path, data):
    data["gender_true"] = ["Male"] * 400
    entry = evaluated(tmp_path, data)["calibration"]["race"]["by_group"]["gender"][1]
    assert entry["n"] == 0
    assert entry["brier"] is entry["expected_calibration_error"] is None


def test_the_surest_answers_come_first_on_a_risk_coverage_curve():
    top = np.array([0.6, 0.9, 0.8, 0.7])
    found = risk_coverage(top, np.array([False, True, True, False]))
    # Accuracy of the surest 1, 2, 3 and 4: 1, 1, 2/3, 1/2.
    assert found["area"] == pytest.approx(1 - (1 + 1 + 2 / 3 + 1 / 2) / 4)
    assert found["curve"][0] == {"coverage": 0.25, "probability": 0.9, "accuracy": 1.0}
    assert found["curve"][-1] == {"coverage": 1.0, "probability": 0.6, "accuracy": 0.5}
    assert len(found["curve"]) == 50


def test_answers_at_or_above_the_stored_threshold_are_counted(report, data):
    found = report["selective"]["race"]
    assert (found["aimed_accuracy"], found["stored"]["threshold"]) == (0.8, 0.6)
    answered = []
    for k, (true, best) in enumerate(answers(data, RACE)):
        if data[f"race:{best}"][k] >= 0.6:
            answered.append((data["gender_true"][k], true == best))
    assert found["stored"]["coverage"]["correct"] == len(answered)
    assert found["stored"]["accuracy"]["n"] == len(answered)
    assert found["stored"]["accuracy"]["correct"] == sum(right for _, right in answered)
    by_gender = found["stored"]["by_group"]["gender"]
    assert [entry["class"] for entry in by_gender] == list(GENDER.classes)
    for entry in by_gender:
        group = [right for gender, right in answered if gender == entry["class"]]
        assert entry["coverage"]["correct"] == len(group)
        assert entry["accuracy"]["correct"] == sum(group)
