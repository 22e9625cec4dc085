"""Exactly the same picture twice in FairFace: within the rows used, and across their parts.

Pictures are compared by the SHA-256 of their encoded bytes, so a re-encoded or resized copy is not
found. `python -m train evaluate --duplicates` takes the result into report.json.
"""

from __future__ import annotations

import argparse
import logging
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from faceattr import __version__
from train.data.source import Part, Rows, Source, add_data_arguments, source_of
from train.evaluate.predict import picture_sha256
from train.tables import write_json

log = logging.getLogger("train")

SCHEMA = 1


def _digests(source: Source, part: Part) -> list[str]:
    return [picture_sha256(row) for row in Rows(source, part)]


def duplicates(source: Source) -> dict[str, Any]:
    """Count repeated pictures, JSON-ready.

    For each part (training rows, holdout, validation): its rows, and how many of them repeat a
    picture that came before in it. For each two parts: how many pictures are in both.
    """
    digests = {part: _digests(source, part) for part in get_args(Part)}
    return {
        "schema": SCHEMA,
        "created_by": {"command": "python -m train duplicates", "faceattr": __version__},
        "splits": {
            "within": {
                part: {"rows": len(found), "repeated": len(found) - len(set(found))}
                for part, found in digests.items()
            },
            "across": [
                {
                    "first": one,
                    "second": other,
                    "pictures": len({*digests[one]} & {*digests[other]}),
                }
                for one, other in combinations(digests, 2)
            ],
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m train duplicates`."""
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="file to write")
    add_data_arguments(parser, device=False)


def run(args: argparse.Namespace) -> None:
    """Carry out `python -m train duplicates`."""
    found = duplicates(source_of(args))
    write_json(args.output, found)
    for part, counts in found["splits"]["within"].items():
        log.info("%s: %d of %d rows repeat a picture", part, counts["repeated"], counts["rows"])
    for pair in found["splits"]["across"]:
        log.info("in %s and in %s: %d pictures", pair["first"], pair["second"], pair["pictures"])
