#!/usr/bin/env python3
"""Create or update the Gradio Space that serves app.py, with exactly the files it needs."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from huggingface_hub import HfApi, SpaceCard  # noqa: E402

from faceattr.config import CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME  # noqa: E402
from faceattr.errors import FaceAttrError  # noqa: E402
from faceattr.hub import DEFAULT_MODEL  # noqa: E402
from faceattr.publishing import (  # noqa: E402
    PublishError,
    connect,
    hub_errors,
    load_card,
    log_plan,
    push,
    stage,
)
from faceattr.saving import CARD_NAME  # noqa: E402

TOP_LEVEL = ("app.py", "requirements.txt", "LICENSE")
PACKAGES = ("faceattr", "page")
SPACE_CARD = "page/space.md"
"""What becomes the Space's README.md; its front matter is what the Hub starts the Space by."""
NEEDED = (
    *TOP_LEVEL,
    SPACE_CARD,
    "faceattr/__init__.py",
    *(f"faceattr/weights/{DEFAULT_MODEL}/{n}" for n in (CONFIG_NAME, ONNX_NAME, WEIGHTS_NAME)),
    "page/__init__.py",
)

log = logging.getLogger("faceattr")


def space_files(root: Path) -> dict[str, Path]:
    """The files of the Space by their path in it: the page, the packages with weights, the card.

    Raises:
        PublishError: naming what is missing, or a card that describes no Gradio Space.
    """
    if missing := [name for name in NEEDED if not (root / name).is_file()]:
        raise PublishError(f"{root} lacks {', '.join(missing)}; a Space cannot start without")
    card = load_card(root / SPACE_CARD, SpaceCard).data.to_dict()
    if card.get("sdk") != "gradio" or card.get("app_file") != "app.py":
        raise PublishError(
            f"{SPACE_CARD} must say `sdk: gradio` and `app_file: app.py`; "
            f"it says {card.get('sdk')!r} and {card.get('app_file')!r}"
        )
    paths = [root / name for name in TOP_LEVEL]
    paths += [p for name in PACKAGES for p in sorted((root / name).rglob("*")) if p.is_file()]
    files = {p.relative_to(root).as_posix(): p for p in paths if "__pycache__" not in p.parts}
    return files | {CARD_NAME: files.pop(SPACE_CARD)}


def pin(api: HfApi, model: str, revision: str | None) -> dict[str, str]:
    """Space variables that name a model repository and the full commit hash of `revision`."""
    commit = api.model_info(model, revision=revision).sha
    return {"FACEATTR_MODEL": model, "FACEATTR_REVISION": str(commit)}


def deploy(
    root: Path,
    repo_id: str,
    *,
    model: str | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Bring a Space up to date; it restarts only when something has changed.

    Args:
        root: checkout to deploy.
        repo_id: the Space, "user/name"; created if it does not exist.
        model: Hub repository of the weights; None leaves the Space's variables as they are, so
            that a new Space uses the weights in the package.
        revision: branch, tag or commit of `model`; the commit it stands for now is pinned.
        endpoint: as in `connect`, as is the token.
        token: with write permission.

    Returns:
        The hash of the Space's commit; errors say what to do next.
    """
    files = space_files(root)
    api = connect(repo_id, endpoint=endpoint, token=token)
    wanted: dict[str, str] = {}
    if model is not None:
        with hub_errors(model):
            wanted = pin(api, model, revision)
    with hub_errors(repo_id):
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
        current = api.get_space_variables(repo_id) if wanted else {}
        for key, value in wanted.items():
            if key not in current or current[key].value != value:
                api.add_space_variable(repo_id, key, value)
                log.info("%s = %s", key, value)
        message = "Update the page and the package"
        owned = tuple(f"{name}/*" for name in PACKAGES)
        with tempfile.TemporaryDirectory() as scratch:
            staged = stage(files, Path(scratch))
            commit, changed = push(
                api, repo_id, staged, message=message, repo_type="space", owned=owned
            )
    log.info("committed %s" if changed else "nothing has changed since %s", commit)
    log.info("%s/spaces/%s", api.endpoint, repo_id)
    return commit


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo-id", required=True, metavar="USER/NAME", help="the Space")
    parser.add_argument("--model", metavar="USER/NAME", help="whose weights, if not the package's")
    parser.add_argument("--revision", help="of --model, to pin (default: the newest commit)")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded")
    args = parser.parse_args(argv)
    if args.revision and not args.model:
        parser.error("--revision belongs to --model, which is missing")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        if args.dry_run:
            log_plan(space_files(ROOT))
        else:
            deploy(ROOT, args.repo_id, model=args.model, revision=args.revision)
    except FaceAttrError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
