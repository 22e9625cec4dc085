"""How the page looks, and the little script that runs in the visitor's browser."""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

_SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the visitor's own fonts: none is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=_SYSTEM, font_mono=_MONO
    )


CSS, _FRAME, _SCRIPT = (
    (files("page.view") / "static" / name).read_text(encoding="utf-8")
    for name in ("page.css", "frame.css", "page.js")
)
HEAD = f"<style>{_FRAME}</style><script>{_SCRIPT}</script>"
