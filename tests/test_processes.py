"""A pipeline in other processes and threads: pickled, forked, spawned, in DataLoader's workers."""

import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from faceattr.detection import load_detector
from faceattr.pipeline import FacePipeline
from faceattr.turns import Turns

pytestmark = [
    # Python warns of forks where there are threads; that such forks work is the point here.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    # A photo handed in as a crop is remarked; here only sameness matters.
    pytest.mark.filterwarnings("ignore::faceattr.errors.CropWarning"),
    pytest.mark.timeout(250),
]

BACKENDS = ["torch", "onnx"]


def scene():
    """An image in which YuNet finds something with the bundled weights' pipeline, or nothing."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((200, 160), Image.Resampling.BICUBIC))


def answers(pipeline, image):
    """Crops' answers, and the faces that are found, as plain values."""
    crops = pipeline.classify_crops([image, image[::-1]])
    return [[face.to_dict() for face in faces] for faces in (crops, pipeline(image))]


def worker(pipeline, image):
    return answers(pipeline, image), os.getpid()


def same(one, other):
    """Equal but for the rounding of another number of threads."""
    assert [len(faces) for faces in one] == [len(faces) for faces in other]
    for first, second in zip(sum(one, []), sum(other, []), strict=True):
        assert first["box"] == pytest.approx(second["box"], abs=0.2)
        for task in ("gender", "age", "race"):
            found = second[task]["probabilities"]
            assert first[task]["probabilities"] == pytest.approx(found, abs=1e-4)


@pytest.fixture(scope="module", params=BACKENDS)
def pipeline(request):
    return FacePipeline.from_pretrained(backend=request.param)


@pytest.fixture(scope="module")
def photo(photos_dir):
    from faceattr.images import decode_image

    return decode_image(photos_dir / "2008_002506.jpg")


@pytest.mark.parametrize("detector", ["yunet", "haar"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pipeline_pickles(backend, detector):
    pipeline = FacePipeline.from_pretrained(backend=backend, detector=detector, threads=1)
    again = pickle.loads(pickle.dumps(pipeline))
    assert repr(again) == repr(pipeline)
    same(answers(again, scene()), answers(pipeline, scene()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_answers(pipeline, photo, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = answers(pipeline, photo)
    assert len(expected[1]) == 3
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found, process = pool.submit(worker, pipeline, photo).result(timeout=200)
    assert process != os.getpid()
    same(found, expected)


class Crops(torch.utils.data.Dataset):
    """Answers computed in the loader's workers."""

    def __init__(self, pipeline, image):
        self.pipeline = pipeline
        self.image = image

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return len(self.pipeline(self.image)), os.getpid()


def test_data_loader_workers_have_a_pipeline_each(pipeline, photo):
    loader = torch.utils.data.DataLoader(
        Crops(pipeline, photo), batch_size=None, num_workers=2, timeout=200
    )
    found = list(loader)
    assert [count for count, _ in found] == [3, 3]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_detects_does_not_wait_for_it(photo):
    detector = load_detector("yunet")
    stop = threading.Event()

    def detect_all_the_time():
        while not stop.is_set():
            detector.detect(photo)

    busy = threading.Thread(target=detect_all_the_time)
    busy.start()
    try:
        time.sleep(0.2)
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            child = context.Process(target=detector.detect, args=(photo,))
            child.start()
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        busy.join()


def test_threads_share_a_pipeline(pipeline, photo):
    expected = answers(pipeline, photo)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: answers(pipeline, photo), range(8)):
            same(found, expected)


def test_threads_limit_what_computes():
    before = torch.get_num_threads()
    import cv2

    opencv = cv2.getNumThreads()
    try:
        pipeline = FacePipeline.from_pretrained(backend="torch", threads=1)
        assert torch.get_num_threads() == cv2.getNumThreads() == 1
        pickled = pickle.dumps(pipeline)
        torch.set_num_threads(2)
        cv2.setNumThreads(2)
        pickle.loads(pickled)
        assert torch.get_num_threads() == cv2.getNumThreads() == 1
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(opencv)


def test_a_tool_is_handed_out_to_one_after_the_other():
    holders = []
    turns = Turns(list, (1, 2))

    def hold(_):
        with turns.taken() as tool:
            holders.append(tool)
            assert len(holders) == 1
            time.sleep(0.01)
            holders.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    with pickle.loads(pickle.dumps(turns)).taken() as tool:
        assert tool == [1, 2]
