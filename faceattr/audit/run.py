"""A collection in, tables and a report out: `faceattr.audit(source, output)`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from inspect import cleandoc
from pathlib import Path
from typing import Any

from faceattr import arguments
from faceattr.audit.answers import Answers, parse_merges
from faceattr.audit.calibration import CalibrationTable, find_table
from faceattr.audit.collect import STDIN, Engine, Tables, collect, spooled
from faceattr.audit.collected import Collected
from faceattr.audit.earlier import UNKNOWN, find_earlier
from faceattr.audit.idle import check_earlier, check_finding
from faceattr.audit.labelled import label_sample
from faceattr.audit.labelling import (
    PAGE_NAME,
    SHEET_NAME,
    check_sheet,
    forget_crops,
    keep_labels,
    read_sheet,
    write_sheet,
)
from faceattr.audit.measured import Question, read_reference
from faceattr.audit.reading import read_collected
from faceattr.audit.render import to_html, to_markdown
from faceattr.audit.report import NO_TABLE, build_report
from faceattr.audit.sources import SourceOptions, open_collection, sampled
from faceattr.audit.store import REPORT_NAME, write_atomically
from faceattr.audit.words import counted
from faceattr.audit.work import Settings
from faceattr.config import CONFIG_NAME
from faceattr.detection import MIN_FACE
from faceattr.errors import AuditError, WeightsError, said_of
from faceattr.hub import find_weights


@dataclass(frozen=True)
class Audited:
    """What an audit gave.

    Attributes:
        folder: where everything lies.
        report: content of report.json; None where only crops were deleted.
        tables: the tables that the report is of.
        failed: images that could not be read.
        notes: lines for the end of a run.
    """

    folder: Path
    report: Mapping[str, Any] | None = None
    tables: Tables | None = None
    failed: int = 0
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Request:
    """What `audit` is asked for: its arguments.

    Attributes:
        source: see `faceattr.audit.sources.open_collection`; "-" for paths on standard input; or
            an earlier audit's `faces.parquet` or folder, of which all but the tables is made
            anew; None only with `forget`.
        output: folder for tables and reports.
        image_column: of a table; None to find it.
        split: of a data set.
        config: of a data set with several.
        data_revision: commit of a data set on the Hub.
        root: before relative paths of a list or table; None for the folder that it lies in.
        http: whether web addresses, of public hosts only, are fetched.
        crops: whether every image already is one face.
        sample: images to draw; None for all.
        seed: of every draw.
        keep: columns of the source that the tables keep, as text.
        by: column that everything is split by; "folder" for class folders.
        model: as `FacePipeline.from_pretrained`, and so are the next six; with an earlier audit
            only where the calibration table of the weights that answered lies.
        revision: of the weights.
        detector: which one looks.
        backend: what runs the network.
        mirror: whether each face is looked at in a mirror too.
        min_face: least width of a face in pixels, from 24 on.
        detect: "fast", or "thorough" for small faces in large images too.
        engine: what runs the workers; None for one process a core.
        restart: whether an earlier run's work is thrown away.
        population: whether the images are a random draw from what is in question.
        reference: "uniform", "fairface", a JSON file or a mapping: shares by task and class.
        merge: own bins, such as "age:child=0-2,3-9,10-19;adult=20-29,30-39".
        truth: column with what another system should have said.
        prediction: column with what it said.
        label_sample: faces of a sheet to label by hand, which is written.
        labels: a sheet that was filled in.
        forget: whether the sheet's crops are deleted.
        quiet: whether no progress is shown.
    """

    source: str | os.PathLike[str] | None
    output: str | os.PathLike[str]
    image_column: str | None
    split: str | None
    config: str | None
    data_revision: str | None
    root: str | None
    http: bool
    crops: bool
    sample: int | None
    seed: int
    keep: Sequence[str]
    by: str | None
    model: str | None
    revision: str | None
    detector: str
    backend: str
    mirror: bool
    min_face: float
    detect: str
    engine: Engine | None
    restart: bool
    population: bool
    reference: str | os.PathLike[str] | Mapping[str, Mapping[str, float]] | None
    merge: Sequence[str]
    truth: str | None
    prediction: str | None
    label_sample: int | None
    labels: str | os.PathLike[str] | None
    forget: bool
    quiet: bool


def audit(
    source: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    split: str | None = None,
    config: str | None = None,
    data_revision: str | None = None,
    root: str | None = None,
    http: bool = False,
    crops: bool = False,
    sample: int | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    by: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    detector: str = "auto",
    backend: str = "auto",
    mirror: bool = False,
    min_face: float = MIN_FACE,
    detect: str = "fast",
    engine: Engine | None = None,
    restart: bool = False,
    population: bool = False,
    reference: str | os.PathLike[str] | Mapping[str, Mapping[str, float]] | None = None,
    merge: Sequence[str] = (),
    truth: str | None = None,
    prediction: str | None = None,
    label_sample: int | None = None,
    labels: str | os.PathLike[str] | None = None,
    forget: bool = False,
    quiet: bool = True,
) -> Audited:
    """Describe the make-up of an image collection.

    Its arguments are those of `Request`.

    Raises:
        AuditError: for whatever cannot be used; the message says what to do.
        WeightsError: when the weights cannot be had.
    """
    request = Request(**locals())
    folder = Path(output)
    if source is None and forget and labels is None and label_sample is None:
        return Audited(folder, notes=(_forgotten(folder),))
    done = _answer(_checked(request), engine, restart=restart, quiet=quiet)
    if not forget:
        return done
    # Last: whatever fails before leaves the crops, which cost hours of labelling, where they are.
    return replace(done, notes=(*done.notes, _forgotten(folder)))


def _forgotten(folder: Path) -> str:
    return f"{forget_crops(folder)} crops deleted in {folder}"


def _with_arguments(text: str, attributes: str) -> str:
    """A docstring with the section `Args` that another's section `Attributes` makes."""
    before, raises, after = cleandoc(text).partition("Raises:")
    listed = cleandoc(attributes).partition("Attributes:\n")[2]
    return f"{before}Args:\n{listed}\n\n{raises}{after}"


