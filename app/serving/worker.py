"""What happens in a run, as events, and the grip of a visitor on it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

log = logging.getLogger("prunescope")
POLL_SECONDS = 0.5  # seconds between looks at whether a silent worker still lives


@dataclass(frozen=True, slots=True)
class Event:
    """What happens in a run: `kind` is waiting (value: runs before this one), phase, text, download (of the model;
    value: bytes that arrived, and in all), restarted (its worker died; it begins anew), held_up (another's worker
    died), done or failed.
    """

    kind: str
    phase: str = ""
    text: str = ""
    value: Any = None


@dataclass(slots=True)
class Hold:
    """One visitor's grip on what runs for them. `superseded`: it ended because they went on to something else."""

    stop: threading.Event = field(default_factory=threading.Event)
    superseded: bool = False


def _heard(events: queue.Queue[Event], worker: threading.Thread) -> Iterator[Event]:
    """What a worker says, until it is dead and everything it said was heard."""
    while True:
        try:
            yield events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if not worker.is_alive() and events.empty():
                return
