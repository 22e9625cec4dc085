"""Uploaded files between the upload and the request that uses them: each is used once."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path

from page.admission.body import Budget
from page.errors import RequestError, too_much

KEPT_S = 120
"""Seconds after which an upload that no request has used is deleted."""
MAX_PENDING = 1_000
"""Uploads that may wait for their request."""


class Uploads:
    """A folder with one subfolder for each upload, so that equal files do not share a name."""

    def __init__(self, folder: Path, max_bytes: int, budget: Budget) -> None:
        """Make nothing yet.

        Args:
            folder: for the files; nothing else may lie there.
            max_bytes: of one file.
            budget: in which the files count while they exist.
        """
        self.folder = folder.resolve()
        self._max_bytes = max_bytes
        self._budget = budget
        self._sizes: dict[str, int] = {}

    def save(self, content: bytes, name: str) -> Path:
        """Write an upload and return its path.

        Raises:
            RequestError: "too_large", or "too_much" when too many files or bytes wait for their
                requests.
        """
        self.check(len(content))
        self.folder.mkdir(parents=True, exist_ok=True)
        if sum(1 for _ in self.folder.iterdir()) >= MAX_PENDING:
            raise too_much()
        self._budget.add(len(content))
        target = self.folder / secrets.token_hex(16)
        self._sizes[target.name] = len(content)
        safe = re.sub(r"[^\w.-]", "_", Path(name.replace("\\", "/")).name)[-80:].lstrip(".")
        path = target / (safe or "picture")
        try:
            target.mkdir(mode=0o700)
            path.write_bytes(content)
        except OSError:
            self._delete(target)
            raise
        return path

    def check(self, count: int) -> None:
        """Refuse a file by its size.

        Raises:
            RequestError: "too_large".
        """
        if count > self._max_bytes:
            raise RequestError(
                "too_large",
                f"expected at most {self._max_bytes:,} bytes a picture, came {count:,}; "
                "shrink the picture or save it with more compression",
            )

    def holds(self, path: str) -> bool:
        """Whether a path of a client is that of an upload."""
        try:
            parts = Path(path).resolve().relative_to(self.folder).parts
        except (ValueError, OSError, RuntimeError):
            return False
        return len(parts) == 2

    def take(self, path: str) -> bytes:
        """Read an upload and delete it.

        Raises:
            RequestError: "bad_request" when the path is that of no upload, or of one used before.
        """
        if not self.holds(path):
            raise RequestError(
                "bad_request", "the path is not that of an uploaded file; upload the picture first"
            )
        file = Path(path).resolve()
        try:
            self.check(file.stat().st_size)
            return file.read_bytes()
        except OSError:
            raise RequestError(
                "bad_request", "this upload is gone: each can be used once; upload it again"
            ) from None
        finally:
            self._delete(file.parent)

    def drop(self, path: str) -> None:
        """Delete an upload if it is still there."""
        if self.holds(path):
            self._delete(Path(path).resolve().parent)

    def _delete(self, entry: Path) -> None:
        shutil.rmtree(entry, ignore_errors=True)
        self._budget.remove(self._sizes.pop(entry.name, 0))

    def sweep(self, older_than: float = KEPT_S) -> None:
        """Delete what was uploaded more than so many seconds ago."""
        if not self.folder.is_dir():
            return
        limit = time.time() - older_than
        for entry in self.folder.iterdir():
            try:
                stale = entry.stat().st_mtime <= limit
            except OSError:
                continue
            if stale and entry.is_dir():
                self._delete(entry)
            elif stale:
                entry.unlink(missing_ok=True)
