import csv
import json
import math
from pathlib import Path

import pytest

from faceattr.audit.measures import MEASURES
from faceattr.labels import AGE, GENDER, RACE
from train.__main__ import main
from train.report.imbalance import (
    differences,
    imbalance,
    read_labels,
    stream_labels,
)
from train.tables import TableError

TABLE_3_2 = {
    "age": ("0.295098", "0.009707", "0.285391", "0.808729", "2.695531", "0.816217"),
    "gender": ("0.530135", "0.469865", "0.060269", "0.060269", "0.997378", "0.498184"),
    "race": ("0.190526", "0.106244", "0.084282", "0.169074", "2.787104", "0.853059"),
}
# Computed once from validation.csv with numpy and scipy.stats (variation, entropy base 2).
TRUE_3_3 = {
    "age": ("0.301260", "0.010772", "0.290487", "0.814326", "2.688250", "0.815208"),
    "gender": ("0.528757", "0.471243", "0.057513", "0.057513", "0.997613", "0.498346"),
    "race": ("0.190341", "0.110371", "0.079971", "0.157591", "2.790038", "0.853595"),
}


def figures(labels):
    return {
        task.name: tuple(f"{imbalance(labels.counts(task))[key]:.6f}" for key in MEASURES)
        for task in (AGE, GENDER, RACE)
    }


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "age", "gender", "race", "service_test"])
        writer.writerows(rows)
    return path


ROWS = [
    ["1.jpg", "0-2", "Male", "White", "True"],
    ["2.jpg", "70+", "female", "Latino", "False"],
    ["3.jpg", "0-2", "Male", "Indian", "False"],
]


def test_training_labels_give_every_figure_of_the_reports_table_3_2(fairface_dir):
    labels = read_labels(fairface_dir / "labels" / "train.csv")
    assert labels.rows == 86_744
    assert figures(labels) == TABLE_3_2
    assert differences(labels) == []


def test_validation_labels_give_other_figures_than_the_reports_table_3_3(fairface_dir):
    labels = read_labels(fairface_dir / "labels" / "validation.csv")
    assert figures(labels) == TRUE_3_3
    assert f"{imbalance(labels.counts(AGE))['max_ratio']:.6f}" == f"{3300 / 10954:.6f}"
    assert len(differences(labels)) == 18


def test_the_page_in_docs_is_what_the_command_writes(fairface_dir, tmp_path, capsys):
    files = [str(fairface_dir / "labels" / f"{split}.csv") for split in ("train", "validation")]
    page = tmp_path / "data.md"
    assert main(["imbalance", *files, "--markdown", str(page)]) == 0
    committed = Path(__file__).parents[1] / "docs" / "data.md"
    assert page.read_bytes() == committed.read_bytes()


def test_balanced_classes_give_the_extremes_of_every_figure():
    found = imbalance({"a": 5, "b": 5, "c": 5, "d": 5})
    assert found == {
        "max_ratio": 0.25,
        "min_ratio": 0.25,
        "ratio_range": 0.0,
        "coefficient_of_variation": 0.0,
        "entropy": 2.0,
        "gini": 0.75,
    }


def test_a_class_without_instances_counts_as_a_class():
    found = imbalance({"a": 4, "b": 0})
    assert (found["min_ratio"], found["entropy"], found["gini"]) == (0.0, 0.0, 0.0)
    assert found["coefficient_of_variation"] == pytest.approx(1.0)


@pytest.mark.parametrize("counts", [{}, {"a": 0}, {"a": 3, "b": -1}])
def test_counts_without_instances_or_below_zero_are_refused(counts):
    with pytest.raises(ValueError, match="at least one instance"):
        imbalance(counts)


def test_labels_are_read_by_any_known_spelling_and_counted_in_canonical_order(tmp_path):
    labels = read_labels(write_csv(tmp_path / "few.csv", ROWS))
    assert (labels.name, labels.rows, labels.service_test) == ("few", 3, 1)
    assert list(labels.counts(AGE)) == list(AGE.classes)
    assert labels.counts(AGE)["more than 70"] == 1
    crossed = labels.counts(GENDER, RACE)
    assert len(crossed) == 14
    assert {k: v for k, v in crossed.items() if v} == {
        "Male × White": 1,
        "Male × Indian": 1,
        "Female × Latino_Hispanic": 1,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["4.jpg", "0-2", "Man", "White", "True"], "line 5.*'Man' is not a class of 'gender'"),
        (["4.jpg", "0-2", "Male", "White", "yes"], "line 5.*service_test.*'yes'"),
        (["1.jpg", "0-2", "Male", "White", "True"], "line 5.*'1.jpg' came before"),
        (["4.jpg", "0-2"], "line 5.*not a class of 'gender'"),
    ],
)
def test_a_bad_line_of_a_label_file_is_named(tmp_path, row, message):
    with pytest.raises(TableError, match=message):
        read_labels(write_csv(tmp_path / "bad.csv", [*ROWS, row]))


def test_a_label_file_without_a_column_or_without_rows_is_refused(tmp_path):
    with pytest.raises(TableError, match="no rows"):
        read_labels(write_csv(tmp_path / "empty.csv", []))
    (tmp_path / "short.csv").write_text("file,age\n1.jpg,0-2\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"\['gender', 'race', 'service_test'\] missing"):
        read_labels(tmp_path / "short.csv")


def test_the_command_writes_figures_of_attributes_and_all_intersections(tmp_path, capsys):
    source = write_csv(tmp_path / "few.csv", ROWS)
    output = tmp_path / "new" / "few.json"
    assert main(["imbalance", str(source), "--json", str(output)]) == 0
    found = json.loads(output.read_text(encoding="utf-8"))["splits"]["few"]
    assert list(found["imbalance"]) == [
        "age",
        "gender",
        "race",
        "age × gender",
        "age × race",
        "gender × race",
        "age × gender × race",
    ]
    assert found["imbalance"]["gender"]["max_ratio"] == round(2 / 3, 6)
    assert found["imbalance"]["race"]["entropy"] == round(math.log2(3), 6)
    assert "age × gender × race | 126 | 0 | 1 |" in capsys.readouterr().out


def test_the_command_wants_files_or_a_data_set_but_not_both(tmp_path, capsys):
    source = write_csv(tmp_path / "few.csv", ROWS)
    for arguments in ([], [str(source), "--data", "x/y"], [str(source), str(source)]):
        assert main(["imbalance", *arguments]) == 1
        assert capsys.readouterr().err.startswith("error: ")


def test_streamed_labels_agree_with_the_label_file(fairface_dir):
    streamed = stream_labels(str(fairface_dir), "0.25", None, "validation")
    listed = read_labels(fairface_dir / "labels" / "validation.csv")
    assert streamed.rows == 5_000
    with (fairface_dir / "labels" / "validation.csv").open(encoding="utf-8") as stream:
        first = list(csv.DictReader(stream))[:5_000]
    assert streamed.counts(RACE) == {
        name: sum(row["race"] == name for row in first) for name in listed.counts(RACE)
    }
    assert streamed.service_test == sum(row["service_test"] == "True" for row in first)
