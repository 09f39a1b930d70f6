"""The status line: what handlers say there, and following what runs for a visitor or a program until it ends."""

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
    """A line; `of` names the picture that it speaks of, where it may come too late.

    Args:
        kind: idle, busy or error.
    """
    return {"kind": kind, "text": text, "of": of}


def on_the_way(event: Event) -> str:
    """What a line says of something that goes on; empty where nothing new is to be said."""
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
    """Lines while something runs, and what `show` makes of its value. Whatever fails, the line says what to do.

    Args:
        session: whose earlier run this one ends.
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
    """The value of what runs, for whoever waits for nothing else; `session` as in `follow`.

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
