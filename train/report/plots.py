"""What all figures share: one style, PNG, the same bytes for the same data.

Panels are opaque and light, so they read on light and dark pages alike. Colours are Okabe and Ito's
for colour-blind readers ("Color Universal Design", 2008), shades a single blue; whatever a colour
says is also said by position, marker or number.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from faceattr.labels import Task
from train.report.sections import display

COLOURS = {"gender": "#0072B2", "age": "#D55E00", "race": "#009E73"}
MARKERS = {"gender": "o", "age": "s", "race": "^"}
INK, FAINT, PANEL = "#222222", "#D9D9D9", "#FFFFFF"
STYLE = {
    "figure.facecolor": PANEL,
    "axes.facecolor": PANEL,
    "savefig.facecolor": PANEL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.frameon": False,
}
PNG_DPI = 110
PNG_COLOURS = 96


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that can be drawn.

    Attributes:
        name: of its files, without ending.
        title: for the page.
        alt: what it shows, for those who do not see it.
        data: everything that `draw` depends on, JSON-ready.
        draw: makes the figure.
    """

    name: str
    title: str
    alt: str
    data: Any
    draw: Callable[[], Canvas]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data; stands in the file, so that a stale one is found."""
        text = json.dumps(self.data, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the figure as `name.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            # Without dates and versions, equal data gives equal bytes.
            facts = {"Description": f"data {self.fingerprint}", "Title": self.alt}
            _save_png(self.draw(), folder / f"{self.name}.png", facts)


def _save_png(canvas: Canvas, path: Path, facts: Mapping[str, str]) -> None:
    """Write a PNG of few colours, a third of the size."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=PNG_DPI)
    written = PngInfo()
    for key, value in facts.items():
        written.add_itxt(key, value)
    image = Image.open(buffer).convert("RGB")
    image.quantize(PNG_COLOURS).save(path, pnginfo=written, optimize=True)


def canvas_of(width: float, height: float) -> Canvas:
    """An empty figure; sizes in inches."""
    return Canvas(figsize=(width, height), layout="constrained")


def names_of(task: Task) -> list[str]:
    """The classes of a task for people."""
    return [display(task.name, name) for name in task.classes]


def shades(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    low: float = 0.0,
) -> None:
    """A grid of shaded, labelled cells, first row on top; None is left blank."""
    grid = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    axes.pcolormesh(grid, cmap="Blues", vmin=low, vmax=1.0, edgecolors=PANEL, linewidth=1)
    axes.invert_yaxis()
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    size = 9 if len(columns) < 8 else 8
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            dark = not np.isnan(grid[i, j]) and (grid[i, j] - low) / (1 - low) > 0.55
            colour = PANEL if dark else INK
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, size=size)


def write_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Draw figures into a folder, and take away pictures there that are none of them."""
    wanted = {f"{figure.name}.png" for figure in figures}
    for path in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if path.name not in wanted:
            path.unlink()
    for figure in figures:
        figure.save(folder)
