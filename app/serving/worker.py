"""Events of a run, and the handle by which a visitor stops it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("prunescope")
POLL_SECONDS = 0.5  # seconds between checks that a silent worker is alive


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a run: `kind` is waiting (value: runs before this one), phase, text (of an answer), download
    (of the model; value: bytes that arrived, and in all), restarted (its worker died; it begins anew), held_up
    (another's worker died), done or failed.
    """

    kind: str
    phase: str = ""
    text: str = ""
    value: Any = None


@dataclass(slots=True)
class Hold:
    """The handle of a visitor's running job. `superseded`: stopped because the visitor started something else."""

    stop: threading.Event = field(default_factory=threading.Event)
    superseded: bool = False


def _heard(events: queue.Queue[Event], worker: threading.Thread) -> Iterator[Event]:
    """Yield a worker's events until it is dead and the queue is empty."""
    while True:
        try:
            yield events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if not worker.is_alive() and events.empty():
                return
