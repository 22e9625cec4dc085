#!/usr/bin/env python3
"""Write docs/api.md from a running server: its schema, its answers, its limits, its errors."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import urllib.request
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from faceattr.pipeline import FacePipeline  # noqa: E402
from page.admission.json_body import MAX_REST  # noqa: E402
from page.errors import STATUS  # noqa: E402
from page.limits import Limits  # noqa: E402
from page.server import running  # noqa: E402
from page.service import API_VERSION, FaceService  # noqa: E402
from page.view.examples import FOLDER  # noqa: E402
from page.view.snippets import AGENT_PYTHON, AGENTS, GRADIO_CURL, SNIPPETS  # noqa: E402

TARGET = ROOT / "docs" / "api.md"

FIELDS = {
    "api_version": "changes when a field changes its meaning or goes; new fields may come",
    "faceattr": "version of the software",
    "model": "Hub id, folder or name of the weights",
    "revision": "commit of the Hub repository; null for local weights",
    "detector": "which one looked: yunet or haar; null or none where none did",
    "width": "of the upright picture in pixels",
    "height": "of the upright picture in pixels",
    "truncated": "whether there were more faces than `max_faces`",
    "faces": "largest first; empty when none was found",
    "faces[].number": "from 1, as on the page's picture",
    "faces[].box": "in pixels of the upright picture (EXIF orientation applied)",
    "faces[].box.x": "left edge",
    "faces[].box.y": "top edge",
    "faces[].box.width": "it may reach past the picture's edge",
    "faces[].box.height": "it may reach past the picture's edge",
    "faces[].score": "confidence: YuNet 0 to 1, Haar a number of hits; null for crops",
    "faces[].detector": "null for crops",
    "faces[].landmarks": "five points `[x, y]` by name, or null where the detector gives none",
    "faces[].turn": "degrees clockwise by which the image had to be turned: 0, 90, 180 or 270",
    "faces[].crop_note": "what is wrong with a crop that was handed in, or null",
    "faces[].gender": "perceived gender; `age` and `race` look the same",
    "faces[].gender.label": "the most probable class",
    "faces[].gender.display_label": "the same for people, e.g. 70+",
    "faces[].gender.probability": "its calibrated probability, 0 to 1",
    "faces[].gender.unsure": "whether that lies below the threshold in `/model_info`",
    "faces[].gender.probabilities": "of every class, in the order of `/model_info`",
    "faces[].age": "perceived age group in years",
    "faces[].race": "perceived race in FairFace's seven groups",
    "faces[].age_range": "the fewest neighbouring age groups that together are likely",
    "faces[].age_range.label": "the range for people, e.g. 20-39 or 60+",
    "faces[].age_range.first_year": "youngest age in it",
    "faces[].age_range.last_year": "oldest age in it, or null where it has no end",
    "faces[].age_range.groups": "its groups, youngest first",
    "faces[].age_range.probability": "of all of them together, at least 0.8",
    "faces[].age_range.may_be_under_20": "true: do not take this face for an adult's",
    "timing_ms.decode": "reading the picture, in milliseconds",
    "timing_ms.predict": "finding and classifying, in milliseconds",
}
"""Meaning of each field of `/predict`; `_rows` holds it against a real answer."""
NULLABLE = {
    "revision": "string or null",
    "detector": "string or null",
    "faces[].score": "number or null",
    "faces[].detector": "string or null",
    "faces[].crop_note": "string or null",
    "faces[].landmarks": "object or null",
    "faces[].age_range.last_year": "number or null",
}

PURPOSE = {
    "bad_request": "the request lacks something or asks for something unknown",
    "not_found": "there is no such endpoint under `/api/v1/`",
    "not_allowed": "the endpoint wants `POST`",
    "too_large": "the file, the request or its JSON beside images has too many bytes",
    "too_slow": "the request's body did not come within the time for it",
    "too_much": "the server holds as many bytes of pictures as it may: try again in a moment",
    "bad_picture": "the file is no picture that is read, is damaged, or has too many pixels",
    "busy": "the queue is full: try again in a moment; `Retry-After` says when",
    "timeout": "no answer within the time limit",
    "internal": "an error of the server; its log says which",
}

PACKAGES = (
    (
        "onnxruntime",
        "events of sessions and a device id, on by default; look-ups of its maker's collector",
        "`ORT_DISABLE_TELEMETRY=1` before its import and its own switch, set by `faceattr`",
    ),
    (
        "gradio",
        "starts, errors and a look for newer versions",
        "`GRADIO_ANALYTICS_ENABLED=False` and `analytics_enabled=False`, set by the page; no share "
        "link, no run history",
    ),
    (
        "huggingface_hub",
        "versions of Python and libraries in the head of a request to the Hub",
        "bundled weights ask no Hub; `HF_HUB_DISABLE_TELEMETRY=1` shortens the head",
    ),
    (
        "datasets",
        "as huggingface_hub, when a data set of the Hub is opened",
        "local files ask no Hub",
    ),
    (
        "ray",
        "usage statistics of a cluster, hourly",
        "`RAY_USAGE_STATS_ENABLED=0`, set by the audit before it starts Ray",
    ),
    ("mcp, opencv, matplotlib, fastapi, uvicorn", "nothing", "matplotlib caches a list of fonts"),
)
"""What each dependency would send, and how it is off."""


def _get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.loads(answer.read())


def _post(url: str, content: bytes) -> Any:
    edge = "e"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="picture"; filename="p"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        return json.loads(answer.read())


def _paths(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """All fields of an answer; lists by their first entry."""
    found = []
    for name, item in value.items():
        here = f"{path}{name}"
        found.append((here, item))
        if isinstance(item, dict):
            found += _paths(item, f"{here}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            found += _paths(item[0], f"{here}[].")
    return found


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "str": "string", "bool": "true or false", "dict": "object"}
    name = type(value).__name__
    return names.get(name, {"int": "number", "float": "number", "list": "list"}.get(name, name))


def _rows(answer: dict[str, Any]) -> str:
    kinds = dict(_paths(answer))
    if missing := sorted(set(FIELDS) - set(kinds)):
        raise SystemExit(f"the answer of /predict lacks {missing}; correct FIELDS")
    lines = ["| Field | Type | Meaning |", "|---|---|---|"]
    for path, meaning in FIELDS.items():
        lines.append(f"| `{path}` | {NULLABLE.get(path) or _kind(kinds[path])} | {meaning} |")
    return "\n".join(lines)


def _endpoint(name: str, info: dict[str, Any]) -> str:
    lines = [f"### `{name}`", "", info["description"], ""]
    for parameter in info["parameters"]:
        default = ""
        if parameter["parameter_has_default"]:
            default = f", default `{json.dumps(parameter['parameter_default'])}`"
        kind = parameter["type"].get("type", "")
        is_file = "meta" in json.dumps(parameter["type"])
        shown = {"array": "list of pictures", "object": "picture"}[kind] if is_file else kind
        lines.append(f"- `{parameter['parameter_name']}`: {shown}{default}")
    return "\n".join(lines).rstrip() + "\n"


def _limits() -> str:
    lines = ["| Variable | Default | What it bounds |", "|---|---|---|"]
    for item in fields(Limits):
        default = item.default
        shown = f"{default:,}" if isinstance(default, int) and default > 1 else default
        lines.append(f"| `{item.metadata['variable']}` | {shown} | {item.metadata['meaning']} |")
    return "\n".join(lines)


def _packages() -> str:
    return "\n".join(f"| {name} | {sends} | {off} |" for name, sends, off in PACKAGES)


def _errors() -> str:
    lines = ["| `kind` | HTTP | When |", "|---|---|---|"]
    lines += [f"| `{kind}` | {status} | {PURPOSE[kind]} |" for kind, status in STATUS.items()]
    return "\n".join(lines)


def _short(answer: dict[str, Any]) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)


def document(url: str) -> str:
    """The whole file, from the server at `url`."""
    schema = _get(f"{url}gradio_api/info")["named_endpoints"]
    example = _post(f"{url}api/v1/predict", FOLDER.joinpath("collins.jpg").read_bytes())
    endpoints = "\n".join(_endpoint(name, info) for name, info in schema.items())
    names = {"Python": "python", "curl": "bash", "JavaScript": "js"}
    snippets = "\n\n".join(
        f"**{name}**\n\n```{names[name]}\n{code}```" for name, code in SNIPPETS.items()
    )
    return f"""<!-- Written by scripts/write_api_docs.py; change that. -->
