"""Weights to one commit of a Hub repository, proven by loading them back.

`FacePipeline` and `FaceAttributeModel` push themselves through here, and so does
`python -m train publish`. Needs no PyTorch where there is `model.onnx`.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import yaml  # type: ignore[import-untyped]
from huggingface_hub import HfApi, ModelCard, RepoCard, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from numpy.typing import NDArray

from faceattr import labels
from faceattr.audit.calibration import AUDIT_NAME
from faceattr.backends.onnx import OnnxClassifier
from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME, ModelConfig
from faceattr.errors import FaceAttrError, WeightsError, said_of
from faceattr.hub import find_weights
from faceattr.saving import CARD_NAME, REPORT_NAME

OWNED = ("figures/*", WEIGHTS_NAME, ONNX_NAME, REPORT_NAME, AUDIT_NAME)
"""Paths in a repository that are ours: what is gone here would there be of other weights."""
MESSAGE = "Publish weights"

log = logging.getLogger("faceattr")

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


def log_plan(files: Mapping[str, Path]) -> None:
    """List what would be uploaded, with sizes in bytes."""
    sizes = {path: local.stat().st_size for path, local in files.items()}
    for path, size in (*sizes.items(), ("total", sum(sizes.values()))):
        log.info("%12s  %s", f"{size:,}", path)


def publish_files(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    revision: str = "main",
    private: bool = False,
    message: str = MESSAGE,
    endpoint: str | None = None,
    token: str | None = None,
) -> PublishResult:
    """Publish weights and what belongs to them, and prove that what arrived is what was sent.

    Args:
        files: by path in the repository; with a card and with weights that load. The card's
            snippet is made to load the repository itself.
        repo_id: "user/name"; created if it does not exist.
        revision: branch to commit to; created from main if it does not exist.
        private: make a new repository private.
        message: first line of the commit.
        endpoint: URL of the Hub; None for `HF_ENDPOINT` or huggingface.co.
        token: Hub token with write permission; None for the one of this machine.

    Raises:
        PublishError: saying what to do next. A failed upload leaves no half commit.
    """
    api = connect(repo_id, endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as scratch, hub_errors(repo_id):
        validate_repo_id(repo_id)
        staged = stage(files, Path(scratch))
        card = staged / CARD_NAME
        card.write_text(_addressed(card.read_text(encoding="utf-8"), repo_id), encoding="utf-8")
        validate_card(api, card)
        size = sum((staged / name).stat().st_size for name in files)
        log.info("%d files, %.1f MB -> %s, branch %s", len(files), size / 1e6, repo_id, revision)
        expected = golden_answers(staged)
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _check_visibility(api, repo_id, private)
        if revision != "main":
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit, changed = push(api, repo_id, staged, message=message, revision=revision)
        log.info("committed %s" if changed else "nothing has changed since %s", commit)
        _verify(api, repo_id, commit, _answering_file(staged), expected)
    log.info("loaded back at that commit: answers equal, bit for bit")
    return PublishResult(repo_id, commit, changed, f"{api.endpoint}/{repo_id}/tree/{commit}")


def stage(files: Mapping[str, Path], folder: Path) -> Path:
    """Copies of the files, laid out as in the repository."""
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


def _addressed(card: str, repo_id: str) -> str:
    """A card whose snippet loads `repo_id`, whatever folder or repository it named before."""
    return re.sub(r'(from_pretrained\(\s*")[^"]*/[^"]*(")', rf"\g<1>{repo_id}\g<2>", card)


def push(
    api: HfApi,
    repo_id: str,
    folder: Path,
    *,
    message: str,
    repo_type: str = "model",
    revision: str = "main",
    owned: tuple[str, ...] = OWNED,
) -> tuple[str, bool]:
    """Bring a folder to an existing repository in one commit, or in none if it has all already.

    Args:
        api: a client from `connect`.
        repo_id: "user/name".
        folder: with exactly what is to be there.
        message: first line of the commit.
        repo_type: "model" or "space".
        revision: branch to commit to.
        owned: patterns of paths that belong to us alone: what matches there and is not in the
            folder is deleted. Other files in the repository stay.

    Returns:
        The hash of the commit that holds the files, and whether it is new.
    """
    before = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=message,
        repo_type=repo_type,
        revision=revision,
        parent_commit=before,
        delete_patterns=list(owned),
    )
    return commit.oid, commit.oid != before


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


def golden_answers(folder: Path) -> dict[str, NDArray[np.float32]]:
    """What the weights in `folder` answer by task for one fixed image of noise.

    Logits where PyTorch and its weights are at hand, otherwise the probabilities of `model.onnx`.
    """
    chip = np.random.default_rng(2026).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    if _answering_file(folder) == ONNX_NAME:
        exported = OnnxClassifier(find_weights(folder, file=ONNX_NAME))
        return exported.probabilities(exported.config.preprocessing.to_pixels([chip]))
    # Imported here: where there is no PyTorch, the other way is taken.
    from faceattr.model import load_model

    model = load_model(folder)
    logits = model(model.config.preprocessing.to_tensor([chip]))
    return {task: values.detach().numpy() for task, values in logits.items()}


def _answering_file(folder: Path) -> str:
    """Which file of weights in `folder` gives its golden answers."""
    by_torch = (folder / WEIGHTS_NAME).is_file() and find_spec("torch") is not None
    return WEIGHTS_NAME if by_torch else ONNX_NAME


def _verify(
    api: HfApi, repo_id: str, commit: str, weights: str, expected: Mapping[str, NDArray[np.float32]]
) -> None:
    """Load `weights` from the Hub at `commit`; the answers must be those expected, bit for bit."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in (CONFIG_NAME, weights):
            path = api.hf_hub_download(repo_id, name, revision=commit, cache_dir=scratch)
        try:
            published = golden_answers(Path(path).parent)
        except WeightsError as error:
            raise PublishError(f"{repo_id} at {commit} does not load: {error}") from error
    differing = [task for task in expected if not np.array_equal(expected[task], published[task])]
    if differing:
        raise PublishError(
            f"{repo_id} at {commit} gives other answers than what was sent for {differing}. "
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


def push_folder(
    folder: Path, repo_id: str, *, card: str | Path | None = None, **options: Any
) -> PublishResult:
    """Publish what `save_pipeline` or a network's `save_pretrained` wrote into a folder of ours.

    Args:
        folder: may be written to.
        repo_id: as `publish_files`.
        card: file to take as the card; by default the one in the folder, or else a short new one.
        options: as `publish_files`.

    Raises:
        PublishError: as `publish_files`, and for a card that cannot be read or has no metadata.
    """
    if card is not None:
        try:
            shutil.copyfile(card, folder / CARD_NAME)
        except OSError as error:
            raise PublishError(f"cannot read the card {str(card)!r}: {said_of(error)}") from error
    elif not (folder / CARD_NAME).is_file():
        config = ModelConfig.from_dict(json.loads((folder / CONFIG_NAME).read_text("utf-8")))
        text = short_card(config, repo_id)
        (folder / CARD_NAME).write_text(text, encoding="utf-8")
    load_card(folder / CARD_NAME, ModelCard)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    return publish_files(files, repo_id, **options)


def short_card(config: ModelConfig, repo_id: str) -> str:
    """A card that says how to load weights of which nothing was measured."""
    classes = "\n".join(
        f"- **{task.name}**: {', '.join(task.display_name(name) for name in task.classes)}"
        for task in labels.TASKS
    )
    return f"""---
library_name: faceattr
pipeline_tag: image-classification
tags:
- face
---

# {repo_id.rpartition("/")[2]}

Perceived gender, age group and race of aligned faces: `{config.architecture}` at
{config.preprocessing.image_size} pixels.

```python
from faceattr import FacePipeline

pipeline = FacePipeline.from_pretrained("{repo_id}")  # pin a commit with revision="..."
```

{classes}

Labels are how annotators perceived faces, not who people are. Nothing was measured with these
weights yet: do not rely on their accuracy.
"""
