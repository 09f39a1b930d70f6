"""Status line values, and following a job of a visitor or a program until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from app import messages
from app.errors import sentence_for
from app.serving.service import Service
from app.serving.worker import Event, Hold
from app.session import Visitor
from pruning.errors import RunStopped

Said = tuple[dict[str, str], Any]  # a line, and the value of the output beside it


def status(kind: str, text: str, of: str = "") -> dict[str, str]:
    """Return a status line; `of` names the picture it is about, so that a late line can be ignored.

    Args:
        kind: idle, busy or error.
    """
    return {"kind": kind, "text": text, "of": of}


def on_the_way(event: Event) -> str:
    """Return the status text for an event of a running job; empty where there is nothing new."""
    if event.kind == "waiting":
        return messages.WAITING.format(before=event.value)
    if event.kind == "download":
        return messages.download(*event.value)
    return messages.PHASES[event.phase].format(title=event.text) if event.kind == "phase" else ""


def follow(
    service: Service,
    visitor: Visitor,
    session: str,
    start: Callable[[Hold], Iterator[Event]],
    show: Callable[[Any], Said],
    of: str = "",
) -> Iterator[Said]:
    """Yield status lines while a job runs, and what `show` makes of its value. On failure the line says what to do.

    Args:
        session: the session whose earlier run this one stops.
    """
    with service.hold(session) as hold:
        try:
            service.admit(visitor)
            for event in start(hold):
                if event.kind == "failed":
                    raise event.value
                if event.kind == "done":
                    yield show(event.value)
                elif text := on_the_way(event):
                    yield status("busy", text, of), gr.skip()
        except RunStopped:
            if not hold.superseded:
                yield status("idle", messages.STOPPED, of), gr.skip()
        except Exception as error:  # noqa: BLE001 (a visitor's file or a worker may fail in any way)
            yield status("error", sentence_for(error), of), gr.skip()


def outcome(service: Service, visitor: Visitor, session: str, start: Callable[[Hold], Iterator[Event]]) -> Any:
    """Return the value of a job, for callers that need no status; `session` as in `follow`.

    Raises:
        PruningError: with what is wrong.
    """
    service.admit(visitor)
    with service.hold(session) as hold:
        for event in start(hold):
            if event.kind == "failed":
                raise event.value
            if event.kind == "done":
                return event.value
    raise RunStopped
