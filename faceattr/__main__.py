"""The command line: `faceattr predict | audit | export`; `faceattr PHOTO...` predicts."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from faceattr import __version__
from faceattr.errors import how_to_install


@dataclass(frozen=True)
class _Command:
    """Where a subcommand lies.

    Attributes:
        module: has `add_arguments(parser)` and `run(args)`, which returns the exit status.
        summary: one line for the help.
        extra: what `pip install` needs for it beside the package, or None.
    """

    module: str
    summary: str
    extra: str | None = None


COMMANDS = {
    "predict": _Command("faceattr.command", "find faces in images and classify each"),
    "audit": _Command(
        "faceattr.audit.command", "describe the make-up of an image collection", "audit"
    ),
    "export": _Command(
        "faceattr.backends.command", "write model.onnx beside a folder's weights", "export"
    ),
}


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listed = "\n".join(f"  {name:<{width}}{c.summary}" for name, c in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="faceattr",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="faceattr [predict] IMAGE... | faceattr COMMAND --help",
        description="Perceived gender, age group and race of faces, with calibrated confidence.",
        epilog=f"commands:\n{listed}\n\nWithout a command's name: predict.",
    )
    parser.add_argument("--version", action="version", version=f"faceattr {__version__}")
    return parser


@contextmanager
def _naming_the_extra(command: _Command) -> Iterator[None]:
    """Say what to install where a package of the command's extra is missing.

    Raises:
        ModuleNotFoundError: for a module of this package.
        SystemExit: with 2.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if command.extra is None or missing in ("", "faceattr"):
            raise
        sys.stderr.write(
            f"error: this command needs the package {missing!r}, which is not installed; "
            f"run {how_to_install(command.extra)}\n"
        )
        raise SystemExit(2) from None


def _prepare_output() -> None:
    """Let no letter end the run: what an output cannot hold is written as an escape.

    An output that was closed before the start loses what is written to it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _without_end(words: list[str]) -> list[str]:
    """Words without the "--" that ends the options, which argparse loses in mixed arguments."""
    end = words.index("--") if "--" in words else len(words)
    names = words[end + 1 :]
    return words[:end] + [f"./{n}" if n.startswith("-") and n != "-" else n for n in names]


def _run(words: list[str]) -> int:
    name = words.pop(0) if words[0] in COMMANDS else "predict"
    parser = argparse.ArgumentParser(prog=f"faceattr {name}")
    with _naming_the_extra(COMMANDS[name]):
        module = importlib.import_module(COMMANDS[name].module)
        module.add_arguments(parser)
        status: int = module.run(parser.parse_intermixed_args(_without_end(words)))
    sys.stdout.flush()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status of the subcommand; 130 when interrupted, 141 when whoever read its output
        had enough.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _prepare_output()
    if not words:
        _parser().print_help(sys.stderr)
        return 2
    if words[0] in ("-h", "--help", "--version"):
        _parser().parse_args(words)
    try:
        return _run(words)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        _close_output()
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _close_output()
        sys.stderr.write(f"error: cannot write: {error.strerror}; make room and run it again\n")
        return 2


def _close_output() -> None:
    """Python would complain at its end when it flushes what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
