"""The folder of an audit: parts while it runs, two tables when it is done.

Every file appears whole under its name or not at all. What a run depends on is written first; a
second run goes on only with the same settings and the same collection.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from faceattr.audit.faces import SOURCE_PREFIX
from faceattr.audit.places import Inline, Ref, is_remote
from faceattr.audit.work import face_fields, image_fields
from faceattr.errors import AuditError, said_of

RUN_NAME = "run.json"
IMAGES_NAME = "images.parquet"
FACES_NAME = "faces.parquet"
PARTS_NAME = "parts"
LIST_NAME = "paths.txt"
"""Where a list from standard input is kept, so that a second run reads the same."""
REPORT_NAME = "report"
"""Of `report.json`, `report.html` and `report.md`."""
GROUP_ROWS = 65_536
"""Images whose rows are written together; bounds the memory of joining parts."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file that is whole or not there, whatever happens.

    Raises:
        AuditError: when the disk is full or the folder cannot be written.
    """
    # Bytes of a file name that are no UTF-8 are shown as escapes, which JSON reads back.
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with name.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AuditError(_full(path, error)) from error


def _full(path: Path, error: OSError) -> str:
    return (
        f"cannot write {path.name!r} in {str(path.parent)!r}: {error.strerror or error}. What is "
        "done so far is kept; make room and give the same command again"
    )


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file."""
    return dict(json.loads(json.dumps(settings, default=list)))


_PLACES = ("source", "root")
"""Settings that are paths, or addresses, which are compared as they are spelled."""
_OPTIONS = {
    "source": "SOURCE",
    "columns": "the columns of --keep, --by, --truth and --prediction",
    "weights": "the weights of --model and --revision",
    "faceattr": "the version of faceattr",
}
"""What whoever gives the command knows a setting by, where it is not its own option."""


def _located(place: Any) -> Any:
    """A path that is there without links and relative to nothing; anything else as it came."""
    return os.path.realpath(place) if isinstance(place, str) and os.path.exists(place) else place


def _differing(
    wanted: Mapping[str, Any], found: Mapping[str, Any], located: Mapping[str, Any]
) -> list[str]:
    """Which settings are not those of an earlier run, by option, with both values.

    Args:
        wanted: settings of this run.
        found: of the earlier one.
        located: its `_PLACES`, resolved where it ran; empty for audits that did not keep them.
    """
    said = []
    for key in sorted({*wanted, *found}):
        now, then = wanted.get(key), found.get(key)
        same = key in _PLACES and _located(now) == located.get(key, _located(then))
        if now != then and not same:
            option = _OPTIONS.get(key, f"--{key.replace('_', '-')}")
            said.append(f"{option}: here {_shown(now)}, there {_shown(then)}")
    return said


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(repr, value)) or "none"
    return "none" if value is None else repr(value)


def digest_of(refs: Sequence[Ref]) -> str:
    """Eight hexadecimal digits that tell one part's images from others.

    Rows go by their number, so what they say counts as well; paths here do not: the same folder may
    be given in another way.
    """
    digest = hashlib.sha256()
    for ref in refs:
        place = ref.place
        if isinstance(place, Inline):
            at: object = hashlib.sha256(place.content or b"").hexdigest()
        else:
            at = place if isinstance(place, str) else place.file
            at = at if is_remote(str(at)) else None
        said = repr((ref.id, ref.name, at, sorted(ref.columns.items())))
        digest.update(said.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:8]


