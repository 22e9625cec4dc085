"""Statistics as a report shows them: JSON-ready tables with names, intervals and marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from faceattr.audit.answers import Axis, Floats
from faceattr.audit.estimates import Estimates
from faceattr.audit.measures import (
    LEAST_COUNT,
    MEASURES,
    Association,
    Interval,
    differences,
    imbalance,
    total_variation,
)
from faceattr.audit.other_system import Rates
from faceattr.audit.prevalence import Shares
from faceattr.audit.render import interval, percent
from faceattr.audit.words import counted

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
    reference: Floats | None = None,
    warning: str | None = None,
) -> dict[str, Any]:
    """The shares of one attribute.

    Args:
        shares: counted and corrected.
        labelled: estimates that labels by hand were used for.
        reference: shares to compare with, by cell.
        warning: why the corrected shares are not to be trusted.
    """
    best = labelled or shares.best or shares.counted
    apart = None if reference is None else differences(best, reference)
    rows = [
        {
            "class": name,
            "display": name,
            "count": int(shares.counts[cell]),
            "few": int(shares.counts[cell]) < LEAST_COUNT,
            "counted": triple(shares.counted, cell),
            "corrected": triple(shares.best, cell),
            "matrix": triple(shares.matrix, cell),
            "em": triple(shares.em, cell),
            "labelled": triple(labelled, cell),
            "reference": None if reference is None else float(reference[cell]),
            "difference": None if apart is None else ends(apart[cell]),
        }
        for cell, name in enumerate(shares.axis.cells)
    ]
    return {
        "name": shares.axis.name,
        "title": title_of(shares.axis),
        "noun": shares.axis.tasks[0],
        "method": METHODS[shares.corrected] if shares.best is not None else None,
        "warning": warning,
        "remarks": _remarks(shares, labelled, reference),
        "has_labelled": labelled is not None,
        "has_reference": reference is not None,
        "rows": rows,
    }


def ends(found: Interval | None) -> list[float | None] | None:
    """A figure as a report holds it: value, lower and upper end."""
    return None if found is None else [found.value, found.low, found.high]


def _remarks(shares: Shares, labelled: Estimates | None, reference: Floats | None) -> list[str]:
    if reference is None:
        return []
    best = labelled or shares.best or shares.counted
    which = "as counted" if shares.best is None else "as corrected"
    which = "with labels" if labelled else which
    apart = interval(ends(total_variation(best, reference)))
    return [
        f"Differences are of the shares {which}. Share of the faces that would have to change to "
        f"reach the reference: {apart}."
    ]


def imbalance_table(shares: Shares) -> dict[str, Any]:
    """The measures of imbalance of one attribute, counted and corrected."""
    counted = imbalance(shares.counted)
    corrected = {} if shares.best is None else imbalance(shares.best)
    rows = [
        {"name": title, "counted": ends(counted[key]), "corrected": ends(corrected.get(key))}
        for key, title in MEASURES.items()
    ]
    return {"name": shares.axis.name, "title": title_of(shares.axis), "rows": rows}


def association_entry(found: Association) -> dict[str, Any]:
    """How an attribute goes with the groups, and the counts behind it."""
    return {"title": title_of(found.axis), "v": ends(found.cramers_v), **found.to_dict()}


def other_system(
    found: Sequence[Rates], truth: str, prediction: str, left_out: int
) -> dict[str, Any]:
    """How often another system is right, by group."""
    text = (
        f"Right means that the column {prediction!r} says what {truth!r} says: "
        f"{percent(found[0].overall)} of {counted(found[0].faces, 'face')}"
        + (f"; left out: {counted(left_out, 'face')} that lack one of them" if left_out else "")
        + ". Who is in a group is known from our answers up to their errors. Without an assumption "
        "a rate is only bounded; the estimate assumes that faces of a group look the same to our "
        "classifier whether the other system is right about them or not."
    )
    return {
        "text": text,
        "tables": [_rates_table(rates) for rates in found],
        "rates": [rates.to_dict() for rates in found],
    }


def _rates_table(rates: Rates) -> dict[str, Any]:
    rows = [
        {
            "name": rate.name,
            "cells": [
                interval(ends(rate.counted)),
                interval(ends(rate.estimate)),
                f"{percent(rate.low)} to {percent(rate.high)}",
                f"{percent(rate.interval[0])} to {percent(rate.interval[1])}",
            ],
        }
        for rate in (*rates.groups, *(rates.differences if len(rates.groups) < 4 else ()))
    ]
    columns = ["group", "right, counted", "estimate", "bounds", "95 % of the bounds"]
    return {"title": f"By {title_of(rates.axis).lower()}", "columns": columns, "rows": rows}


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
                    "few": int(shares.counts[column * down + row]) < LEAST_COUNT,
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
                "few": int(shares.counts[cell]) < LEAST_COUNT,
                "counted": triple(shares.counted, cell),
                "share": triple(estimates, cell),
            }
        )
    return {"name": name, "faces": shares.faces, "cells": cells}
