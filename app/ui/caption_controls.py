"""Controls of the compensation with a caption: switch, captioner, caption by hand, confidence gate, KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import messages
from app.serving.captioners import name_of
from pruning.benchmarks.reports import accm_sentence, figures
from pruning.compensation import COMPENSATORS
from pruning.compensation.accm import Accm
from pruning.records.compensation import MAX_CAPTION

N_VALUES = 5


@dataclass(frozen=True, slots=True)
class CaptionControls:
    """`switch` shows `group`; `values`, `N_VALUES` of them, are inputs of `requested_compensation`."""

    switch: gr.Checkbox
    group: gr.Group
    caption: gr.Textbox
    values: tuple[gr.components.Component, ...]


def build_caption_controls(captioners: Mapping[str, str]) -> CaptionControls:
    """Build the controls, switched off. `captioners` are those that this page opens (`app.serving.captioners`)."""
    keys = list(captioners)
    first = keys[0] if keys else ""
    switch = gr.Checkbox(False, label=messages.CAPTION_SWITCH, elem_id="compensate")
    with gr.Group(visible=False, elem_id="compensate-group") as group:
        gr.Markdown(messages.CAPTION_HELP[first], elem_classes="hint", elem_id="about-compensate")
        measured = _measured(captioners)
        gr.Markdown(measured, visible=bool(measured), elem_classes="hint", elem_id="compensate-measured")
        who = gr.Dropdown(
            [(COMPENSATORS[k].title, k) for k in keys], value=first or None, label="Captioner", visible=len(keys) > 1
        )
        caption = gr.Textbox(
            "", label="Caption by hand", placeholder="empty: the captioner writes it" if keys else "what was dropped?",
            lines=1, max_lines=4, max_length=MAX_CAPTION, elem_id="caption", submit_btn=False,
        )  # fmt: skip
        gate = gr.Slider(
            0, 0.99, value=0, step=0.01, label="Confidence gate", elem_id="gate",
            info="Extension, not in the paper: insert only captions that the selector rates higher", visible=bool(keys),
        )  # fmt: skip
        kl = gr.Checkbox(
            False,
            label="Measure KL",
            elem_id="kl",
            info="Also next-token probabilities, and the attention to the caption.",
        )
    return CaptionControls(switch, group, caption, (switch, who, caption, gate, kl))


def _measured(captioners: Mapping[str, str]) -> str:
    """Return the measured gain of the bundled captioner, where this page uses it and figures exist."""
    found = figures(Accm.key)
    bundled = Accm.key in captioners and not name_of(captioners[Accm.key])
    return accm_sentence(found) if bundled and found else ""


def requested_compensation(on: Any, key: Any, caption: Any, gate: Any, measure_kl: Any) -> dict[str, Any] | None:
    """Return what the controls request, as `app.handlers.requests.RunForm` takes it; an empty caption is written by a
    captioner.
    """
    if not on:
        return None
    by_hand = isinstance(caption, str) and caption.strip()
    named = {"key": key} if key else {}
    return named | {"gate": gate, "caption": caption if by_hand else None, "measure_kl": bool(measure_kl)}


def shown(compensation: Mapping[str, Any] | None) -> list[Any]:
    """Return values of the controls for a link; the inverse of `requested_compensation`."""
    if compensation is None:
        return [False, gr.skip(), "", 0, False]
    key = compensation["key"] if compensation["caption"] is None else gr.skip()  # no captioner is needed
    return [True, key, compensation["caption"] or "", compensation["gate"], compensation["measure_kl"]]
