"""The command line: subcommands, and what each way of calling it gives."""

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import faceattr
from faceattr.__main__ import COMMANDS, main
from faceattr.results import ROW

ROOT = Path(__file__).resolve().parents[1]


def test_help_names_the_program_and_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: faceattr ")
    assert all(name in out for name in ("predict", "audit", "export"))


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"faceattr {faceattr.__version__}\n"


def test_without_arguments_the_help_is_an_error(capsys):
    assert main([]) == 2
    assert "usage: faceattr" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["predict", "gone.png"], ["gone.png"]])
def test_predict_may_be_left_out(words, capsys):
    assert main(["--detector", "none", *words[-1:]] if len(words) == 1 else words) == 1
    assert "gone.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["predict", "export"])
def test_a_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: faceattr {name} ")


def test_a_command_gets_its_arguments_and_its_status_is_the_programs(monkeypatch):
    seen = []
    module = ModuleType("faceattr.audit.command")
    module.add_arguments = lambda parser: parser.add_argument("--rows", type=int)
    module.run = lambda args: seen.append(args.rows) or 7
    monkeypatch.setitem(sys.modules, "faceattr.audit.command", module)
    assert main(["audit", "--rows", "3"]) == 7
    assert seen == [3]


def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SystemExit) as stopped:
        main(["audit"])
    assert stopped.value.code == 2
    assert "'pyarrow'" in (err := capsys.readouterr().err)
    assert f"pip install '.[{COMMANDS['audit'].extra}]'" in err


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom faceattr.__main__ import main\n"
        "try: main(['--help'])\nfinally: sys.exit(9 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_needs_none_of_its_extra(command):
    extra = ("torch", "torchvision", "pyarrow", "ray", "datasets", "fsspec", "onnx", "onnxscript")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({extra}))\n"
        f"from faceattr.__main__ import main\nmain([{command!r}, '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: faceattr {command}" in done.stdout


