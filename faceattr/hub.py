"""Find weights: a Hub repository, a folder, or those that come with the package. No PyTorch."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.errors import WeightsError

HUB_LIMIT_S = 5.0
"""Longest wait in seconds for the Hub's first answer; then what is in the cache is used."""
SILENT_S = 120.0
"""Seconds for which a Hub that did not answer is taken to be out of reach.

One start looks for several files there; each wait of its own would add up.
"""

_ADVICE = {
    401: "check the spelling of the name; a private repository needs HF_TOKEN",
    403: "your token may not read it; ask for access or use another token",
    404: "check the name and the revision",
}
BUNDLED = Path(__file__).parent / "weights"
BUNDLED_NAMES = ("FaceAttrNet", "FaceAttrNetLarge", "LightweightMTLNet224")
DEFAULT_MODEL = BUNDLED_NAMES[0]
_silent_until = 0.0


@dataclass(frozen=True)
class WeightsFiles:
    """Where a model's files lie on disk and what they are called for people.

    Attributes:
        config: path of `config.json`.
        weights: path of `model.safetensors`, or of another file with weights if asked for.
        name: Hub id, folder name or name of the bundled weights.
        revision: commit of the Hub repository; None for local files.
    """

    config: Path
    weights: Path
    name: str
    revision: str | None = None


class AbsentFileError(WeightsError):
    """A model lacks the one file that was asked for, or the cache does and the Hub is silent."""


def find_weights(
    model: str | Path | None = None, *, revision: str | None = None, file: str = WEIGHTS_NAME
) -> WeightsFiles:
    """Locate a model's files, downloading them if `model` is a Hub id.

    Args:
        model: "user/name" on the Hub, a local folder, or the name of bundled weights (those of
            `BUNDLED_NAMES`); None for `DEFAULT_MODEL`. A `Path` is a folder, and so is a string
            that names one here, whatever else has that name.
        revision: branch, tag or commit; Hub ids only. Pin a commit for reproducible results.
        file: which file of weights is wanted beside `config.json`.

    Raises:
        AbsentFileError: where all that is wrong is that there is no such file.
        WeightsError: saying what was looked for and what to do.
    """
    folder = _local_folder(model)
    if folder is None:
        return _download(str(model), revision, file)
    if revision is not None:
        raise WeightsError(f"revision {revision!r} given for local weights; leave it out")
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {str(folder)!r}; check the spelling")
    name = Path(os.path.abspath(folder)).name
    for part in (CONFIG_NAME, file):
        if not (folder / part).is_file():
            advice = "; `faceattr export FOLDER` writes it" if part == ONNX_NAME else ""
            raise AbsentFileError(f"{part} is missing in the weights folder {name!r}{advice}")
    return WeightsFiles(folder / CONFIG_NAME, folder / file, name)


def _local_folder(model: str | Path | None) -> Path | None:
    """The folder that is meant; None for a Hub id."""
    if model is None:
        return BUNDLED / DEFAULT_MODEL
    if isinstance(model, Path) or Path(model).is_dir():
        return Path(model)
    return BUNDLED / model if model in BUNDLED_NAMES else None


def _answers(repo_id: str, revision: str | None) -> bool:
    """Whether the Hub answers a question about a repository; an HTTP error is an answer.

    This is the one place that waits for a silent Hub: `hf_hub_download` retries for 23 s.
    """
    global _silent_until
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo_id, CONFIG_NAME, revision=revision)
    if time.monotonic() < _silent_until:
        return False
    answers: list[bool] = []
    # The client may ask for more than the file, with limits of its own: hence a thread that can
    # be left behind.
    thread = threading.Thread(target=_ask, args=(url, answers), daemon=True)
    thread.start()
    thread.join(HUB_LIMIT_S)
    if answers == [True]:
        return True
    _silent_until = time.monotonic() + SILENT_S
    return False


def _ask(url: str, answers: list[bool]) -> None:
    """Append whether there was an answer to one request."""
    import httpx2
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(url, timeout=HUB_LIMIT_S)
        answers.append(True)
    except HfHubHTTPError:
        answers.append(True)
    except (httpx2.HTTPError, OSError):
        answers.append(False)