if audit.__doc__ and Request.__doc__:  # None with `python -OO`
    audit.__doc__ = _with_arguments(audit.__doc__, Request.__doc__)


@dataclass(frozen=True)
class _Asked:
    """What `audit` was asked for, checked as far as it can be before the images are read."""

    source: str | os.PathLike[str]
    folder: Path
    options: SourceOptions
    settings: Settings
    sample: int | None
    question: Question
    sheet: int | None


def _checked(asked: Request) -> _Asked:
    """Whatever is wrong with the arguments is said here, before hours of work."""
    if asked.source is None:
        raise AuditError("expected a SOURCE: a folder, a glob, a table, an archive or a data set")
    if (asked.truth is None) != (asked.prediction is None):
        raise AuditError("--truth and --prediction name two columns; give both")
    if asked.truth is not None and asked.truth == asked.prediction:
        raise AuditError(
            f"--truth and --prediction both name {asked.truth!r}; expected two different columns: "
            "what is true, and what the other system said"
        )
    if asked.forget and asked.label_sample is not None:
        raise AuditError(
            "--label-sample writes the crops that --forget deletes; give --forget when the sheet "
            "is filled in and used"
        )
    seed = arguments.whole_number("seed", asked.seed, 0)
    sample = arguments.optional_whole_number("sample", asked.sample, 1)
    sheet = arguments.optional_whole_number("label_sample", asked.label_sample, 1)
    if sheet is not None:
        keep_labels(Path(asked.output))
    min_face = arguments.pixels("min_face", asked.min_face, MIN_FACE)
    named = (*asked.keep, asked.by, asked.truth, asked.prediction)
    columns = tuple(dict.fromkeys(column for column in named if column is not None))
    options = SourceOptions(
        asked.image_column,
        asked.split,
        asked.config,
        asked.data_revision,
        asked.root,
        asked.http,
        columns,
    )
    settings = Settings(
        asked.model,
        asked.revision,
        asked.detector,
        asked.backend,
        asked.mirror,
        asked.crops,
        columns,
        min_face=min_face,
        detect=asked.detect,
    )
    check_finding(settings)
    return _Asked(
        asked.source, Path(asked.output), options, settings, sample, _question(asked, seed), sheet
    )


def _question(asked: Request, seed: int) -> Question:
    parse_merges(asked.merge)
    return Question(
        population=asked.population,
        reference=None if asked.reference is None else read_reference(asked.reference),
        merge=tuple(asked.merge),
        by=asked.by,
        truth=asked.truth,
        prediction=asked.prediction,
        labels=None if asked.labels is None else read_sheet(Path(asked.labels)),
        seed=seed,
    )


