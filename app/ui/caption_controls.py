"""The controls of caption help: a switch, and under it who writes the caption, the gate, and what to measure."""

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
    """What a page needs of them: `switch` shows `group`; `values`, `N_VALUES` of them, are inputs for `wished`."""

    switch: gr.Checkbox
    group: gr.Group
    caption: gr.Textbox
    values: tuple[gr.components.Component, ...]


def build_caption_controls(captioners: Mapping[str, str]) -> CaptionControls:
    """The controls, switched off. `captioners` are those that this page opens (`app.serving.captioners`)."""
    keys = list(captioners)
    first = keys[0] if keys else ""
    switch = gr.Checkbox(False, label=messages.CAPTION_SWITCH, elem_id="words")
    with gr.Group(visible=False, elem_id="words-group") as group:
        gr.Markdown(messages.CAPTION_HELP[first], elem_classes="hint", elem_id="about-words")
        measured = _measured(captioners)
        gr.Markdown(measured, visible=bool(measured), elem_classes="hint", elem_id="words-measured")
        who = gr.Dropdown(
            [(COMPENSATORS[k].title, k) for k in keys], value=first or None, label="Captioner", visible=len(keys) > 1
        )
        caption = gr.Textbox(
            "", label="Caption by hand", placeholder="empty: the captioner writes it" if keys else "what was dropped?",
            lines=1, max_lines=4, max_length=MAX_CAPTION, elem_id="caption", submit_btn=False,
        )  # fmt: skip
        gate = gr.Slider(
            0, 0.99, value=0, step=0.01, label="Confidence gate", elem_id="gate",
            info="Extension, not in the paper: insert only what the selector gives more.", visible=bool(keys),
        )  # fmt: skip
        kl = gr.Checkbox(
            False, label="Measure KL", elem_id="kl", info="And next words, and how much the caption is looked at."
        )
    return CaptionControls(switch, group, caption, (switch, who, caption, gate, kl))


def _measured(captioners: Mapping[str, str]) -> str:
    """How much the bundled captioner's words gave back, where it is the one here and somebody measured it."""
    found = figures(Accm.key)
    bundled = Accm.key in captioners and not name_of(captioners[Accm.key])
    return accm_sentence(found) if bundled and found else ""


def requested_compensation(on: Any, key: Any, caption: Any, gate: Any, measure_kl: Any) -> dict[str, Any] | None:
    """What the controls ask for, as `app.handlers.requests.Asked` takes it; where the caption is empty, a captioner
    writes one.
    """
    if not on:
        return None
    by_hand = isinstance(caption, str) and caption.strip()
    named = {"key": key} if key else {}
    return named | {"gate": gate, "caption": caption if by_hand else None, "measure_kl": bool(measure_kl)}


def shown(compensation: Mapping[str, Any] | None) -> list[Any]:
    """Values of the controls for what a link asks for; the inverse of `wished`."""
    if compensation is None:
        return [False, gr.skip(), "", 0, False]
    key = compensation["key"] if compensation["caption"] is None else gr.skip()  # nobody is needed to write it
    return [True, key, compensation["caption"] or "", compensation["gate"], compensation["measure_kl"]]
