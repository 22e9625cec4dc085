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
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


def _static(name: str) -> str:
    return (files("page.view") / "static" / name).read_text(encoding="utf-8")


CSS = _static("page.css")
HEAD = f"<style>{_static('frame.css')}</style><script>{_static('page.js')}</script>"