def _answer(asked: _Asked, engine: Engine | None, *, restart: bool, quiet: bool) -> Audited:
    """Tables, of which those of an earlier audit are used as they are, and their report."""
    question = asked.question
    tables = find_earlier(asked.source, asked.folder)
    is_earlier = tables is not None
    if tables is None:
        tables = collect(
            asked.source,
            asked.folder,
            asked.settings,
            asked.options,
            sample=asked.sample,
            seed=question.seed,
            engine=engine,
            restart=restart,
            quiet=quiet,
        )
    else:
        check_earlier(
            asked.settings,
            asked.options,
            used=(question.by, question.truth, question.prediction),
            sample=asked.sample,
            engine=engine not in (None, Engine()),
            restart=restart,
        )
    wanted = [name for name in (question.truth, question.prediction) if name is not None]
    if question.labels is not None:
        check_sheet(question.labels, tables.faces)
    images = tables.images if tables.images.is_file() else None
    found = read_collected(tables.faces, images, by=question.by, columns=wanted)
    facts = {**tables.facts, "created": date.today().isoformat()}
    calibration, why_not = _calibration(facts, asked.settings, is_earlier=is_earlier)
    report = build_report(found, facts, question, calibration, why_not)
    _write(asked.folder, report)
    notes = [f"report: {asked.folder / f'{REPORT_NAME}.html'}"]
    if asked.sheet is not None:
        notes.append(_sheet(found, tables, asked, asked.sheet))
    return Audited(asked.folder, report, tables, sum(found.failed.values()), tuple(notes))


def _calibration(
    facts: Mapping[str, Any], settings: Settings, *, is_earlier: bool
) -> tuple[CalibrationTable | None, str]:
    """The table beside the weights that answered, or None and why there is none.

    Raises:
        AuditError: for an earlier audit and weights that are named, where they are no help.
        WeightsError: where such weights cannot be had.
    """
    name = settings.model or facts["weights"]["model"]
    revision = settings.revision or facts["weights"]["revision"]
    is_named = is_earlier and (settings.model or settings.revision) is not None
    if name == UNKNOWN:
        return None, "Which weights answered is not known (--model may name them)"
    try:
        files = find_weights(name, revision=revision, file=CONFIG_NAME)
    except WeightsError as error:
        if is_named:
            raise
        return None, f"The weights {name!r} that answered cannot be had ({error}); give --model"
    table = find_table(files)
    if table is None:
        why_not = NO_TABLE
    elif facts["weights"].get("safetensors_sha256") not in (None, table.weights_sha256):
        why_not = f"The calibration table of {name!r} is of other weights than those that answered"
    else:
        return table, ""
    if is_named:
        raise AuditError(
            f"--model {name}: expected where the calibration table of the weights that answered "
            f"lies. {why_not}; leave --model out"
        )
    return None, why_not


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AuditError(
            f"--output {str(folder)!r} cannot be made: {said_of(error)}; give a folder"
        ) from error
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / f"{REPORT_NAME}.json", text + "\n")
    write_atomically(folder / f"{REPORT_NAME}.html", to_html(report))
    write_atomically(folder / f"{REPORT_NAME}.md", to_markdown(report))


def _sheet(found: Collected, tables: Tables, asked: _Asked, size: int) -> str:
    """Write the sheet of faces to label; what to do with it."""
    folder, seed = tables.faces.parent, asked.question.seed
    if tables.facts.get("kind") == "faces" or find_earlier(asked.source, folder) is not None:
        raise AuditError(
            "--label-sample shows crops of faces: give the images as SOURCE, with the same "
            "--output; tables that are complete are not made again"
        )
    source, options = os.fspath(asked.source), asked.options
    if source == STDIN:
        source, options = spooled(folder, options)
    collection = open_collection(source, options)
    if asked.sample is not None:
        collection = sampled(collection, asked.sample, seed)
    chosen = label_sample(Answers(found.probabilities, found.image), size, seed)
    read = replace(
        asked.settings,
        root=collection.root,
        http=options.http,
        parquet=collection.parquet,
    )
    page = write_sheet(tables.faces, chosen, folder, collection.refs, read)
    return (
        f"{counted(len(chosen.rows), 'face')} to label: open {page}, save its CSV, then give "
        f"--labels; --forget deletes the crops ({PAGE_NAME} and {SHEET_NAME} lie in the same "
        "folder)"
    )
