"""PyTorch folded, ONNX Runtime, and the plain network give the same answers."""

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from synthetic import TINY_FACEATTRNET

from faceattr.__main__ import main
from faceattr.backends import export as exporting
from faceattr.backends.onnx import OnnxClassifier
from faceattr.backends.torch import TorchClassifier, fold_batch_norms
from faceattr.config import ONNX_NAME, ModelConfig
from faceattr.detection import HaarDetector
from faceattr.errors import ArgumentError, DetectorError, WeightsError
from faceattr.hub import BUNDLED_NAMES, find_weights
from faceattr.labels import TASKS
from faceattr.model import (
    FaceAttrNet,
    FaceAttrNetLarge,
    LightweightMTLNet224,
    build_model,
    load_model,
)
from faceattr.pipeline import FacePipeline
from faceattr.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[1]
SMALL = Preprocessing(image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
REVERSED = {task.name: tuple(reversed(task.classes)) for task in TASKS}
TINY = {
    "classes": REVERSED,
    "preprocessing": SMALL,
    "temperatures": {"gender": 0.5, "age": 2.0, "race": 3.0},
    "thresholds": {"gender": 0.9, "age": 0.3, "race": 0.4},
}
CONFIGS = [
    ModelConfig("LightweightMTLNet224", {"widths": (4, 4, 4, 8, 8, 8, 8), "hidden": 8}, **TINY),
    ModelConfig("FaceAttrNet", TINY_FACEATTRNET, **TINY),
]


def shaken(model):
    """The network with batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                torch.nn.init.normal_(values, 0.5, 0.2, generator=generator)
            torch.nn.init.uniform_(module.running_var, 0.2, 2.0, generator=generator)
    return model.eval()


def chips(count, side, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def plain(model, pixels):
    with torch.inference_mode():
        found = model.probabilities(model.config.preprocessing.to_tensor(pixels))
    return {name: values.numpy() for name, values in found.items()}


def assert_same(found, expected, atol=1e-5):
    assert list(found) == list(expected) == [task.name for task in TASKS]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=atol)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.architecture)
def exported(request, tmp_path_factory):
    """A folder with tiny weights in another order of classes, and their `model.onnx`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    shaken(build_model(request.param)).save_pretrained(folder)
    exporting.export(folder)
    return folder


@pytest.mark.parametrize("kind", [FaceAttrNet, LightweightMTLNet224, FaceAttrNetLarge])
def test_folding_changes_rounding_only_and_leaves_the_network_alone(kind):
    torch.manual_seed(0)
    model = shaken(kind())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norms(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        for name, logits in model(images).items():
            torch.testing.assert_close(folded(images)[name], logits, rtol=1e-4, atol=1e-4)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_batch_norm_without_a_convolution_is_not_passed_over():
    model = LightweightMTLNet224(CONFIGS[0])
    model.conv1.bn = torch.nn.Sequential(torch.nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match=r"conv1\.bn\.0.*do not follow a convolution"):
        fold_batch_norms(model)


@pytest.mark.parametrize("count", [1, 8, 19])
def test_all_ways_agree_on_any_number_of_faces(exported, count):
    model = load_model(exported)
    pixels = chips(count, 32)
    expected = plain(model, pixels)
    assert_same(TorchClassifier(model).probabilities(pixels), expected)
    found = OnnxClassifier(find_weights(exported, file=ONNX_NAME)).probabilities(pixels)
    assert_same(found, expected)


def test_answers_follow_changes_of_the_network(exported):
    model, pixels = load_model(exported), chips(1, 32)
    classifier = TorchClassifier(model)
    first = classifier._current()
    classifier.probabilities(pixels)
    assert classifier._current() is first
    mean = next(tensor for name, tensor in model.named_buffers() if "running_mean" in name)
    for tensor in (model.heads["age"].bias, mean):
        with torch.no_grad():
            tensor[0] += 3
        assert_same(classifier.probabilities(pixels), plain(model, pixels))
    model.heads["age"] = torch.nn.Linear(8, 9)
    assert_same(classifier.probabilities(pixels), plain(model, pixels))


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_the_bundled_onnx_file_is_of_the_bundled_weights(name):
    """Written by `faceattr export`."""
    classifier = OnnxClassifier(find_weights(name, file=ONNX_NAME))
    pixels = chips(9, classifier.config.preprocessing.image_size)
    # The network's folded constants are rounded, too, where its weights are stored in float16.
    halves = any(v.dtype == torch.float16 for v in load_file(find_weights(name).weights).values())
    atol = 5e-4 if halves else 1e-5
    assert_same(classifier.probabilities(pixels), plain(load_model(name), pixels), atol)


def test_the_file_says_what_it_is(exported):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported / ONNX_NAME)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["classes"]) == {task.name: list(task.classes) for task in TASKS}
    assert json.loads(facts["thresholds"]) == TINY["thresholds"]
    assert facts["image_size"] == "32"
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    assert facts["weights_sha256"] == digest
    assert str(ROOT).encode() not in (exported / ONNX_NAME).read_bytes()
    assert [output.name for output in graph.graph.output] == [task.name for task in TASKS]


