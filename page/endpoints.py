"""The endpoints of version 1, as `openapi.json` describes them: for every way in and the docs."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from page.errors import RequestError

API = "/api/v1/"
DOCUMENT: dict[str, Any] = json.loads(files("page").joinpath("openapi.json").read_text("utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Attributes:
        name: of the service's method and of the last part of the address.
        field: what its image, or images, are called: "picture", "pictures", or "" for none.
        options: defaults of its other arguments; None where one is required.
        summary: what it answers with.
        description: the same in more words, for agents; "" where they do not get it.
    """

    name: str
    field: str
    options: dict[str, Any]
    summary: str
    description: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What stands for each argument, by name and in order, that a call leaves out."""
        if not self.field:
            return self.options
        return {self.field: [] if self.field == "pictures" else None, **self.options}


def _endpoint(entry: dict[str, Any]) -> Endpoint:
    form = entry.get("requestBody", {}).get("content", {}).get("multipart/form-data", {})
    field, *options = form.get("schema", {}).get("properties", {"": None})
    return Endpoint(
        name=entry["operationId"],
        field=field,
        options={name: SCHEMAS[name].get("default") for name in options},
        summary=entry["summary"],
        description=entry.get("description", ""),
    )


ENDPOINTS = {
    entry["operationId"]: _endpoint(entry)
    for path, methods in DOCUMENT["paths"].items()
    for entry in methods.values()
    if path.startswith(API)
}
"""All of version 1, by name."""


def checked(name: str, value: Any, known: Sequence[str] = ()) -> Any:
    """The value of an option, held against its schema.

    Args:
        name: of the option.
        value: as it came.
        known: what it may be where only the server knows.

    Raises:
        RequestError: "bad_request".
    """
    schema = SCHEMAS[name]
    if schema["type"] == "string":
        known = known or schema["enum"]
        if not isinstance(value, str) or value not in known:
            raise RequestError("bad_request", f"expected {name} as one of: {', '.join(known)}")
        return value
    least, most = schema["minimum"], schema["maximum"]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):
        raise RequestError("bad_request", f"expected {name} as a number from {least} to {most}")
    return value


def openapi(version: str, detectors: list[str], max_batch: int) -> dict[str, Any]:
    """The description of plain HTTP as this server has it, as OpenAPI 3.1.

    Args:
        version: of the software.
        detectors: that a request may ask for.
        max_batch: images of one batch.
    """
    document = copy.deepcopy(DOCUMENT)
    document["info"]["version"] = version
    schemas = document["components"]["schemas"]
    schemas["detector"]["enum"] = ["default", *detectors]
    schemas["pictures"]["maxItems"] = max_batch
    return document
