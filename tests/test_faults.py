"""What breaks during training, and how each fault ends: named, and nothing lost."""

import ast
import errno
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import faults
import pytest
import torch
from faults import FAULTS
from safetensors.torch import load_file

from faceattr.preprocessing import Preprocessing
from scripts.resume_torture import damage
from train.data import order
from train.data import source as samples
from train.data.batches import training_batch
from train.data.source import DataError, Rows, Source
from train.fit import checkpoint as saving
from train.fit.checkpoint import CheckpointError, checkpoints, load_checkpoint, only_run
from train.fit.signals import Stopped, collected_signals
from train.fit.trainer import Settings, Trainer, TrainingError, fit
from train.recipe import Stage, smoke

ROOT = Path(__file__).resolve().parents[1]
RECIPE = replace(smoke(), epochs=1, stages=(Stage(0, 24),))
BATCHES = 14


def settings(output, data, **changes):
    told = Settings(output=output, source=Source(str(data)), checkpoint_every=4)
    return replace(told, **changes)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same(one, other):
    first, second = weights(one), weights(other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert load_checkpoint(one)["history"] == load_checkpoint(other)["history"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_fairface):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(RECIPE, settings(folder, tiny_fairface))
    return folder


@pytest.fixture
def broken_off(tmp_path, tiny_fairface, monkeypatch):
    """A run that ended at its eleventh step, with checkpoints of the fourth and the eighth."""
    folder = tmp_path / "run"
    step = Trainer._step

    def ending(self, *args):
        if self.progress.batch == 10:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_step", ending)
        fit(RECIPE, settings(folder, tiny_fairface))
    assert names(folder) == ["checkpoint-0000-000004.pt", "checkpoint-0000-000008.pt"]
    return folder


def names(folder):
    return [path.name for path in checkpoints(folder)]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_digest(path):
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def test_interrupted_in_mid_step_it_goes_on_from_the_last_checkpoint(
    finished, broken_off, tiny_fairface
):
    fit(RECIPE, settings(broken_off, tiny_fairface, resume=True))
    assert_same(finished, broken_off)


@pytest.mark.parametrize("spoil", [flip_a_bit, flip_a_bit_of_the_digest, cut, empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used_when_asked(
    finished, broken_off, tiny_fairface, spoil
):
    spoil(checkpoints(broken_off)[-1])
    told = settings(broken_off, tiny_fairface, resume=True)
    with pytest.raises(CheckpointError, match=r"000008\.pt is damaged.*--from-previous.*000004"):
        fit(RECIPE, told)
    fit(RECIPE, replace(told, from_previous=True))
    assert_same(finished, broken_off)
    assert (broken_off / "checkpoint-0000-000008.pt.set-aside").exists()


def test_without_a_sound_checkpoint_it_says_so(broken_off, tiny_fairface):
    for path in checkpoints(broken_off):
        flip_a_bit(path)
    told = settings(broken_off, tiny_fairface, resume=True, from_previous=True)
    with pytest.raises(CheckpointError, match=r"no sound checkpoint before .*000008\.pt"):
        fit(RECIPE, told)


def test_a_file_left_by_a_killed_write_is_no_checkpoint(finished, broken_off, tiny_fairface):
    (broken_off / "checkpoint-0000-000012.pt.tmp").write_bytes(b"half")
    fit(RECIPE, settings(broken_off, tiny_fairface, resume=True))
    assert_same(finished, broken_off)


@pytest.mark.parametrize("kept", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked(tmp_path, tiny_fairface, kept):
    fit(RECIPE, settings(tmp_path, tiny_fairface, keep=kept))
    every = [f"checkpoint-0000-{n:06d}.pt" for n in (4, 8, 12)] + ["checkpoint-0001-000000.pt"]
    assert names(tmp_path) == every[-kept:]


@pytest.mark.parametrize(
    ("where", "code", "advice"),
    [
        ("fsync", errno.ENOSPC, "make room, then --resume goes on from checkpoint-0000-000004"),
        ("fsync", errno.EIO, "see to the disk, then --resume"),
        ("replace", errno.EACCES, "see to the disk, then --resume"),
    ],
)
def test_a_failed_write_leaves_the_last_good_checkpoint(
    finished, tmp_path, tiny_fairface, monkeypatch, where, code, advice
):
    def failing(path, *args):
        raise OSError(code, os.strerror(code))

    def second(original):
        def sometimes(path, *args):
            if "000008" in str(path) or (isinstance(path, int) and saved()):
                failing(path)
            return original(path, *args)

        return sometimes

    def saved():
        return (tmp_path / "checkpoint-0000-000004.pt").exists()

    with monkeypatch.context() as patched:
        if where == "fsync":
            patched.setattr(saving.os, "fsync", second(os.fsync))
        else:
            patched.setattr(saving.Path, "replace", second(Path.replace))
        with pytest.raises(CheckpointError, match=advice):
            fit(RECIPE, settings(tmp_path, tiny_fairface))
    assert names(tmp_path) == ["checkpoint-0000-000004.pt"]
    assert not list(tmp_path.glob("*.tmp"))
    fit(RECIPE, settings(tmp_path, tiny_fairface, resume=True))
    assert_same(finished, tmp_path)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, tiny_fairface):
    with (
        only_run(tmp_path),
        pytest.raises(CheckpointError, match="another process is training in"),
    ):
        fit(RECIPE, settings(tmp_path, tiny_fairface))


def test_a_killed_run_locks_nothing(tmp_path):
    code = (
        "import os, sys, pathlib; from train.fit.checkpoint import only_run\n"
        "with only_run(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    with only_run(tmp_path):
        pass


def test_another_revision_of_the_data_is_not_resumed(broken_off, tiny_fairface, monkeypatch):
    describe = Source.describe
    monkeypatch.setattr(
        Source, "describe", lambda self, *a: describe(self, *a) | {"revision": "f" * 40}
    )
    with pytest.raises(CheckpointError, match="another data"):
        fit(RECIPE, settings(broken_off, tiny_fairface, resume=True))


@pytest.fixture
def ctrl_c():
    """SIGINT as a terminal has it; a job in the background may be told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_each_signal_is_collected_once_and_the_same_again_ends_at_once(ctrl_c):
    with collected_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGINT, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_goes_on_exactly(finished, tmp_path, tiny_fairface, monkeypatch):
    step = Trainer._step

    def interrupted(self, *args):
        if self.progress.batch == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Trainer, "_step", interrupted)
        fit(RECIPE, settings(tmp_path, tiny_fairface))
    assert names(tmp_path)[-1] == "checkpoint-0000-000007.pt"
    fit(RECIPE, settings(tmp_path, tiny_fairface, resume=True))
    assert_same(finished, tmp_path)


class Opening:
    """Stands for the library's opening of shards, which fails when told to."""

    def __init__(self, monkeypatch, fails):
        self.count, self.fails = 0, fails
        shard = samples.IterableDataset.shard

        def opened(stream, num_shards, index):
            self.count += 1
            if self.fails(self.count):
                raise OSError(errno.ETIMEDOUT, "timed out")
            return shard(stream, num_shards=num_shards, index=index)

        monkeypatch.setattr(samples.IterableDataset, "shard", opened)
        monkeypatch.setattr(samples, "OPEN_WAIT_S", 0.0)


def test_a_shard_that_opens_at_the_third_try_changes_nothing(tiny_fairface, monkeypatch, caplog):
    rows = Rows(Source(str(tiny_fairface)), "train")
    expected = [row.file for row in rows.in_order()]
    opening = Opening(monkeypatch, lambda count: count in (1, 2, 4))
    with caplog.at_level(logging.WARNING, "train"):
        assert [row.file for row in rows.in_order()] == expected
    assert opening.count == 2 + 3
    assert "shard 1 did not open (TimeoutError); trying again" in caplog.text


def test_a_shard_that_never_opens_ends_the_run_which_then_goes_on(
    finished, tmp_path, tiny_fairface, monkeypatch
):
    # One shard after the other.
    monkeypatch.setattr(order, "LANES", 1)
    small = replace(RECIPE, shuffle_buffer=1)
    fit(small, settings(tmp_path / "whole", tiny_fairface))
    folder = tmp_path / "run"
    trainer = Trainer(small, settings(folder, tiny_fairface))
    with monkeypatch.context() as patched:
        opening = Opening(patched, lambda count: count > 1)
        with pytest.raises(DataError, match=r"shard \d of 2.*after 0 rows: .*timed out.*--resume"):
            trainer.run()
    assert opening.count == 1 + samples.OPEN_ATTEMPTS
    saved = load_checkpoint(folder)["progress"]["batch"]
    assert 0 < saved < BATCHES
    fit(small, settings(folder, tiny_fairface, resume=True))
    assert_same(tmp_path / "whole", folder)


def test_a_shard_that_breaks_off_says_where(tiny_fairface, monkeypatch):
    rows = Rows(Source(str(tiny_fairface)), "train")
    tables = Rows._tables

    def breaking(self, index):
        for table in tables(self, index):
            yield table.slice(0, 10)
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    monkeypatch.setattr(Rows, "_tables", breaking)
    with pytest.raises(DataError, match="shard 1 of 2.*after 10 rows: .*reset by peer"):
        list(rows.in_order())


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_shard_is_named(tmp_path, tiny_fairface):
    copied = damage(tiny_fairface, tmp_path / "data", count=0)
    rows = Rows(Source(str(copied)), "train")
    path = copied / "0.25" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="shard 2 of 2 .* split 'train', cannot be read"):
        list(rows.in_order())


def test_a_shard_that_vanished_is_named(tmp_path, tiny_fairface, monkeypatch):
    copied = damage(tiny_fairface, tmp_path / "data", count=0)
    rows = Rows(Source(str(copied)), "train")
    (copied / "0.25" / "train-00001-of-00002.parquet").unlink()
    monkeypatch.setattr(samples, "OPEN_WAIT_S", 0.0)
    with pytest.raises(DataError, match=r"shard 2 of 2 .* cannot be read after 0 rows: .*see to"):
        list(rows.in_order())


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, tiny_fairface):
    """The data set with three training rows that do not decode."""
    return damage(tiny_fairface, tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("cached", [False, True])
def test_rows_that_do_not_decode_are_named_counted_and_left_out(tmp_path, damaged, cached, caplog):
    with caplog.at_level(logging.WARNING, "train"):
        fit(RECIPE, settings(tmp_path, damaged, cache_memory=cached))
    progress = load_checkpoint(tmp_path)["progress"]
    # 112 of 114 rows are seen in an epoch of whole batches.
    assert set(progress["skipped"]) <= {"8.jpg", "15.jpg", "22.jpg"}
    assert len(progress["skipped"]) >= 1
    for name in progress["skipped"]:
        assert f"row {name!r} holds no readable picture" in caplog.text


def test_more_damaged_rows_than_allowed_end_the_run(tmp_path, damaged):
    with pytest.raises(TrainingError, match=r"rows do not decode, 0 are allowed.*--max-skipped"):
        fit(RECIPE, settings(tmp_path, damaged, max_skipped=0))


def test_a_damaged_row_changes_no_other_rows_picture(tiny_fairface):
    rows = list(Rows(Source(str(tiny_fairface)), "train").in_order())[:8]
    some = replace(RECIPE.augmentation, degrade=0.5)

    def batch(given, part=None):
        seeded = torch.Generator().manual_seed(3)
        size = Preprocessing(image_size=32)
        return training_batch(given, size, some, 32, seeded, torch.device("cpu"), part)

    whole = batch(rows)
    spoilt = [row._replace(image=b"?") if place == 2 else row for place, row in enumerate(rows)]
    rest = batch(spoilt)
    assert rest.skipped == (rows[2].file,)
    assert rest.places.tolist() == [0, 1, 3, 4, 5, 6, 7]
    torch.testing.assert_close(rest.images, whole.images[rest.places], rtol=0, atol=1e-5)
    part = batch(rows, range(5, 8))
    torch.testing.assert_close(part.images, whole.images[5:], rtol=0, atol=1e-5)
    assert part.targets.tolist() == whole.targets[5:].tolist()
    with pytest.raises(DataError, match="no row of a batch decodes"):
        batch(spoilt, range(2, 3))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_anywhere_and_resumed_equals_uninterrupted(tmp_path):
    """A few of the 200 kills that `scripts.resume_torture` does by default."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "scripts.resume_torture", "--kills", "5", "--seed", "5"]
    sets = ["mixing, weights, equal average", "damaged rows in memory", "two processes"]
    done = subprocess.run(
        [*command, "--output", str(report), "--only", *sets],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["kills"] >= 5
    assert found["equal"] == found["runs"]
    assert found["differing"] == []


def test_every_fault_listed_is_injected_by_a_test():
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 20
    for fault in FAULTS:
        module, _, name = fault.test.partition("::")
        source = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
        nodes = ast.parse(source).body
        assert any(isinstance(n, ast.FunctionDef) and n.name == name for n in nodes), fault


def test_the_page_holds_the_list():
    page = faults.PAGE.read_text(encoding="utf-8")
    assert page.count(faults.BEGIN) == page.count(faults.END) == 1
    assert faults.with_section(page) == page, "run python -m tests.faults"
