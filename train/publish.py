"""A checked folder of weights to one commit of a Hub repository, proven by loading it back."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx2
import numpy as np
import yaml  # type: ignore[import-untyped]
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    RepoCard,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from numpy.typing import NDArray

from faceattr.audit.calibration import AUDIT_NAME, read_table
from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME
from faceattr.errors import FaceAttrError, WeightsError
from faceattr.hub import find_weights
from faceattr.model import load_model

CARD_NAME = "README.md"
REPORT_NAME = "report.json"
REQUIRED = (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, REPORT_NAME)
FIGURES = ("figures/*.png",)
MESSAGE = "Publish weights, card and report"

log = logging.getLogger("train")

ADVICE = {
    401: "the Hub does not accept this token. Create one with write permission at "
    "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN.",
    403: "this token may not write there. Use a token with write permission for {namespace!r}, "
    "or choose a namespace that is yours.",
    404: "no such repository, branch or namespace, or this token does not see it. Check the "
    "spelling of {repo_id!r} and what the token covers.",
    409: "something else is changing the repository. Run the same command again.",
    412: "somebody else committed in the meantime. Look at the repository's history, then run "
    "the same command again.",
    429: "too many requests. Wait {wait}, then run the same command again.",
}
AGAIN = "Run the same command again: files that have arrived are not sent twice."


class PublishError(FaceAttrError):
    """A folder cannot be published, or the Hub refused; the message says what to do next."""


@dataclass(frozen=True)
class PublishResult:
    """What is on the Hub now.

    Attributes:
        repo_id: "user/name".
        commit: full commit hash that holds the files; pin it to load them.
        changed: False when the repository already had every file as it is.
        url: page of the repository at that commit.
    """

    repo_id: str
    commit: str
    changed: bool
    url: str


def check_folder(folder: Path) -> dict[str, Path]:
    """Check everything that can be checked without the Hub.

    Returns:
        The files to publish by their path in the repository: the four required ones, the
        pictures under `figures/`, and `model.onnx` and `audit.json` where there are any.

    Raises:
        PublishError: naming missing files, a card without metadata, or a report of other weights.
        WeightsError: when the weights do not load strictly, or `model.onnx` is of others.
    """
    if not folder.is_dir():
        raise PublishError(f"{folder} is no folder; expected one with {', '.join(REQUIRED)}")
    if missing := [name for name in REQUIRED if not (folder / name).is_file()]:
        raise PublishError(
            f"{folder} lacks {', '.join(missing)}. `python -m train evaluate` writes "
            f"{REPORT_NAME}, `python -m train card` writes {CARD_NAME}."
        )
    load_model(folder)
    digest = _check_report(folder / REPORT_NAME, folder / WEIGHTS_NAME)
    card = load_card(folder / CARD_NAME, ModelCard)
    if digest not in card.text:
        raise PublishError(
            f"{CARD_NAME} is not about these weights: it does not name their SHA-256 {digest}. "
            "Write it again with `python -m train card`."
        )
    figures = sorted(path for pattern in FIGURES for path in folder.glob(pattern))
    paths = [folder / name for name in REQUIRED] + figures + _checked_onnx(folder)
    paths += _checked_table(folder, digest)
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _checked_onnx(folder: Path) -> list[Path]:
    """`model.onnx`, if there is one; `python -m faceattr.backends.export` writes it."""
    if not (folder / ONNX_NAME).is_file():
        return []
    OnnxClassifier(find_weights(folder, file=ONNX_NAME))
    return [folder / ONNX_NAME]


def _checked_table(folder: Path, weights_sha256: str) -> list[Path]:
    """`audit.json`, if there is one; `python -m train audit-table` writes it."""
    path = folder / AUDIT_NAME
    if not path.is_file():
        return []
    if (found := read_table(path).weights_sha256) != weights_sha256:
        raise PublishError(
            f"{AUDIT_NAME} is of the weights with SHA-256 {found}, not of these. Write it again "
            "with `python -m train audit-table`."
        )
    return [path]


def _check_report(report: Path, weights: Path) -> str:
    """SHA-256 of the weights, if the report describes them."""
    try:
        described = json.loads(report.read_text(encoding="utf-8"))["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise PublishError(
            f"{report} is not a report with the key 'weights_sha256'. "
            "Write it again with `python -m train evaluate`."
        ) from error
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if described != found:
        raise PublishError(
            f"the report describes other weights: {report} was written for SHA-256 {described}, "
            f"{weights.name} has {found}. Evaluate these weights and write the card again."
        )
    return found


def load_card(path: Path, kind: type[RepoCard]) -> RepoCard:
    """Read the card of a model or a Space; its front matter must be a mapping with content.

    Raises:
        PublishError: otherwise.
    """
    try:
        card: RepoCard = kind.load(path)
    except (ValueError, yaml.YAMLError) as error:
        raise PublishError(f"the metadata at the top of {path} is not valid: {error}") from error
    if not card.data.to_dict():  # type: ignore[no-untyped-call]
        raise PublishError(f"{path} has no metadata; expected a block between two lines `---`")
    return card


def connect(repo_id: str, *, endpoint: str | None = None, token: str | None = None) -> HfApi:
    """A Hub client with a token; nothing is sent yet.

    Raises:
        PublishError: for a repository name without namespace, or when no token can be found.
    """
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} lacks the namespace; expected USER/NAME")
    if (token := token or get_token()) is None:
        raise PublishError(
            "no Hub token found. Create one with write permission at "
            "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )
    return HfApi(endpoint=endpoint, token=token, library_name="faceattr")


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub client raises into a `PublishError` that says what to do next."""
    try:
        yield
    # The client wraps failed uploads in RuntimeError and a refused card in ValueError.
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PublishError(_explain(error, repo_id)) from error


