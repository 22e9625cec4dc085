"""The page: a picture in, every face with its perceived attributes and confidence bars out.

Run `python app.py`; `--help` lists the environment variables that set it up. What pictures go
through is in `page/`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence

from faceattr.errors import FaceAttrError, WeightsError
from faceattr.pipeline import FacePipeline

log = logging.getLogger("faceattr")

VARIABLES = {
    "FACEATTR_MODEL": "Hub id or folder of weights (those in this repository)",
    "FACEATTR_REVISION": "commit of the Hub repository (its newest)",
    "FACEATTR_DETECTOR": "auto, yunet or haar (auto)",
    "GRADIO_SERVER_NAME": "address to serve on (127.0.0.1)",
    "GRADIO_SERVER_PORT": "port to serve on (7860)",
}
"""What each variable sets, and its default."""


def load_pipeline() -> tuple[FacePipeline, str | None]:
    """The pipeline that the environment asks for, and a note when it is another one.

    ONNX Runtime runs the network where it is installed: it is faster, and the page starts
    without PyTorch.

    Raises:
        ValueError: for a revision of no repository.
    """
    model = os.environ.get("FACEATTR_MODEL") or None
    revision = os.environ.get("FACEATTR_REVISION") or None
    detector = os.environ.get("FACEATTR_DETECTOR") or "auto"
    if revision and not model:
        raise ValueError(
            f"FACEATTR_REVISION: expected with FACEATTR_MODEL only, came {revision!r}; "
            "set FACEATTR_MODEL to the Hub repository it belongs to, or leave it out"
        )
    try:
        pipeline = FacePipeline.from_pretrained(model, revision, detector=detector, backend="auto")
    except WeightsError as error:
        if model is None:
            raise
        fallback = FacePipeline.from_pretrained(detector=detector, backend="auto")
        log.warning("FACEATTR_MODEL could not be loaded: %s", error)
        return fallback, "The configured weights could not be loaded; these are the bundled ones."
    return pipeline, None


def address() -> tuple[str, int]:
    """Host and port to serve on.

    Raises:
        ValueError: for what is no port.
    """
    port = os.environ.get("GRADIO_SERVER_PORT") or "7860"
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(
            f"GRADIO_SERVER_PORT: expected a whole number from 0 to 65535, came {port!r}"
        )
    return os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", int(port)


def read_arguments(words: Sequence[str]) -> None:
    """Print the help where it is asked for, and refuse anything else.

    Raises:
        SystemExit: in both cases.
    """
    from page.limits import Limits, variable

    limits = {variable(name): f"{value:,}" for name, value in vars(Limits()).items()}
    width = max(map(len, limits | VARIABLES)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in VARIABLES.items()]
    lines += ["", "limits, with their defaults (docs/api.md says what each bounds):"]
    lines += [f"  {name:<{width}}{text}" for name, text in limits.items()]
    parser = argparse.ArgumentParser(
        prog="python app.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Serve the page and its API until interrupted.",
        epilog="\n".join(["environment variables, with their defaults:", *lines]),
    )
    if unknown := parser.parse_known_args(words)[1]:
        parser.error(
            f"expected no arguments, came {' '.join(unknown)}; settings are environment variables, "
            "which python app.py --help lists"
        )


def main(argv: Sequence[str] = ()) -> None:
    """Serve the page until interrupted."""
    from page.limits import Limits

    read_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        limits = Limits.from_env(os.environ)
        host, port = address()
        pipeline, note = load_pipeline()
    except (FaceAttrError, ValueError) as error:
        sys.exit(f"error: {error}")
    # For files of Gradio's own, and of matplotlib, which it imports where there is one; no image of
    # a visitor gets there. Gradio makes folders, and reads the port, while it is imported.
    with tempfile.TemporaryDirectory(prefix="faceattr-") as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        os.environ.setdefault("MPLCONFIGDIR", folder)
        from page.server import Site, bind, make_server
        from page.service import FaceService

        try:
            at = bind(host, port)
        except ValueError as error:
            sys.exit(f"error: {error}")
        server = make_server(Site(FaceService(pipeline, limits, note=note)))
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving on http://{shown}:{at.getsockname()[1]}", flush=True)  # noqa: T201
        # A second Ctrl-C stops at once.
        with contextlib.suppress(KeyboardInterrupt):
            server.run([at])


if __name__ == "__main__":
    main(sys.argv[1:])
