"""What the page says, from `templates`: plain words, no number that is not read from somewhere."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

TITLE = "Perceived gender, age and race of every face in a photo: faceattr"
ADDRESS = "http://127.0.0.1:7860"
"""Where `python app.py` serves; replaced by the server's own address on the page."""


def percent(share: float) -> str:
    """A share for people: never "100 %" for what is not certain."""
    if 0.995 <= share < 1:
        return ">\u00a099\u00a0%"
    if 0 < share < 0.005:
        return "<\u00a01\u00a0%"
    return f"{share:.0%}".replace("%", "\u00a0%")


TEMPLATES = Environment(
    loader=PackageLoader("page.view"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    finalize=lambda value: f"{value:g}" if isinstance(value, float) else value,
)
TEMPLATES.globals["percent"] = percent


def filled(name: str, **values: Any) -> str:
    """A template with its values; those of HTML are escaped."""
    return TEMPLATES.get_template(name).render(**values)
