"""Made-up answers of a classifier that errs in a known way."""

import numpy as np

from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.collected import FLAGS, Collected
from faceattr.labels import TASKS

FACTS = {
    "source": "made up <b>",
    "kind": "folder",
    "revision": None,
    "notes": ["A note & more."],
    "weights": {"model": "none", "revision": None, "sha256": "ab" * 32, "file": "model.onnx"},
    "detector": "none",
    "backend": "onnx",
    "mirror": False,
    "crops": True,
    "columns": [],
    "faceattr": "0",
}


def answers_for(rng, true):
    """Probabilities `(N, classes)` by task that lean to the true class, calibrated roughly."""
    found = {}
    for task in TASKS:
        classes = len(task.classes)
        logits = rng.normal(0, 1, (len(true[task.name]), classes))
        logits[np.arange(len(logits)), true[task.name]] += 1.5
        shares = np.exp(logits * 1.2)
        found[task.name] = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return found


def classes_for(rng, faces, skew=None):
    """Class numbers by task; uniform, or the first class `skew` of all."""
    found = {}
    for task in TASKS:
        shares = np.full(len(task.classes), 1 / len(task.classes))
        if skew is not None:
            shares[:] = (1 - skew) / (len(shares) - 1)
            shares[0] = skew
        found[task.name] = rng.choice(len(shares), faces, p=shares)
    return found


def calibration(rng, rows=1_500):
    true = classes_for(rng, rows)
    return CalibrationTable("ab" * 32, {"id": "made up"}, true, answers_for(rng, true))


def collected(rng, faces=600, skew=0.6, groups=(), failed=None):
    """One face an image, then images without a face and failed ones."""
    true = classes_for(rng, faces, skew)
    failed = failed or {"undecodable": 2}
    without = 3
    images = faces + without + sum(failed.values())
    faces_of = np.concatenate([np.ones(faces), np.zeros(without), -np.ones(sum(failed.values()))])
    found = Collected(
        images=images,
        failed=failed,
        messages={kind: ("a<script>.jpg", "damaged & cut") for kind in failed},
        faces_of=faces_of.astype(np.int64),
        image=np.arange(faces),
        probabilities=answers_for(rng, true),
        unsure={task.name: rng.random(faces) < 0.1 for task in TASKS},
        flags={name: rng.random(faces) < 0.05 for name in FLAGS},
        groups=tuple(groups),
        group=np.arange(images) % max(len(groups), 1),
    )
    return found, true
