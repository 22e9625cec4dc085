"""The endpoints of version 1: what each takes and answers, for the routes and their description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faceattr import labels

API = "/api/v1/"


@dataclass(frozen=True)
class Endpoint:
    """One that takes a form.

    Attributes:
        field: form field of its image, or images.
        options: its other form fields.
        summary: what it answers with.
    """

    field: str
    options: tuple[str, ...]
    summary: str


ENDPOINTS = {
    "predict": Endpoint(
        "picture",
        ("detector", "min_face"),
        "Faces of one picture, largest first: box, score, landmarks and, for perceived gender, "
        "age and race, label, calibrated probabilities and whether the answer is unsure.",
    ),
    "predict_batch": Endpoint(
        "pictures",
        ("detector", "min_face"),
        "The same for several pictures: one entry each, with a result or an error in place.",
    ),
    "classify_crop": Endpoint(
        "picture", (), "An already cropped face, the eyes at 0.3 of its height; no detector."
    ),
    "explain": Endpoint(
        "picture",
        ("task",),
        "Heat map of one answer on a cropped face. Task: gender, age or race.",
    ),
}
MODEL_INFO = "Weights, revision, classes, thresholds, accuracy, licence and limits."


def openapi(version: str, detectors: list[str], max_batch: int) -> dict[str, Any]:
    """A description of plain HTTP as OpenAPI 3.1.

    Args:
        version: of the software.
        detectors: that a request may ask for.
        max_batch: images of one batch.
    """
    error = {"description": "refused; `kind` says why", "content": _json(_ref("Error"))}
    paths: dict[str, Any] = {}
    for name, endpoint in ENDPOINTS.items():
        form = _form(endpoint, detectors, max_batch)
        answer = {"description": "answered", "content": _json(_ref(name))}
        paths[API + name] = {
            "post": {
                "operationId": name,
                "summary": endpoint.summary,
                "requestBody": {"required": True, "content": {"multipart/form-data": form}},
                "responses": {"200": answer, "default": error},
            }
        }
    for path, name, summary in (
        (f"{API}model_info", "model_info", MODEL_INFO),
        ("/health", "health", "Whether the server answers, 200, or is about to stop, 503."),
    ):
        answer = {"description": "answered", "content": _json({"type": "object"})}
        get = {"operationId": name, "summary": summary, "responses": {"200": answer}}
        paths[path] = {"get": get}
    return {
        "openapi": "3.1.0",
        "info": {"title": "faceattr", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }


def _form(endpoint: Endpoint, detectors: list[str], max_batch: int) -> dict[str, Any]:
    image: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
    if endpoint.field == "pictures":
        image = {"type": "array", "items": image, "minItems": 1, "maxItems": max_batch}
    options = {
        "detector": {"enum": ["default", *detectors], "default": "default"},
        "min_face": {
            "type": "number",
            "minimum": 0,
            "default": 0,
            "description": "least width of a face in pixels",
        },
        "task": {"enum": [task.name for task in labels.TASKS]},
    }
    properties = {endpoint.field: image, **{name: options[name] for name in endpoint.options}}
    required = [endpoint.field, *(["task"] if "task" in endpoint.options else [])]
    schema = {**_object(**properties), "required": required, "additionalProperties": False}
    return {"schema": schema}


def _schemas() -> dict[str, Any]:
    number, text, flag = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
    maybe = {"type": ["string", "null"]}
    head = {"api_version": text, "faceattr": text, "model": text, "revision": maybe}
    head["detector"] = maybe
    found = {"width": number, "height": number, "truncated": flag, "faces": _list(_ref("Face"))}
    timing = {"timing_ms": _object(decode=number, predict=number)}
    attribute = _object(
        label=text, display_label=text, probability=number, unsure=flag, probabilities=_map(number)
    )
    point = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
    face = _object(
        number={"type": "integer"},
        box=_object(x=number, y=number, width=number, height=number),
        score={"type": ["number", "null"]},
        detector=maybe,
        landmarks={"anyOf": [_map(point), {"type": "null"}]},
        **{task.name: _ref("Attribute") for task in labels.TASKS},
    )
    entry = _object(index={"type": "integer"}, error={"anyOf": [_ref("Reason"), {"type": "null"}]})
    entry["properties"] |= found
    explained = {"task": text, "label": text, "display_label": text, "probability": number}
    return {
        "Attribute": attribute,
        "Face": face,
        "Reason": _object(kind=text, message=text),
        "Error": _object(api_version=text, error=_ref("Reason"), detail=text),
        "predict": _object(**head, **found, **timing),
        "predict_batch": _object(**head, pictures=_list(entry), **timing),
        "classify_crop": _object(**head, **found, **timing),
        "explain": _object(**head, **explained, largest_drop=number, heat_map=text, note=text),
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties)}


def _map(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
