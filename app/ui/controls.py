"""Build controls for the parameters of a method or a head score from their declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from pruning.parameters import Declared, Param


def build_controls(method: type[Declared]) -> dict[str, gr.components.Component]:
    """Return one slider or drop-down per parameter, in order, by name."""
    defaults = method()
    controls: dict[str, gr.components.Component] = {}
    for name, declared in method.parameters().items():
        value: Any = getattr(defaults, name)
        if isinstance(declared, Param):
            controls[name] = gr.Slider(
                declared.low, declared.high, value=value, step=declared.step, label=declared.label, info=declared.help
            )
        else:
            controls[name] = gr.Dropdown(list(declared.options), value=value, label=declared.label, info=declared.help)
    return controls


def build_groups(
    table: Mapping[str, type[Declared]], chosen: str
) -> tuple[list[gr.Group], dict[str, dict[str, gr.components.Component]]]:
    """Return a group of controls for every entry of a table, with only the chosen one visible; and controls by key."""
    groups, controls = [], {}
    for key, entry in table.items():
        with gr.Group(visible=key == chosen) as group:
            controls[key] = build_controls(entry)
        groups.append(group)
    return groups, controls