def _explain(error: BaseException, repo_id: str) -> str:
    cause = error
    while True:
        if isinstance(cause, HfHubHTTPError):
            return _explain_status(cause, repo_id)
        if isinstance(cause, OfflineModeIsEnabled):
            return "the Hub is switched off by HF_HUB_OFFLINE. Unset it and run again."
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return (
                f"the Hub cannot be reached ({cause}). Check the connection and HF_ENDPOINT, "
                "then run the same command again."
            )
        if isinstance(cause, httpx2.TransportError):
            return f"the connection to the Hub broke ({cause}). {AGAIN}"
        if cause.__cause__ is None:
            return f"publishing to {repo_id} failed: {cause}"
        cause = cause.__cause__


def _explain_status(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    said = f" The Hub says: {error.server_message}" if error.server_message else ""
    if status >= 500:
        return f"{repo_id}: the Hub has a problem of its own (HTTP {status}).{said} {AGAIN}"
    advice = ADVICE.get(status, "the Hub refused the request.")
    after = error.response.headers.get("Retry-After", "")
    advice = advice.format(
        repo_id=repo_id,
        namespace=repo_id.split("/")[0],
        wait=f"{after} seconds" if after.isdigit() else "some minutes",
    )
    return f"{repo_id}: HTTP {status}, {advice}{said}"


def push(
    api: HfApi,
    repo_id: str,
    files: Mapping[str, Path],
    *,
    message: str,
    repo_type: str = "model",
    revision: str = "main",
    owned: tuple[str, ...],
) -> tuple[str, bool]:
    """Bring `files` to an existing repository in one commit, or in none if it has them already.

    Args:
        api: a client from `connect`.
        repo_id: "user/name".
        files: local files by their path in the repository.
        message: first line of the commit.
        repo_type: "model" or "space".
        revision: branch to commit to.
        owned: patterns of paths that belong to us alone: what matches there and is not in `files`
            is deleted. Other files in the repository stay.

    Returns:
        The hash of the commit that holds the files, and whether it is new.
    """
    before = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    there = api.list_repo_files(repo_id, repo_type=repo_type, revision=before.sha)
    ours = [path for path in there if any(fnmatch(path, pattern) for pattern in owned)]
    gone = [path for path in ours if path not in files]
    commit = api.create_commit(
        repo_id,
        operations=[
            *(CommitOperationAdd(path, local) for path, local in files.items()),
            *(CommitOperationDelete(path) for path in gone),
        ],
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=before.sha,
    )
    return commit.oid, commit.oid != before.sha


def golden_logits(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Logits by task of the weights in `folder` for one fixed picture of noise."""
    model = load_model(folder)
    chip = np.random.default_rng(2026).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    logits = model(model.config.preprocessing.to_tensor([chip]))
    return {task: values.detach().numpy() for task, values in logits.items()}


def _verify(api: HfApi, repo_id: str, commit: str, folder: Path) -> None:
    """Load what is on the Hub at `commit` and compare its logits with the folder's, bit for bit."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            path = api.hf_hub_download(repo_id, name, revision=commit, cache_dir=scratch)
        try:
            published = golden_logits(Path(path).parent)
        except WeightsError as error:
            raise PublishError(f"{repo_id} at {commit} does not load: {error}") from error
    here = golden_logits(folder)
    differing = [task for task in here if not np.array_equal(here[task], published[task])]
    if differing:
        raise PublishError(
            f"{repo_id} at {commit} gives other logits than {folder} for {differing}. "
            "Do not use this commit; publish again."
        )


def _check_visibility(api: HfApi, repo_id: str, private: bool) -> None:
    if private and not api.repo_info(repo_id).private:
        raise PublishError(
            f"{repo_id} exists and is public; --private only makes a new repository private. "
            "Change it in the repository's settings, or publish without --private."
        )


def validate_card(api: HfApi, card: Path) -> None:
    """Let the Hub check the card's metadata, as it does before a commit, with nothing sent yet.

    Raises:
        PublishError: naming what the Hub refuses.
    """
    content = card.read_text(encoding="utf-8")
    response = get_session().post(
        f"{api.endpoint}/api/validate-yaml", json={"repoType": "model", "content": content}
    )
    if response.status_code == 400:
        said = "; ".join(error["message"] for error in response.json().get("errors", []))
        raise PublishError(f"the Hub refuses the metadata at the top of {card.name}: {said}")
    hf_raise_for_status(response)


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str = "main",
    private: bool = False,
    message: str = MESSAGE,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishResult:
    """Publish a folder of weights, and prove that what arrived is what was sent.

    Args:
        folder: holds the files that `check_folder` asks for.
        repo_id: "user/name"; created if it does not exist.
        revision: branch to commit to; created from main if it does not exist.
        private: make a new repository private.
        message: first line of the commit.
        endpoint: URL of the Hub; None for `HF_ENDPOINT` or huggingface.co.
        token: Hub token with write permission; None for the one of this machine.

    Raises:
        PublishError: saying what to do next. A failed upload leaves no half commit.
        WeightsError: when the folder's weights do not load strictly.
    """
    source = Path(folder)
    files = check_folder(source)
    if repo_id not in files[CARD_NAME].read_text(encoding="utf-8"):
        log.warning(
            "%s does not say how to load %s; `python -m train card --repo-id %s` writes that",
            CARD_NAME,
            repo_id,
            repo_id,
        )
    api = connect(repo_id, endpoint=endpoint, token=token)
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
        validate_card(api, source / CARD_NAME)
        size = sum(path.stat().st_size for path in files.values())
        log.info("%d files, %.1f MB -> %s, branch %s", len(files), size / 1e6, repo_id, revision)
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _check_visibility(api, repo_id, private)
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit, changed = push(
            api,
            repo_id,
            files,
            message=message,
            revision=revision,
            # An ONNX file or a table that is gone here would be of other weights there.
            owned=("figures/*", ONNX_NAME, AUDIT_NAME),
        )
        log.info("committed %s" if changed else "nothing has changed since %s", commit)
        _verify(api, repo_id, commit, source)
    log.info("loaded back at that commit: logits equal, bit for bit")
    return PublishResult(repo_id, commit, changed, f"{api.endpoint}/{repo_id}/tree/{commit}")


def log_plan(files: Mapping[str, Path]) -> None:
    """List what would be uploaded, with sizes in bytes."""
    sizes = {path: local.stat().st_size for path, local in files.items()}
    for path, size in (*sizes.items(), ("total", sum(sizes.values()))):
        log.info("%12s  %s", f"{size:,}", path)


def guarded(action: Callable[[], object]) -> int:
    """Run a command line's action; a known failure becomes one message on stderr.

    Returns:
        The exit status: 0, 1 for a failure, 130 when interrupted.
    """
    try:
        action()
    except FaceAttrError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"Interrupted. {AGAIN}\n")
        return 130
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `python -m train publish`."""
    parser.add_argument(
        "folder", type=Path, help=f"folder with {', '.join(REQUIRED)} and, if any, figures/"
    )
    parser.add_argument("--repo-id", required=True, metavar="USER/NAME", help="model repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--revision", default="main", metavar="BRANCH", help="branch to commit to (default: main)"
    )
    parser.add_argument(
        "--message", default=MESSAGE, help="first line of the commit (default: %(default)r)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="do the local checks and list what would be uploaded; nothing is sent",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out `python -m train publish`; returns the exit status."""

    def action() -> None:
        if args.dry_run:
            log_plan(check_folder(args.folder))
            log.info("dry run: the folder is in order; nothing was sent to %s", args.repo_id)
            return
        result = publish(
            args.folder,
            args.repo_id,
            revision=args.revision,
            private=args.private,
            message=args.message,
        )
        log.info("%s", result.url)
        log.info("pin it: from_pretrained(%r, revision=%r)", result.repo_id, result.commit)

    return guarded(action)
