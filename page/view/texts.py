"""What the page says, from `templates`: plain words, no number that is not read from somewhere."""

from __future__ import annotations

import os
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from page.endpoints import ENDPOINTS
from page.limits import Limits

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


WAITING = filled("messages.html", message="waiting")
LIMITS = filled("limits.md")


def intro(model: str, revision: str | None) -> str:
    """The head of the page.

    Args:
        model: Hub id or name of the weights.
        revision: commit of the Hub repository, None for local weights.
    """
    space = os.environ.get("SPACE_ID")
    return filled("intro.html", model=model, revision=revision, space=space)


def use(limits: Limits, has_tools: bool) -> str:
    """Markdown on calling the API; `ADDRESS` stands for the page's own address.

    Args:
        limits: of this server.
        has_tools: whether it serves the endpoints to agents, too.
    """
    return filled("use.md", limits=limits, has_tools=has_tools, endpoints=list(ENDPOINTS))


def snippets(markdown: str) -> dict[str, str]:
    """The code blocks of a text by their language."""
    return dict(re.findall(r"^```(\w+)\n(.*?)^```$", markdown, re.M | re.S))
