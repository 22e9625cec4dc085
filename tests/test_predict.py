import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from faceattr import labels
from faceattr.detection import HaarDetector
from faceattr.model import LightweightMTLNet224, ModelConfig
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing
from train.data.source import Rows, Source
from train.evaluate.predict import predict


@pytest.fixture
def weights(tmp_path):
    """Weights whose heads have their classes in another order, and temperatures of their own."""
    torch.manual_seed(0)
    config = ModelConfig(
        sizes={"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8},
        classes={task.name: tuple(reversed(task.classes)) for task in labels.TASKS},
        preprocessing=Preprocessing(image_size=32),
        temperatures={"gender": 0.5, "age": 2.0, "race": 3.0},
    )
    LightweightMTLNet224(config).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def test_the_table_says_what_the_pipeline_says(tmp_path, weights, tiny_fairface):
    source = Source(str(tiny_fairface))
    output = tmp_path / "table.parquet"
    assert predict(str(weights), source, "validation", output, torch.device("cpu")) == 30
    table = pq.read_table(output)
    rows = list(Rows(source, "validation"))
    model = LightweightMTLNet224.from_pretrained(weights)
    faces = FacePipeline(model, HaarDetector()).classify_crops([row.image for row in rows])
    assert table["row"].to_pylist() == list(range(30))
    assert table["file"].to_pylist() == [row.file for row in rows]
    digests = [hashlib.sha256(row.image).hexdigest() for row in rows]
    assert table["sha256"].to_pylist() == digests
    for position, task in enumerate(labels.TASKS):
        true = [task.classes[row.targets[position]] for row in rows]
        assert table[f"{task.name}_true"].to_pylist() == true
        for name in task.classes:
            expected = [getattr(face, task.name).probabilities[name] for face in faces]
            found = table[f"{task.name}:{name}"].to_numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_table_says_where_it_comes_from(tmp_path, weights, tiny_fairface):
    output = tmp_path / "table.parquet"
    predict(str(weights), Source(str(tiny_fairface)), "holdout", output, torch.device("cpu"))
    facts = json.loads(pq.read_table(output).schema.metadata[b"faceattr"])
    assert facts["model"] == "weights"
    assert facts["config"]["temperatures"]["race"] == 3.0
    assert facts["dataset"]["split"] == "holdout"
    assert facts["dataset"]["rows"] == 6