def read_run(folder: Path) -> dict[str, Any] | None:
    """What is noted of the run in a folder; None where there is none.

    Raises:
        AuditError: for a file that is damaged.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(values, dict) and {"settings", "complete"} <= values.keys()):
            raise ValueError("it is no note of a run")
        return values
    except (OSError, ValueError) as error:
        raise AuditError(
            f"{RUN_NAME} in {str(folder)!r} is damaged ({said_of(error)}); begin anew: give the "
            "images as SOURCE, with --restart"
        ) from error


class Store:
    """The output folder of one audit."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        """Make the folder.

        Args:
            folder: where everything goes.
            columns: of the source that are kept.

        Raises:
            AuditError: when it cannot be made.
        """
        self.folder = folder
        self._columns = list(columns)
        self._parts = folder / PARTS_NAME
        ours = (self._parts, folder, *folder.parents)
        try:
            str(folder).encode("utf-8")  # Arrow opens no other names.
            self._made = [path for path in ours if not path.exists()]
            self._parts.mkdir(parents=True, exist_ok=True)
        except (OSError, UnicodeEncodeError) as error:
            raise AuditError(
                f"the folder {str(folder)!r} cannot be made: {said_of(error)}"
            ) from error

    @property
    def images(self) -> Path:
        """The table of images."""
        return self.folder / IMAGES_NAME

    @property
    def faces(self) -> Path:
        """The table of faces."""
        return self.folder / FACES_NAME

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuse a second run in the same folder at the same time.

        What was made for a run that failed before it noted anything is removed again.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            with self._withdrawn():
                yield
            return
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise AuditError(
                    f"another audit is writing to {str(self.folder)!r}; wait for it or choose "
                    "another --output"
                ) from None
            with self._withdrawn():
                yield

    @contextmanager
    def _withdrawn(self) -> Iterator[None]:
        """Remove the folders that this run made, where they are empty and no run is noted."""
        try:
            yield
        except BaseException:
            if not self.has_begun:
                with suppress(OSError):
                    (self.folder / ".lock").unlink(missing_ok=True)
                    for path in self._made:
                        path.rmdir()
            raise

    def restart(self) -> None:
        """Throw away what an earlier run has done."""
        shutil.rmtree(self._parts)
        self._parts.mkdir()
        reports = [self.folder / f"{REPORT_NAME}.{ending}" for ending in ("html", "json", "md")]
        for path in (self.folder / RUN_NAME, self.images, self.faces, *reports):
            path.unlink(missing_ok=True)

    def is_complete(self, settings: Mapping[str, Any]) -> bool:
        """Whether an earlier run with these settings has finished the tables.

        Raises:
            AuditError: when the folder holds a run with other settings.
        """
        found = self._read()
        if found is None:
            return False
        wanted = _as_json(settings)
        if differing := _differing(wanted, found["settings"], found.get("located", {})):
            raise AuditError(
                f"{str(self.folder)!r} holds an audit with other settings "
                f"({'; '.join(differing)}). What an image's rows hold is decided when it is read: "
                "give the same options as at the start, choose another --output, or begin anew "
                "with --restart"
            )
        return bool(found["complete"]) and self.images.is_file() and self.faces.is_file()

    @property
    def has_begun(self) -> bool:
        """Whether a run is noted here."""
        return (self.folder / RUN_NAME).is_file()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Note what the run depends on."""
        if self._read() is None:
            said = _as_json(settings)
            located = {key: _located(said.get(key)) for key in _PLACES}
            self._write({"settings": said, "located": located, "complete": False})

    def _read(self) -> dict[str, Any] | None:
        return read_run(self.folder)

    def _write(self, values: Mapping[str, Any]) -> None:
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_atomically(self.folder / RUN_NAME, text + "\n")

    def _part(self, number: int, digest: str) -> Path:
        return self._parts / f"{number:09d}-{digest}.parquet"

    def has(self, number: int, refs: Sequence[Ref]) -> bool:
        """Whether a part is done.

        Raises:
            AuditError: when other images had that number in an earlier run.
        """
        path = self._part(number, digest_of(refs))
        if path.is_file():
            return True
        if next(self._parts.glob(f"{number:09d}-*.parquet"), None) is not None:
            raise AuditError(
                "the collection has changed since this audit began (images came, went or were "
                "renamed); choose another --output, or give --restart to begin anew"
            )
        return False

    def save(self, number: int, digest: str, content: bytes) -> None:
        """Keep a part that is done."""
        write_atomically(self._part(number, digest), content)

    @property
    def facts(self) -> dict[str, Any]:
        """What `finish` was told."""
        return dict((self._read() or {}).get("facts", {}))

    def write(self, name: str, content: bytes | str) -> Path:
        """Write another file of the audit; returns its path."""
        path = self.folder / name
        write_atomically(path, content)
        return path

    def finish(self, parts: int, facts: Mapping[str, Any]) -> None:
        """Join all parts to the two tables, then delete them.

        Args:
            parts: how many there have to be.
            facts: JSON-ready; kept with the settings.

        Raises:
            AuditError: for a full disk, or parts of more images than there are now.
        """
        found = sorted(self._parts.glob("*.parquet"))
        if len(found) != parts:
            raise AuditError(
                f"{len(found)} parts are there where the collection gives {parts}: it has changed "
                "since this audit began; choose another --output, or give --restart"
            )
        try:
            _join(found, self._columns, self.images, self.faces)
        except OSError as error:
            raise AuditError(_full(self.images, error)) from error
        self._write({**(self._read() or {}), "facts": dict(facts), "complete": True})
        for path in found:
            path.unlink()
        for path in [*self._parts.glob(".*"), *self.folder.glob(".*.parquet.*")]:
            path.unlink(missing_ok=True)


def _join(parts: Sequence[Path], columns: Sequence[str], images: Path, faces: Path) -> None:
    """Stream parts, in order, into one table of images and one of faces."""
    image_schema = pa.schema(image_fields(columns))
    names = ["image", "id", "name", *(SOURCE_PREFIX + name for name in columns)]
    face_schema = pa.schema(
        [
            *(image_schema.field(name) for name in names),
            *(pa.field(*item) for item in face_fields()),
        ]
    )
    drafts = [path.with_name(f".{path.name}.new") for path in (images, faces)]
    try:
        with (
            pq.ParquetWriter(drafts[0], image_schema, compression="zstd") as image_writer,
            pq.ParquetWriter(drafts[1], face_schema, compression="zstd") as face_writer,
        ):
            for some in _groups(parts):
                table = pa.concat_tables(pq.read_table(path) for path in some)
                image_writer.write_table(table.drop_columns(["found"]).cast(image_schema))
                face_writer.write_table(_faces(table, names, face_schema))
        for draft, path in zip(drafts, (images, faces), strict=True):
            with draft.open("r+b") as stream:  # Windows syncs only what may be written.
                os.fsync(stream.fileno())
            os.replace(draft, path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def _groups(parts: Sequence[Path]) -> Iterator[list[Path]]:
    """Parts of about `GROUP_ROWS` images together; the same in every run."""
    some: list[Path] = []
    rows = 0
    for path in parts:
        some.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= GROUP_ROWS:
            yield some
            some, rows = [], 0
    if some:
        yield some


def _faces(table: pa.Table, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """One row a face, with its image's columns."""
    import pyarrow.compute as pc

    found = table["found"].combine_chunks()
    parents = pc.list_parent_indices(found)
    flat = pc.list_flatten(found)
    rows = table.select(list(names)).take(parents)
    columns = [rows[name] for name in names]
    columns += [flat.field(name) for name, _ in face_fields()]
    return pa.table(columns, schema=schema)