def test_a_stale_file_is_refused(exported, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text())
    config["temperatures"]["age"] = 1.5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"another config\.json.*`faceattr export`"):
        FacePipeline.from_pretrained(folder, detector="haar", backend="onnx")
    shutil.copy(exported / "config.json", folder)
    torch.manual_seed(5)
    build_model(load_model(folder).config).save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"another model\.safetensors"):
        FacePipeline.from_pretrained(folder, detector="haar", backend="onnx")


def test_a_damaged_or_missing_file_is_named(exported, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(exported, folder)
    (folder / ONNX_NAME).write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"model\.onnx is damaged"):
        FacePipeline.from_pretrained(folder, detector="haar", backend="onnx")
    (folder / ONNX_NAME).unlink()
    with pytest.raises(WeightsError, match=r"model\.onnx is missing.*faceattr export"):
        FacePipeline.from_pretrained(folder, detector="haar", backend="onnx")
    automatic = FacePipeline.from_pretrained(folder, detector="haar", backend="auto")
    assert automatic.info.backend == "torch"


def test_both_backends_label_a_chip_alike(exported):
    (chip,) = chips(1, 60, seed=3)
    answers = []
    for backend in ("torch", "onnx"):
        pipeline = FacePipeline.from_pretrained(exported, detector="haar", backend=backend)
        assert pipeline.info.backend == backend
        answers.append(pipeline.classify_crops([chip])[0])
    for one, other in zip(answers[0].attributes, answers[1].attributes, strict=True):
        assert (one.label, one.unsure) == (other.label, other.unsure)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_no_faces_need_no_network(exported):
    pipeline = FacePipeline(load_model(exported), HaarDetector())
    assert pipeline.classify_crops([]) == []


def test_onnx_has_no_pytorch_network_and_no_other_device(exported):
    pipeline = FacePipeline.from_pretrained(exported, detector="haar", backend="onnx")
    with pytest.raises(WeightsError, match="use backend='torch'"):
        _ = pipeline.model
    with pytest.raises(WeightsError, match="device 'cuda' was given"):
        FacePipeline.from_pretrained(exported, detector="haar", device="cuda", backend="onnx")
    for device in ("cpu", "cpu:0"):
        on_cpu = FacePipeline.from_pretrained(exported, detector="haar", device=device)
        assert on_cpu.info.backend == "onnx"
    with pytest.raises(ArgumentError, match="device='cpu': has no effect on what already answers"):
        FacePipeline(pipeline.classifier, pipeline.detector, device="cpu")
    with pytest.raises(DetectorError, match="'yunet' for a thorough search, came 'haar'"):
        FacePipeline.from_pretrained(exported, detector="haar", detect="thorough")
    with pytest.raises(WeightsError, match="came 'tensorflow'"):
        FacePipeline.from_pretrained(exported, detector="haar", backend="tensorflow")


