"""The command line: subcommands, and what each way of calling it gives."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import faceattr
from faceattr.__main__ import COMMANDS, main

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
    assert f"pip install 'faceattr[{COMMANDS['audit'].extra}]'" in err


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom faceattr.__main__ import main\n"
        "try: main(['--help'])\nfinally: sys.exit(9 if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
