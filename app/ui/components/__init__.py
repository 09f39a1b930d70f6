"""Custom parts of the page: static HTML, CSS and JavaScript in files of their own, read once at start.

The template of a component never changes: values arrive through `watch('value')` or the switchboard of `shared.js` and
are drawn as text or pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

FOLDER = Path(__file__).parent


def static_component(name: str, value: dict[str, Any] | None = None, **kwargs: Any) -> gr.HTML:
    """The component whose three parts lie in `components/<name>/`. Its value is a JSON-ready dict."""
    parts = {kind: (FOLDER / name / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    return gr.HTML(
        value,
        html_template=parts["html"],
        css_template=parts["css"],
        js_on_load=parts["js"],
        apply_default_css=False,
        **kwargs,
    )


def shared_script() -> str:
    """What all components use, for the head of the page."""
    files = [(FOLDER / name).read_text(encoding="utf-8") for name in ("shared.js", "drawing.js", "plots.js")]
    return "".join(f"<script>{text}</script>" for text in files)