@pytest.mark.parametrize(
    ("missing", "changes", "message"),
    [
        ("onnxruntime", {"backend": "onnx"}, "pip install onnxruntime"),
        ("torch", {"backend": "torch"}, r"backend 'torch' was asked for.*\.\[torch\]"),
        ("torch", {"device": "cuda"}, r"device 'cuda' was given.*\.\[torch\]"),
        ("torch", {}, r"no model.onnx was found \(.*'bare'.*\.\[torch\]"),
    ],
)
def test_the_message_says_how_to_get_what_is_not_installed(
    exported_weights, tmp_path, missing, changes, message
):
    """In a process of its own: PyTorch cannot be imported a second time."""
    folder = tmp_path / "bare"
    shutil.copytree(exported_weights, folder)
    if not changes:
        (folder / ONNX_NAME).unlink()
    code = f"""
import sys
sys.modules[{missing!r}] = None
from faceattr.pipeline import FacePipeline
FacePipeline.from_pretrained({str(folder)!r}, detector="haar", **{changes!r})
"""
    done = run_python(code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(rf"faceattr\.errors\.WeightsError: .*{message}", last)


def run_python(code, *words):
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_pickled_classifier_needs_its_files_no_longer(exported_weights, tmp_path, backend):
    folder = shutil.copytree(exported_weights, tmp_path / "tiny")
    pipeline = FacePipeline.from_pretrained(folder, detector="haar", backend=backend, threads=1)
    pixels = chips(3, 32)
    expected = pipeline.classifier.probabilities(pixels)
    content = pickle.dumps(pipeline.classifier)
    shutil.rmtree(folder)
    copy = pickle.loads(content)
    assert_same(copy.probabilities(pixels), expected, atol=0)
    assert copy.threads == 1


FORKING = """
import os, pickle, sys
import numpy as np
from faceattr.pipeline import FacePipeline
folder, backend = sys.argv[1:]
pipeline = FacePipeline.from_pretrained(folder, detector="haar", backend=backend, threads=2)
pixels = np.arange(19 * 32 * 32 * 3, dtype=np.uint8).reshape(19, 32, 32, 3)
before = pipeline.classifier.probabilities(pixels)
child = os.fork()
if child == 0:
    for classifier in (pipeline.classifier, pickle.loads(pickle.dumps(pipeline.classifier))):
        after = classifier.probabilities(pixels)
        assert all(np.allclose(before[name], after[name], rtol=0, atol=1e-5) for name in before)
    sys.exit(7)  # and not os._exit: what the parent made is destroyed as in any other process
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_forked_child_answers_alike_and_ends(exported_weights, backend):
    done = run_python(FORKING, str(exported_weights), backend)
    assert done.returncode == 0, done.stderr


def test_threads_is_how_many_compute():
    """Counted in a process of its own: the number holds for the whole process."""
    code = """
import sys, threading, os
from faceattr.pipeline import FacePipeline
before = len(os.listdir("/proc/self/task"))
pipeline = FacePipeline.from_pretrained(detector="haar", threads=int(sys.argv[1]))
print(len(os.listdir("/proc/self/task")) - before)
"""
    if sys.platform != "linux":
        pytest.skip("/proc counts the threads")
    started = [int(run_python(code, str(count)).stdout) for count in (1, 4)]
    assert started[1] - started[0] == 3


COMMAND = """
import sys
from faceattr.__main__ import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
peak = int(line.split()[1]) / 1024
assert peak < 300, f"{peak:.0f} MiB"
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status tells the peak")
def test_the_command_line_with_onnx_never_imports_pytorch(tmp_path):
    import cv2

    photo = tmp_path / "chip.png"
    cv2.imwrite(str(photo), chips(1, 224)[0])
    command = [sys.executable, "-c", COMMAND, "--detector", "none", "--backend", "onnx"]
    done = subprocess.run(
        [*command, "--json", str(photo)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (face,) = json.loads(done.stdout)["faces"]
    torch_answer = FacePipeline.from_pretrained(detector="haar").classify_crops([photo])[0]
    assert face["age"]["probability"] == pytest.approx(torch_answer.age.probability, abs=2e-5)


@pytest.mark.parametrize(
    "module", ["faceattr", "faceattr.labels", "faceattr.pipeline", "faceattr.__main__"]
)
def test_importing_does_not_import_pytorch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_exporter_names_what_is_missing(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err
