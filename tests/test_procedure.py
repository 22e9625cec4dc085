from predictions_table import TRAINING

from train.report.procedure import cost, earlier_words, lineage, start_words, teachers_words

TEACHER = {
    "sha256": "aa",
    "architecture": "TeacherNet",
    "recipe": "teacher",
    "seed": 1,
    "holdout_accuracy": {"gender": 0.91},
    "hardware": "CPU, 8 threads",
    "wall_seconds": 600,
    "teachers": [],
    "start": None,
}
FIRST = {
    "sha256": "bb",
    "architecture": "FaceAttrNet",
    "recipe": "ours",
    "seed": 2,
    "holdout_accuracy": {"gender": 0.9},
    "wall_seconds": 3600,
    "teachers": [TEACHER],
}


def test_a_run_from_scratch_costs_its_own_time_alone():
    assert lineage(TRAINING) == [TRAINING]
    assert cost(TRAINING)["total"] == "1 h 02 min"
    assert teachers_words(TRAINING) == start_words(TRAINING) == ""


def test_earlier_runs_count_once_each_however_deep_they_lie():
    training = {**TRAINING, "recipe": "again", "start": FIRST, "teachers": [TEACHER]}
    assert [(run["recipe"], run["wall_seconds"]) for run in lineage(training)] == [
        ("teacher", 600),
        ("ours", 3600),
        ("again", 3725),
    ]
    found = cost(training)
    assert found["total"] == "2 h 12 min"
    assert found["runs"][0] == "`teacher` (seed 1): 10 min 00 s on CPU, 8 threads"
    assert "hardware that was not recorded" in found["runs"][1]


def test_earlier_runs_are_told_once_each_with_their_own_origins():
    training = {**TRAINING, "start": FIRST, "teachers": [FIRST, TEACHER]}
    assert start_words(training) == "`ours` (seed 2)"
    assert teachers_words(training) == "`ours` (seed 2) and `teacher` (seed 1)"
    assert earlier_words(training) == [
        "`teacher` (seed 1): TeacherNet, from scratch; holdout gender 91.0 %",
        "`ours` (seed 2): FaceAttrNet, from scratch, distilled from `teacher` (seed 1); "
        "holdout gender 90.0 %",
    ]
    again = {**FIRST, "sha256": "cc", "recipe": "again", "start": FIRST, "teachers": []}
    assert "`again` (seed 2): FaceAttrNet, started from `ours` (seed 2); holdout" in "".join(
        earlier_words({**TRAINING, "start": again})
    )


def test_runs_without_a_record_of_origins_are_from_scratch():
    old = {key: value for key, value in TEACHER.items() if key not in ("teachers", "start")}
    assert "from scratch" in earlier_words({**TRAINING, "teachers": [old]})[0]
    assert earlier_words(TRAINING) == []
