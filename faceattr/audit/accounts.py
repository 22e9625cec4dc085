"""What was read, found and left out, in numbers; by group where there are groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceattr.audit.collected import FLAGS, Collected
from faceattr.audit.measures import LEAST_COUNT
from faceattr.audit.render import percent
from faceattr.labels import TASKS


def counts(found: Collected) -> dict[str, Any]:
    """JSON-ready counts of the whole collection."""
    return _counts(
        found, np.ones(found.images, np.bool_), np.ones(found.faces, np.bool_), found.failed
    )


def _counts(
    found: Collected,
    images: NDArray[np.bool_],
    faces: NDArray[np.bool_],
    failed: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    number = found.faces_of[images]
    values: dict[str, Any] = {
        "images": int(images.sum()),
        "failed": int((number < 0).sum()),
        "without_face": int((number == 0).sum()),
        "several_faces": int((number > 1).sum()),
        "faces": int(faces.sum()),
        "flags": {name: int(found.flags[name][faces].sum()) for name in FLAGS},
        "unsure": {task.name: int(found.unsure[task.name][faces].sum()) for task in TASKS},
    }
    if failed is not None:
        values["failed_by_kind"] = dict(failed)
    return values


def counts_by_group(found: Collected) -> dict[str, dict[str, Any]]:
    """The same by group, in the order of their names."""
    if not found.groups:
        return {}
    face_group = found.face_group()
    return {
        name: _counts(found, found.group == position, face_group == position)
        for position, name in enumerate(found.groups)
    }


def left_out(
    whole: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]], column: str | None
) -> dict[str, Any]:
    """The table of what is in no share or uncertain; cells are text."""
    rows = [{"name": "all", "cells": _cells(whole)}]
    rows += [{"name": name, "cells": _cells(values)} for name, values in groups.items()]
    columns = ["images", "not read", "no face", "faces", "small", "blurred", "cut"]
    columns += [f"unsure {task.name}" for task in TASKS]
    return {"corner": column or "collection", "columns": columns, "rows": rows}


def _cells(values: Mapping[str, Any]) -> list[str]:
    images, faces = values["images"], values["faces"]
    return [
        f"{images:,}",
        _of(values["failed"], images),
        _of(values["without_face"], images),
        f"{faces:,}",
        *(_of(values["flags"][name], faces) for name in FLAGS),
        *(_of(values["unsure"][task.name], faces) for task in TASKS),
    ]


def _of(part: int, whole: int) -> str:
    if whole == 0 or part == 0:
        return f"{part:,}"
    return f"{part:,} ({percent(part / whole)})"


def failures(found: Collected) -> list[dict[str, Any]]:
    """Kinds of failure with an example each."""
    return [
        {
            "kind": kind,
            "images": number,
            "id": found.messages[kind][0],
            "message": found.messages[kind][1],
        }
        for kind, number in found.failed.items()
    ]


def warnings(found: Collected, by_group: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a reader has to know before the shares."""
    said = []
    if not found.has_images:
        said.append(
            {
                "title": "Images without a face are not known.",
                "text": "Only a table of faces was given, so nothing is said of what was left out.",
            }
        )
    read = found.images - sum(found.failed.values())
    if found.images and read == 0:
        said.append({"title": "No image could be read.", "text": "The kinds of failure are below."})
    elif read < 0.95 * found.images:
        said.append(
            {
                "title": f"{percent(1 - read / found.images)} of the images could not be read.",
                "text": "If they differ from the others, every share is off; the kinds are below.",
            }
        )
    rates = {
        name: values["without_face"] / (values["images"] - values["failed"])
        for name, values in by_group.items()
        if values["images"] - values["failed"] >= LEAST_COUNT
    }
    if rates and max(rates.values()) - min(rates.values()) > 0.05:
        most, least = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
        said.append(
            {
                "title": "Groups differ in how often no face was found:",
                "text": f"{most} {percent(rates[most])}, {least} {percent(rates[least])}. Shares "
                "of groups may differ for this alone.",
            }
        )
    return said
