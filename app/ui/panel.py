"""The contract of a panel: a tab of the page, or a part of Explore below the run. `app/panels.py` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.handlers.visitor_runs import VisitorRuns
from app.media.examples import Example
from app.serving.service import Service
from pruning.records.run import RunRecord

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
RUNS_AT_ONCE = 40  # handlers that wait side by side; `app.serving.queueing` lets one at a time use the model
JOB: dict[str, Any] = {  # options of an event whose handler uses the model
    "concurrency_id": "model", "concurrency_limit": RUNS_AT_ONCE, "trigger_mode": "multiple",
    "api_visibility": "private",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExploreParts:
    """What a panel needs of Explore: to start the same run, or to write to its status line.

    Attributes:
        run, inputs: the handler of Run and its inputs. line, feed: its outputs, status and run.
        total: visual tokens of one picture, the largest value of `count`.
    """

    run: Callable[..., Iterator[tuple[Any, ...]]]
    inputs: list[gr.components.Component]
    line: gr.HTML
    feed: gr.HTML
    count: gr.Slider
    model: gr.Dropdown
    with_plan: gr.Checkbox
    total: int


@dataclass(frozen=True, slots=True)
class PageContext:
    """What the handlers of a panel may need."""

    service: Service
    examples: Sequence[Example]
    runs: VisitorRuns
    explore: ExploreParts


def no_handlers(context: PageContext) -> None:
    """The default of `Panel.handlers`: nothing is asked of Python."""


def nothing_to_wire(place: gr.Tab | gr.HTML, handlers: Any, context: PageContext) -> None:
    """The default of `Panel.build`: the component shows its payload, and that is all."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One view of the page.

    Attributes:
        key: name of the payload in the data of a run, and id of the component.
        title: label of the tab; empty for a panel below the run on Explore.
        component: folder in `app/ui/components` of a panel on Explore; a tab places its components in `build`.
        payload: what the browser gets of every run under `key`, JSON-ready; None where it needs nothing of its own.
        handlers: makes the object whose methods answer the panel's events.
        build: lays out what is inside the tab (`place`: the tab) and wires events (on Explore, `place`: the component).
    """

    key: str
    title: str = ""
    component: str = ""
    payload: Callable[[RunRecord], Any] | None = None
    handlers: Callable[[PageContext], Any] = no_handlers
    build: Callable[[Any, Any, PageContext], None] = nothing_to_wire