@pytest.mark.parametrize("words", [["export"], ["audit", "photos", "--output", "audit"]])
def test_a_package_that_is_missing_when_a_command_runs_names_its_extra(words, monkeypatch, capsys):
    missing = {"export": "torch", "audit": "pyarrow"}[words[0]]
    for name in [n for n in sys.modules if n.startswith(("faceattr.audit.", "faceattr.backends."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"pip install '.[{words[0]}]'" in capsys.readouterr().err


@pytest.fixture
def chips(tmp_path):
    """A folder of chips, one damaged, one hidden, one in a folder below, and a text."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "chips"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "below/c.PNG", ".hidden.png"):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(folder / name, "PNG")
    (folder / "a.jpg").write_bytes(b"this is no image")
    (folder / "notes.txt").write_text("notes")
    return folder


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_stands_for_all_images_below_it(chips, capsys):
    assert main(["--crops", "--json", str(chips)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [str(chips / name) for name in ("a.jpg", "b.png", "below/c.PNG")]
    assert [line["image"] for line in lines] == names
    assert "is not an image" in lines[0]["error"]
    assert [len(line.get("faces", [])) for line in lines] == [0, 1, 1]


def test_a_folder_without_images_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("notes")
    assert main(["--crops", str(tmp_path)]) == 2
    assert "holds no image; expected files ending in" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_not_passed_over(chips, capsys, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    (chips / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", refusing)
    assert main([str(chips)]) == 2
    assert "locked' cannot be read: Permission denied; make it" in capsys.readouterr().err


def test_a_table_has_one_row_a_face_and_one_for_each_image_without(chips, capsys):
    assert main(["--crops", "--csv", str(chips)]) == 1
    rows = table(capsys.readouterr().out)
    assert list(rows[0]) == ["image", "face", *ROW, "error"]
    assert [row["face"] for row in rows] == ["", "1", "1"]
    assert "is not an image" in rows[0]["error"]
    assert rows[1]["gender"] in ("Male", "Female")
    assert 0 < float(rows[1]["age_range_probability"]) <= 1
    Image.new("RGB", (50, 50)).save(chips / "b.png")
    assert main(["--csv", "--detector", "yunet", str(chips / "b.png")]) == 0
    (empty,) = table(capsys.readouterr().out)
    assert (empty["face"], empty["error"]) == ("", "")


def test_the_smallest_and_surplus_faces_are_left_out(photos_dir, capsys):
    photo = str(photos_dir / "2008_004176.jpg")

    def widths(*options):
        assert main(["--csv", *options, photo]) == 0
        rows = table(capsys.readouterr().out)
        return [float(row["width"]) for row in rows if row["face"]]

    every = widths()
    assert len(every) == 7
    assert widths("--max-faces", "2") == every[:2]
    middle = sorted(every)[3]
    assert widths("--min-face", str(middle - 0.1)) == [w for w in every if w >= middle]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-faces", "0", "expected a whole number from 1 on, came 0"),
        ("--max-faces", "two", "expected a whole number from 1 on, came 'two'"),
        ("--min-face", "nan", "expected a number of pixels from 24 on, came nan"),
        ("--min-face", "wide", "expected a number of pixels from 24 on, came 'wide'"),
        ("--min-face", "23", "expected a number of pixels from 24 on, came 23.0"),
        ("--threads", "0", "expected a whole number from 1 to 1024, came 0"),
        ("--max-pixels", "0", "expected a whole number from 1 on, came 0"),
    ],
)
def test_options_are_refused_with_the_librarys_words(option, value, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([f"{option}={value}", "photo.jpg"])
    assert stopped.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err


def test_an_own_limit_on_pixels(chips, capsys):
    assert main(["--crops", "--max-pixels", "4095", str(chips / "b.png")]) == 1
    assert "at most 4,095 pixels an image, came 64 x 64" in capsys.readouterr().err
    assert main(["--crops", "--max-pixels", "4096", str(chips / "b.png")]) == 0


def test_a_missing_file_shows_the_folder_that_was_looked_in(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--crops", "gone.jpg", "sub/gone.jpg"]) == 1
    err = capsys.readouterr().err
    assert f"gone.jpg: there is no file 'gone.jpg' in the folder '{tmp_path}'; check" in err
    assert f"in the folder '{tmp_path / 'sub'}', which is not there either" in err


def test_crops_are_written_as_the_network_sees_them(photos_dir, tmp_path):
    folder = tmp_path / "crops"
    photo = str(photos_dir / "2008_004176.jpg")
    assert main(["--save-crops", str(folder), "--max-faces", "2", photo]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["001-2008_004176-001.png", "001-2008_004176-002.png"]
    with Image.open(folder / names[0]) as crop:
        assert crop.size == (224, 224)


def test_a_very_long_name_keeps_its_answer_and_its_images(chips, tmp_path, capsys):
    long = chips / ("ä" * 120 + ".png")
    (chips / "b.png").rename(long)
    boxes = tmp_path / "boxes"
    options = ["--crops", "--save-annotated", str(boxes), "--save-crops", str(boxes)]
    assert main([*options, str(long)]) == 0
    assert "1 face" in capsys.readouterr().out
    assert len(list(boxes.iterdir())) == 2


@pytest.mark.parametrize("option", ["--save-annotated", "--save-crops"])
def test_a_folder_that_cannot_be_is_refused_before_any_image_is_read(chips, option, capsys):
    for folder, reason in (("notes.txt", "is a file"), ("notes.txt/below", "cannot be made")):
        assert main(["--crops", option, str(chips / folder), str(chips / "b.png")]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"error: {option}: expected a folder to write to, came " in err
        assert f"{folder}', which {reason}" in err


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        (["--align"], "--align: expected with --crops"),
        (["--detector", "yunet", "--align"], "--align: expected with --crops"),
        (["--crops", "--detect", "thorough"], "--detect thorough: has no effect with --crops"),
        (["--detector", "none", "--min-face", "99"], "--min-face: has no effect with --crops"),
        (["--crops", "--max-faces", "2"], "--max-faces: has no effect with --crops"),
        (["--detector", "haar", "--detect", "thorough"], "--detect thorough: YuNet only"),
        (["-", "-"], "'-': standard input can be read once only"),
        (["--crops", "--detector", "haar"], "--detector haar: has no effect with --crops"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(chips, options, idle, capsys):
    assert main([*options, str(chips / "b.png")]) == 2
    assert f"error: {idle}" in capsys.readouterr().err


def test_what_cannot_be_written_costs_no_answer(chips, tmp_path, capsys):
    boxes = tmp_path / "boxes"
    (boxes / "001-b.png").mkdir(parents=True)
    options = ["--crops", "--save-annotated", str(boxes)]
    assert main([*options, str(chips / "b.png"), str(chips / "below" / "c.PNG")]) == 1
    out, err = capsys.readouterr()
    assert out.count("1 face") == 2
    assert "b.png: cannot write" in err


def program(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "faceattr", "--backend", "onnx", "--crops", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        timeout=200,
        check=False,
        **options,
    )


def test_an_image_comes_from_standard_input(chips):
    done = program("--csv", "-", input=(chips / "b.png").read_bytes())
    assert done.returncode == 0, done.stderr
    (row,) = table(done.stdout.decode())
    assert (row["image"], row["face"]) == ("-", "1")


def test_an_empty_standard_input_is_told_in_words_for_a_command_line():
    done = program("-", stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert b"expected an image, came 0 bytes; check what writes to it" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX shell")
def test_closed_streams_are_no_fault_of_the_program(chips):
    words = f"{sys.executable} -m faceattr --json --crops"
    image, kept = chips / "b.png", chips / "kept"
    shell = f"{words} - <&- || {words} {image} --save-crops {kept} >&-"
    done = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"].startswith("standard input is closed")
    assert list(kept.iterdir())


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_name_that_the_output_cannot_hold_ends_nothing(chips, form):
    name = "Ünïcödé 😀.png"
    (chips / "b.png").rename(chips / name)
    odd = os.fsencode(chips) + b"/\xff\xfe.png"
    with open(odd, "wb") as stream:
        stream.write((chips / name).read_bytes())
    done = program(*form, chips, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    lines = done.stdout.decode("ascii").splitlines()
    if form == ["--json"]:
        names = [os.path.basename(json.loads(line)["image"]) for line in lines]
        assert sorted(names) == sorted(["a.jpg", name, "\udcff\udcfe.png", "c.PNG"])
    elif form == ["--csv"]:
        assert len(table("\n".join(lines))) == 4
    else:
        assert sum("1 face" in line for line in lines) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX pipe")
def test_a_closed_pipe_ends_the_run_without_a_word(chips):
    names = [str(chips / "b.png")] * 50
    command = [sys.executable, "-m", "faceattr", "--backend", "onnx", "--crops", *names]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert all(line.startswith(b"note: ") for line in err.splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told_in_a_line(chips):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "faceattr", "--json", "--crops", chips / "b.png"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=200,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot write: ")
    assert b"Traceback" not in done.stderr


def test_images_may_follow_options(chips, capsys):
    image = str(chips / "b.png")
    assert main([image, "--json", image, "--crops"]) == 0
    assert capsys.readouterr().out.count(image) == 2


def test_names_that_look_like_options_follow_two_dashes(chips, capsys, monkeypatch):
    monkeypatch.chdir(chips)
    Path("b.png").rename("-b.png")
    assert main(["--", "-b.png"]) == main(["--crops", "--", "-b.png"]) == 0
    assert capsys.readouterr().out.count("./-b.png") == 2


def test_a_name_that_no_file_can_have_costs_the_others_nothing(chips, capsys):
    assert main(["a" * 300 + ".jpg", str(chips / "b.png"), "--crops"]) == 1
    said = capsys.readouterr()
    assert "b.png" in said.out
    assert "aaa.jpg" in said.err


def test_a_terminal_sees_a_bar_and_a_file_does_not(chips, monkeypatch, capsys):
    files = [str(chips / "b.png"), str(chips / "below" / "c.PNG")]
    assert main(["--crops", *files]) == 0
    assert "2/2" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["--crops", *files]) == 0
    out, err = capsys.readouterr()
    assert "2/2" in err
    assert out.count("1 face") == 2
