"""What the stages that read and write tables share: one error, JSON and Markdown. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class TableError(ValueError):
    """A file of labels, predictions or results does not hold what a stage needs."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        TableError: when it is no JSON or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TableError(f"{path}: expected JSON, {error}") from error
    if not isinstance(value, dict):
        raise TableError(f"{path}: expected a JSON object, came {type(value).__name__}")
    return value


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with plain newlines, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON in the order of `value`; the same value gives the same bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _lines(value: Any, indent: str) -> str:
    """JSON whose lists and objects without inner ones stand on one line each."""
    if not isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if not any(isinstance(item, Mapping | list) for item in inner):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    deeper = indent + " "
    parts = [_lines(item, deeper) for item in inner]
    if isinstance(value, Mapping):
        keys = [json.dumps(key, ensure_ascii=False) for key in value]
        parts = [f"{key}: {part}" for key, part in zip(keys, parts, strict=True)]
    opening, closing = "{}" if isinstance(value, Mapping) else "[]"
    return f"{opening}\n{deeper}" + f",\n{deeper}".join(parts) + f"\n{indent}{closing}"


def write_report(path: Path, value: Mapping[str, Any]) -> None:
    """Like `write_json`, a third of the size: what holds no lists or objects takes one line."""
    write_text(path, _lines(value, "") + "\n")


def rounded(value: Any, digits: int = 6) -> Any:
    """A copy of nested JSON values with every float rounded."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
