"""`faceattr audit SOURCE --output FOLDER`: options, and what is printed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from faceattr.detection import MIN_FACE
from faceattr.errors import FaceAttrError

DESCRIPTION = """Describe the make-up of an image collection: shares of perceived gender, age group
and race, counted and corrected for the classifier's errors, with intervals. Killed or stopped, the
same command goes on where it was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="folder, glob, list of paths (.txt, or - for standard input), .csv, .parquet, .tar "
        "(WebDataset), data set on the Hub or in its layout, address of fsspec (s3://, gs://, "
        "hf://), or an earlier faces.parquet",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="tables and report go here"
    )
    _add_source(parser.add_argument_group("source"))
    _add_engine(parser.add_argument_group("engine"))
    _add_statistics(parser.add_argument_group("statistics"))
    _add_labels(parser.add_argument_group("labels by hand"))


def _add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--image-column", metavar="NAME", help="column with paths, URLs or bytes")
    group.add_argument("--split", help="split of a data set")
    group.add_argument("--config", help="configuration of a data set that has several")
    group.add_argument("--data-revision", metavar="COMMIT", help="of a data set on the Hub")
    group.add_argument("--root", help="what stands before relative paths of a list or table")
    group.add_argument(
        "--http", action="store_true", help="fetch web addresses, of public hosts only"
    )
    group.add_argument("--crops", action="store_true", help="every image already is one face")
    group.add_argument("--sample", type=int, metavar="N", help="images to draw at random")
    group.add_argument("--seed", type=int, default=0, help="of every draw (default: 0)")
    group.add_argument(
        "--keep", nargs="+", default=[], metavar="COLUMN", help="columns to keep in the tables"
    )
    group.add_argument(
        "--by", metavar="COLUMN", help="split everything by it; 'folder' for class folders"
    )


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model",
        help="weights folder, Hub id or name of bundled weights; with an earlier audit: where "
        "their calibration table lies",
    )
    group.add_argument("--revision", help="commit of the weights' Hub repository")
    group.add_argument("--detector", default="auto", help="auto, yunet or haar (default: auto)")
    group.add_argument("--backend", choices=["auto", "onnx", "torch"], default="auto")
    group.add_argument("--mirror", action="store_true", help="mean over each face and its mirror")
    group.add_argument(
        "--min-face",
        type=float,
        default=MIN_FACE,
        help="least width in pixels, from %(default)g on (%(default)g)",
    )
    group.add_argument(
        "--detect", choices=["fast", "thorough"], default="fast", help="thorough: smaller faces too"
    )
    group.add_argument("--engine", choices=["local", "ray"], default="local")
    group.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    group.add_argument("--ray-address", help="of a running cluster; none: one on this machine")
    group.add_argument("--restart", action="store_true", help="throw an earlier run's work away")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_statistics(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--population",
        action="store_true",
        help="the images are a random draw from a population, and that is in question",
    )
    group.add_argument(
        "--reference", metavar="FILE", help="shares to compare with: JSON file, uniform, fairface"
    )
    group.add_argument(
        "--merge",
        action="append",
        default=[],
        metavar="TASK:BINS",
        help="own bins, e.g. 'age:child=0-2,3-9,10-19;adult=20-29,30-39'; once a task",
    )
    group.add_argument("--truth", metavar="COLUMN", help="of another system's test: the truth")
    group.add_argument("--prediction", metavar="COLUMN", help="and its prediction")


def _add_labels(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-sample",
        type=int,
        metavar="N",
        help="write a sheet of N faces to label, as CSV and as a page with crops",
    )
    group.add_argument("--labels", type=Path, metavar="FILE", help="use a sheet that is filled in")
    group.add_argument("--forget", action="store_true", help="delete the crops of the sheet")


def run(args: argparse.Namespace) -> int:
    """Carry out the command.

    Returns:
        0 when every image was read, 1 when at least one was not, 2 when there is no result: it
        could not start, or no image could be read.
    """
    # The help needs no pyarrow.
    from faceattr.audit.collect import Engine
    from faceattr.audit.render import to_text
    from faceattr.audit.run import audit
    from faceattr.audit.store import IMAGES_NAME

    try:
        done = audit(
            args.source,
            args.output,
            image_column=args.image_column,
            split=args.split,
            config=args.config,
            data_revision=args.data_revision,
            root=args.root,
            http=args.http,
            crops=args.crops,
            sample=args.sample,
            seed=args.seed,
            keep=args.keep,
            by=args.by,
            model=args.model,
            revision=args.revision,
            detector=args.detector,
            backend=args.backend,
            mirror=args.mirror,
            min_face=args.min_face,
            detect=args.detect,
            engine=Engine(args.engine, args.workers, args.ray_address),
            restart=args.restart,
            population=args.population,
            reference=args.reference,
            merge=args.merge,
            truth=args.truth,
            prediction=args.prediction,
            label_sample=args.label_sample,
            labels=args.labels,
            forget=args.forget,
            quiet=args.quiet,
        )
    except FaceAttrError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; give the same command again to go on\n")
        return 130
    if not args.quiet:
        if done.report is not None:
            sys.stdout.write(to_text(done.report))
        for note in done.notes:
            sys.stdout.write(f"{note}\n")
    if done.report is not None and 0 < done.failed == done.report["counts"]["images"]:
        sys.stderr.write(f"error: no image could be read; {IMAGES_NAME} says why of each\n")
        return 2
    return 1 if done.failed else 0