# The API

Version {API_VERSION}. `python app.py` serves it with the page; a Space has it at its own address.
The same answers come in three ways:

- **plain HTTP**: `POST /api/v1/<endpoint>` with a form (multipart), one request, errors as HTTP
  status; `GET /api/v1/model_info`; described by `GET /api/v1/openapi.json`; open to browsers on
  other sites (CORS), as no cookie or key decides about an answer;
- **Gradio's protocol**: for its Python and JavaScript clients, which upload files themselves;
- **tools for agents**: the Model Context Protocol, see [below](#tools-for-agents).

{snippets}

Gradio's protocol without a client takes two steps; the picture is an uploaded file (`POST
/gradio_api/upload`, each upload can be used once) or a `data:` URL:

```bash
{GRADIO_CURL}```

## Endpoints

{endpoints}
In plain HTTP the picture is the form field `picture` (`pictures`, repeated, for a batch) and the
other parameters are form fields of the same name; a field that is not known is refused. `detector`
is `default` or one of `/model_info`'s `detectors`; `min_face` is the least width of a face in
pixels. `/model_info`'s `backend` says what runs the network: `torch` or `onnx`.

## Tools for agents

Where the package `mcp` is installed (`pip install '.[mcp]'`), `/gradio_api/mcp/` serves `predict`,
`predict_batch`, `classify_crop` and `model_info` as tools (Model Context Protocol, streamable HTTP,
no sessions). Agents are pointed to it by

```json
{AGENTS}```

and programs call it so:

```python
{AGENT_PYTHON}```

Arguments have the names of the endpoints' parameters; a picture is a `data:` URL or the path that
`POST /gradio_api/upload` answered with. The result is the endpoint's JSON, as text and as
structured content; an error has `isError` set and reads `kind: message`. All limits hold.

## Answer of `/predict`

{_rows(example)}

`/predict_batch` answers with `pictures`: for each picture its `index`, `error` (null, or an object
as below) and, without an error, the fields from `width` to `faces`. `/classify_crop` answers as
`/predict` with one face, the whole picture. `/explain` answers with `label`, `probability`,
`largest_drop` (how far the probability falls at most while a patch is covered) and `heat_map`, a
`data:` URL.

The example is `page/view/static/examples/collins.jpg`, a portrait by NASA:

<details><summary>Example</summary>

```json
{_short(example)}
```
</details>

## Errors

Plain HTTP: `{{"api_version": "1", "error": {{"kind": …, "message": …}}, "detail": …}}`. In Gradio's
protocol the event `error` carries the message as `error` and the kind as `title`; a full queue
answers the first step with HTTP 503, which its clients report as a full queue.

{_errors()}

## Limits

They hold for every way in, and an environment variable changes each.

{_limits()}

A picture is JPEG, PNG, WebP, BMP, GIF, TIFF or AVIF; of several frames the first is used. Addresses
(`http://…`) are refused: a server that fetches what strangers name can be sent anywhere. JSON may
have {MAX_REST:,} bytes beside its `data:` URLs. `GET /health` answers 200, or 503 while the server
stops.

What the limits hold off: [results/attacks.json](results/attacks.json), by `scripts/attack_page.py`.

## Behind a proxy

At a path of its own (`https://example.org/faces/`), the proxy strips that path and says so in
`X-Forwarded-Prefix: /faces`; or set `GRADIO_ROOT_PATH=/faces`. `X-Forwarded-Host` and
`X-Forwarded-Proto` are followed, too. The proxy should not buffer answers (nginx:
`proxy_buffering off`) and should pass bodies of {Limits().max_request_bytes / 1e6:g} MB.

## Privacy

Uploads stay in memory until their request has read them, unused ones two minutes; no image is
written to a disk or a log, and no result is kept. Nothing is sent anywhere, by the page, the
library or the command line, except what you ask for: weights by a Hub id, and pushing them. A test
watches a prediction in a fresh home: no look-up of a name, no connection beyond this machine, no
file.

| Package | What it would send | Off by |
|---|---|---|
{_packages()}

The page loads nothing from other sites: scripts, styles and fonts come from this server.
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=TARGET)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # The cascades come with OpenCV, so that the file is the same on every machine.
        with running(FaceService(FacePipeline.from_pretrained(detector="haar"))) as (url, _):
            output.write_text(document(url), encoding="utf-8")


if __name__ == "__main__":
    main()
