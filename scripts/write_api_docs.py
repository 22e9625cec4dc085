#!/usr/bin/env python3
"""Write docs/api.md from the description of the API, an answer, the limits and the errors."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from faceattr.pipeline import FacePipeline  # noqa: E402
from page.endpoints import ENDPOINTS, SCHEMAS  # noqa: E402
from page.errors import STATUS  # noqa: E402
from page.limits import Limits  # noqa: E402
from page.service import API_VERSION, FaceService  # noqa: E402
from page.view.examples import FOLDER  # noqa: E402
from page.view.texts import filled  # noqa: E402

TARGET = ROOT / "docs" / "api.md"
KINDS = {"integer": "number", "boolean": "true or false", "array": "list"}


def kind(schema: dict[str, Any]) -> str:
    """The type of a value in words."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(KINDS.get(name, name) for name in types)


def described(schema: dict[str, Any], path: str, known: set[str]) -> Iterator[tuple[str, str, str]]:
    """Path, type and meaning of each field within; a schema that comes again is not repeated."""
    for name, field in schema.get("properties", {}).items():
        target = field.get("$ref", "").rpartition("/")[2]
        is_new, whole = target not in known, {**SCHEMAS.get(target, {}), **field}
        if "description" in whole:
            yield f"{path}{name}", kind(whole), whole["description"]
        if target and is_new:
            known.add(target)
        if is_new or not target:
            yield from described(whole, f"{path}{name}.", known)
        items = whole.get("items", {}).get("$ref", "").rpartition("/")[2]
        if items:
            yield from described(SCHEMAS[items], f"{path}{name}[].", known)


def document(service: FaceService) -> str:
    """The whole file, with an answer of this service."""
    example = service.predict(FOLDER.joinpath("collins.jpg").read_bytes())
    reasons = {one["const"]: one for one in SCHEMAS["Reason"]["properties"]["kind"]["oneOf"]}
    page = filled("use.md", limits=service.limits, endpoints=ENDPOINTS, tools=True)
    return filled(
        "api.md",
        version=API_VERSION,
        code=dict(re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)),
        endpoints=list(ENDPOINTS.values()),
        schemas=SCHEMAS,
        kind=kind,
        fields=list(described(SCHEMAS["predict"], "", set())),
        example=json.dumps(example, indent=2, ensure_ascii=False),
        errors=[(name, status, reasons[name]["description"]) for name, status in STATUS.items()],
        default={name: f"{value:,}" for name, value in vars(Limits()).items()},
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=TARGET)
    output = parser.parse_args().output
    service = FaceService(FacePipeline.from_pretrained())
    output.write_text(document(service) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
