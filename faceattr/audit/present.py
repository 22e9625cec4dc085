"""Statistics as a report shows them: JSON-ready tables with names, intervals and marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from faceattr.audit.accounts import LEAST
from faceattr.audit.answers import Axis
from faceattr.audit.prevalence import Estimates, Shares

TITLES = {"gender": "Perceived gender", "age": "Perceived age", "race": "Perceived race"}
METHODS = {"matrix": "the matrix of errors", "em": "maximum likelihood (EM)"}


def triple(estimates: Estimates | None, cell: int) -> list[float | None] | None:
    """Value, lower and upper end of one cell; None for what is not a number."""
    if estimates is None:
        return None
    found = (estimates.value[cell], estimates.low[cell], estimates.high[cell])
    return [None if math.isnan(value) else float(value) for value in found]


def title_of(axis: Axis) -> str:
    """What a table of an axis is headed with."""
    if axis.name in TITLES:
        return TITLES[axis.name]
    return axis.name[:1].upper() + axis.name[1:]


def shares_table(
    shares: Shares,
    *,
    labelled: Estimates | None = None,
    reference: Sequence[float] | None = None,
    difference: Estimates | None = None,
    warning: str | None = None,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """The shares of one attribute.

    Args:
        shares: counted and corrected.
        labelled: estimates that labels by hand were used for.
        reference: shares to compare with, by cell.
        difference: to these.
        warning: why the corrected shares are not to be trusted.
        remarks: sentences below the table.
    """
    rows = [
        {
            "class": name,
            "display": name,
            "count": int(shares.counts[cell]),
            "few": int(shares.counts[cell]) < LEAST,
            "counted": triple(shares.counted, cell),
            "corrected": triple(shares.best, cell),
            "matrix": triple(shares.matrix, cell),
            "em": triple(shares.em, cell),
            "labelled": triple(labelled, cell),
            "reference": None if reference is None else float(reference[cell]),
            "difference": triple(difference, cell),
        }
        for cell, name in enumerate(shares.axis.cells)
    ]
    return {
        "name": shares.axis.name,
        "title": title_of(shares.axis),
        "noun": shares.axis.tasks[0],
        "method": METHODS[shares.corrected] if shares.best is not None else None,
        "warning": warning,
        "remarks": list(remarks),
        "has_labelled": labelled is not None,
        "has_reference": reference is not None,
        "rows": rows,
    }


def joint_table(shares: Shares) -> dict[str, Any]:
    """The shares of two attributes at once: the second down, the first across."""
    across, down = shares.axis.parts
    names = [cell.split(", ", 1) for cell in shares.axis.cells]
    estimates = shares.best or shares.counted
    rows: list[dict[str, Any]] = [
        {
            "name": names[row][1],
            "cells": [
                {
                    "count": int(shares.counts[column * down + row]),
                    "few": int(shares.counts[column * down + row]) < LEAST,
                    "share": triple(estimates, column * down + row),
                    "counted": triple(shares.counted, column * down + row),
                }
                for column in range(across)
            ],
        }
        for row in range(down)
    ]
    return {
        "name": shares.axis.name,
        "title": title_of(shares.axis),
        "corner": shares.axis.tasks[1],
        "columns": [names[column * down][0] for column in range(across)],
        "corrected": shares.best is not None,
        "has_few": any(cell["few"] for row in rows for cell in row["cells"]),
        "rows": rows,
    }


def group_table(axis: Axis, by_group: Mapping[str, Shares]) -> dict[str, Any]:
    """A line a group: shares of one attribute, corrected where there is a calibration."""
    rows = [_group_row(name, shares) for name, shares in by_group.items()]
    corrected = any(shares.best is not None for shares in by_group.values())
    return {
        "name": axis.name,
        "title": title_of(axis),
        "what": f"share of the group's faces, {'corrected' if corrected else 'counted'}",
        "columns": list(axis.cells),
        "has_few": any(cell["few"] for row in rows for cell in row["cells"]),
        "rows": rows,
    }


def _group_row(name: str, shares: Shares) -> dict[str, Any]:
    estimates = shares.best or shares.counted
    cells = []
    for cell in range(len(shares.axis.cells)):
        cells.append(
            {
                "count": int(shares.counts[cell]),
                "few": int(shares.counts[cell]) < LEAST,
                "counted": triple(shares.counted, cell),
                "share": triple(estimates, cell),
            }
        )
    return {"name": name, "faces": shares.faces, "cells": cells}
