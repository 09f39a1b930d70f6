"""The Diagnostics panel of Explore: how the kept set differs from random ones, and overlap with other methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from app.handlers.diagnostics import Diagnosing
from app.session import visitor_of
from app.ui.panel import JOB, QUIET, PageContext, Panel


def _build(component: gr.HTML, diagnosing: Diagnosing, context: PageContext) -> None:
    line = context.explore.line
    component.diagnose(_shower(diagnosing), None, component, concurrency_limit=2, **(QUIET | {"queue": True}))
    component.overlaps(
        _comparer(diagnosing), None, [line, component], show_progress="minimal", show_progress_on=[line], **JOB
    )


def _shower(diagnosing: Diagnosing) -> Callable[..., dict[str, Any]]:
    def diagnose(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        return diagnosing.show(event, request.session_hash or "")

    return diagnose


def _comparer(diagnosing: Diagnosing) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def overlaps(request: gr.Request, event: gr.EventData) -> Iterator[tuple[Any, ...]]:  # its name is its endpoint's
        yield from diagnosing.compare(getattr(event, "source", None), visitor_of(request))

    return overlaps


DIAGNOSTICS = Panel(
    key="diagnosis",
    component="diagnosis",
    handlers=lambda context: Diagnosing(context.service, context.runs),
    build=_build,
)
