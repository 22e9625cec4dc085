"""The command line: `python -m train COMMAND --help`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from faceattr.errors import FaceAttrError
from train.fit.signals import Stopped

COMMANDS = {
    "fit": ("train.fit.command", "train a network by a recipe"),
    "answers": ("train.answers", "teachers -> stored answers that students learn from"),
    "views": ("train.data.drawn", "draw the views of runs ahead, for a fast device"),
    "published": ("train.published", "every run behind the published weights, in one resumable go"),
    "search": ("research.search", "look for good settings with Optuna, resumable"),
    "calibrate": ("train.evaluate.calibrate", "fit temperatures and thresholds of weights again"),
    "predict": ("train.evaluate.predict", "weights -> one row of probabilities per face"),
    "robustness": ("train.evaluate.robustness", "accuracy on images made worse in steps"),
    "duplicates": ("train.evaluate.duplicates", "the same image twice, within and across splits"),
    "evaluate": ("train.evaluate.report", "predictions -> report.json"),
    "audit-table": ("train.evaluate.audit_table", "predictions of the holdout -> audit.json"),
    "imbalance": ("train.report.imbalance", "how unevenly labels are spread"),
    "card": ("train.report.card", "report.json -> model card"),
    "results": ("train.report.results", "reports -> comparison table in a Markdown file"),
    "figures": ("train.report.pages", "report.json and labels -> figures and docs/results.md"),
    "mitigation": ("train.report.mitigation", "reports of fairer weights -> docs/fairness.md"),
    "publish": ("train.publish", "weights folder -> Hub repository"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 bad arguments, 3 stopped."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    chosen = parser.parse_known_args(arguments[:1])[0].command
    module = importlib.import_module(COMMANDS[chosen][0])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    command = argparse.ArgumentParser(
        prog=f"python -m train {chosen}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    args = command.parse_args(arguments[1:])
    try:
        return int(module.run(args) or 0)
    except Stopped:
        logging.getLogger("train").info("stopped; the same command goes on (fit: with --resume)")
        return 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except (FaceAttrError, RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