def _download(repo_id: str, revision: str | None, file: str) -> WeightsFiles:
    # Imported here: local weights need neither, and together they take a quarter of a second.
    import httpx2
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    local, wanted = False, CONFIG_NAME
    try:
        # Files of a commit that are in the cache cost no request.
        pinned = _is_commit(revision) and all(
            isinstance(try_to_load_from_cache(repo_id, name, revision=revision), str)
            for name in (CONFIG_NAME, file)
        )
        local = not pinned and not _answers(repo_id, revision)
        config = Path(
            hf_hub_download(repo_id, CONFIG_NAME, revision=revision, local_files_only=local)
        )
        # The snapshot folder is named after the commit: the second file comes from the same one.
        commit = config.parent.name
        wanted = file
        weights = Path(hf_hub_download(repo_id, file, revision=commit, local_files_only=local))
    except HFValidationError as error:
        raise WeightsError(
            f"{repo_id!r} is neither a folder here nor a Hub id of the form 'user/name'"
        ) from error
    except LocalEntryNotFoundError as error:
        kind = AbsentFileError if local else WeightsError
        silence, advice = "the Hub cannot be reached", "check the connection"
        if is_offline_mode():
            silence, advice = "the Hub is switched off by HF_HUB_OFFLINE", "unset it"
        raise kind(
            f"{silence} and {wanted} of {repo_id!r} is not in the local cache; {advice}, or give "
            "a local folder"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        kind = AbsentFileError if isinstance(error, EntryNotFoundError) else WeightsError
        raise kind(
            f"cannot download {wanted} of {repo_id!r} at revision {revision or 'main'!r}: the Hub "
            f"answered HTTP {status}; {_ADVICE.get(status, 'try again later')}"
        ) from error
    except (OSError, httpx2.HTTPError) as error:
        raise WeightsError(
            f"cannot download {repo_id!r} at revision {revision or 'main'!r} "
            f"({type(error).__name__}); check the connection and the disk, then try again"
        ) from error
    return WeightsFiles(config, weights, repo_id, commit)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def read_config(files: WeightsFiles) -> ModelConfig:
    """Read `config.json` strictly.

    Raises:
        WeightsError: for an unreadable file, and as `ModelConfig.from_dict`.
    """
    try:
        values = json.loads(files.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{CONFIG_NAME} of {files.name!r} is not readable JSON") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{CONFIG_NAME} of {files.name!r} must hold a JSON object")
    return ModelConfig.from_dict(values)


def find_beside(files: WeightsFiles, name: str) -> Path | None:
    """A file that may accompany the weights, such as `report.json`; None where it cannot be had."""
    local = files.config.with_name(name)
    if local.is_file():
        return local
    if files.revision is None:
        return None
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    local_only = not _answers(files.name, files.revision)
    try:
        found = hf_hub_download(
            files.name, name, revision=files.revision, local_files_only=local_only
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, httpx2.HTTPError):
        return None
    return Path(found)


def find_all_beside(files: WeightsFiles, patterns: Sequence[str]) -> dict[str, Path]:
    """Every file that accompanies the weights and whose path fits a pattern, by that path.

    Raises:
        WeightsError: where the Hub does not give the list, or one of them.
    """
    if files.revision is None:
        folder = files.config.parent
        paths = [path for pattern in patterns for path in folder.glob(pattern)]
        return {path.relative_to(folder).as_posix(): path for path in paths}
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        names = HfApi().list_repo_files(files.name, revision=files.revision)
        return {
            name: Path(hf_hub_download(files.name, name, revision=files.revision))
            for name in names
            if any(_fits(name, pattern) for pattern in patterns)
        }
    except (httpx2.HTTPError, OSError, EntryNotFoundError) as error:
        raise WeightsError(
            f"cannot download what lies beside the weights of {files.name!r} "
            f"({type(error).__name__}); check the connection and the disk, then try again"
        ) from error


def _fits(path: str, pattern: str) -> bool:
    """Whether a path in a repository fits a pattern whose star stands for no slash."""
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)
