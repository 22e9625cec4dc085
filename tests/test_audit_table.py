"""The command that writes a calibration table, and the tables beside the published weights."""

import hashlib

import pyarrow.parquet as pq
import pytest
from predictions_table import columns, table

from faceattr.audit.calibration import find_table, read_table
from faceattr.hub import BUNDLED_NAMES, find_weights
from faceattr.labels import TASKS
from train.__main__ import main


def write(path, part, **changes):
    made = table(columns(300), **changes)
    facts = {"id": "fairface", "config": "0.25", "split": part, "revision": None, "rows": 300}
    pq.write_table(table(columns(300), dataset=facts, **changes), path)
    return made


def test_predictions_become_a_table(tmp_path):
    path, output = tmp_path / "holdout.parquet", tmp_path / "new" / "audit.json"
    write(path, "holdout")
    assert main(["audit-table", str(path), "--output", str(output)]) == 0
    found = read_table(output)
    assert found.rows == 300
    assert found.weights_sha256 == "ab" * 32
    assert found.source == {
        "id": "fairface",
        "config": "0.25",
        "split": "holdout",
        "revision": None,
    }
    wanted = pq.read_table(path)
    for task in TASKS:
        expected = dict.fromkeys(task.classes, 0)
        for name in wanted[f"{task.name}_true"].to_pylist():
            expected[name] += 1
        assert found.counts(task) == expected


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [("train", {}, "fitted to"), ("holdout", {"augmentation": "flip"}, "without --flip")],
)
def test_rows_that_prove_nothing_are_refused(tmp_path, capsys, part, changes, said):
    path = tmp_path / "predictions.parquet"
    write(path, part, **changes)
    assert main(["audit-table", str(path), "--output", str(tmp_path / "audit.json")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "audit.json").exists()


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_the_published_weights_have_a_table_of_their_own(name):
    files = find_weights(name)
    digest = hashlib.sha256(files.weights.read_bytes()).hexdigest()
    found = find_table(files, digest)
    assert found is not None
    assert found.source["split"] == "holdout"
    assert all(min(found.counts(task).values()) >= 10 for task in TASKS)
