"""What was found in a collection → the values of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faceattr.audit import accounts, words
from faceattr.audit.answers import DEFAULT_AXES, parse_merges
from faceattr.audit.calibration import CalibrationTable
from faceattr.audit.collected import Collected
from faceattr.audit.measured import Question, measured
from faceattr.audit.measures import LEAST_COUNT

SCHEMA = 1
NO_TABLE = "No calibration table lies beside these weights"
_ONE_VIEW = {
    "title": "The correction is of another view.",
    "text": "Answers are means over faces and their mirror images (--mirror), the calibration rows "
    "were answered from one view: corrected shares and intervals are made for slightly other "
    "errors. Without --mirror they fit.",
}


def build_report(
    found: Collected,
    facts: Mapping[str, Any],
    question: Question,
    calibration: CalibrationTable | None,
    why_not: str = NO_TABLE,
) -> dict[str, Any]:
    """All values of a report, JSON-ready.

    Args:
        found: images and faces.
        facts: where they come from and what classified them.
        question: what is asked.
        calibration: table of the same weights; None leaves the shares as counted.
        why_not: what the report says of a calibration that is None.

    Raises:
        AuditError: for bins, references, labels or columns that do not fit.
    """
    whole, groups = accounts.counts(found), accounts.counts_by_group(found)
    warnings = accounts.warnings(found, groups)
    if calibration is None:
        but = "" if question.labels is None else ", but for those with labels,"
        text = f"{why_not}, so shares{but} are as the classifier counted them: biased, and without "
        text += "an interval for its errors."
        warnings.insert(0, {"title": "Nothing is corrected.", "text": text})
    elif facts["mirror"]:
        warnings.append(_ONE_VIEW)
    asked = "population" if question.population else "collection"
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "about": dict(facts),
        "question": asked,
        "question_text": words.opening(
            asked,
            found.faces,
            is_corrected=calibration is not None,
            is_labelled=question.labels is not None,
        ),
        "counts": whole,
        "counts_by_group": groups,
        "least": LEAST_COUNT,
        "labels": None,
        "shift": None,
        "tasks": [],
        "joint": [],
        "imbalance": [],
        "by": None,
        "other_system": None,
        "left_out": accounts.left_out(whole, groups, question.by),
        "failures": accounts.failures(found),
        "method": words.method(crops=facts["crops"], is_corrected=calibration is not None),
        "limits": list(words.LIMITS),
        "law": list(words.LAW),
        "provenance": _provenance(facts, calibration, question),
        "warnings": warnings,
    }
    axes = (*DEFAULT_AXES, *parse_merges(question.merge))
    if found.faces:
        report |= measured(found, question, calibration, axes, warnings)
    has_intervals = calibration is not None or question.population or question.labels is not None
    if has_intervals and (few := words.few_faces(found.faces)):
        warnings.insert(0, few)
    return report


def _provenance(
    facts: Mapping[str, Any], calibration: CalibrationTable | None, question: Question
) -> list[tuple[str, str]]:
    """What somebody needs to make the report again, as names and values."""
    weights = facts["weights"]
    at = f" at {weights['revision']}" if weights.get("revision") else ""
    rows = [
        ("Source", f"{facts['source']} ({facts['kind']})"),
        ("Weights", f"{weights['model']}{at}"),
        ("Digest", f"{weights['file']} {weights['sha256']}" if weights["sha256"] else "unknown"),
        ("Detector", _detector(facts)),
        ("Backend", str(facts["backend"]) + (", mirrored too" if facts["mirror"] else "")),
        ("Seed", str(question.seed)),
        ("faceattr", str(facts["faceattr"])),
    ]
    if calibration is not None:
        source = calibration.source.items()
        said = ", ".join(f"{key} {value}" for key, value in source if value is not None)
        rows.append(("Calibration", f"{calibration.rows:,} labelled faces: {said}"))
    if (reference := question.reference) is not None:
        is_given = not isinstance(reference, str)
        rows.append(("Reference", "shares that were given" if is_given else str(reference)))
    if facts.get("revision"):
        rows.insert(1, ("Commit", str(facts["revision"])))
    return rows + [("Note", note) for note in facts.get("notes", [])]


def _detector(facts: Mapping[str, Any]) -> str:
    """What looked for faces, and which it leaves out; earlier audits did not keep the latter."""
    if facts["crops"] or "detect" not in facts:
        return str(facts["detector"])
    return f"{facts['detector']}, {facts['detect']}, faces from {facts['min_face']:g} pixels on"
