"""Build the page's own components from static HTML, CSS and JavaScript files, read once at start.

The template of a component never changes: values arrive through `watch('value')` or the topics of `shared.js` and are
drawn as text or pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from app import messages
from app.ui.glossary import read_glossary
from viz.theme import theme, variables

FOLDER = Path(__file__).parent


def static_component(name: str, value: dict[str, Any] | None = None, **kwargs: Any) -> gr.HTML:
    """Return the component whose three files lie in `components/<name>/`. Its value is a JSON-ready dict."""
    parts = {kind: (FOLDER / name / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    return gr.HTML(
        value,
        html_template=parts["html"],
        css_template=parts["css"],
        js_on_load=parts["js"],
        apply_default_css=False,
        **kwargs,
    )


def colour_variables() -> str:
    """Return the colours of `viz.theme` as CSS variables, in a style element for the head of the page."""
    both = (("body", theme(dark=False)), ("body.dark", theme(dark=True)))
    rules = (
        f"{where} {{ {' '.join(f'--ps-{name}: {value};' for name, value in variables(look).items())} }}"
        for where, look in both
    )
    return f"<style>{' '.join(rules)}</style>"


def shared_script() -> str:
    """Return the scripts that all components share, with sentences and glossary, for the head of the page."""
    files = [(FOLDER / name).read_text(encoding="utf-8") for name in ("shared.js", "drawing.js", "plots.js")]
    for mark, table in (("/* BROWSER */ {}", messages.BROWSER), ("/* GLOSSARY */ {}", read_glossary())):
        text = json.dumps(table, ensure_ascii=False).replace("<", "\\u003c")
        files[0] = files[0].replace(mark, text)
    return "".join(f"<script>{text}</script>" for text in files)
