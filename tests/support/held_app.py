"""The page, whose runs a test can hold: `python -m support.held_app FOLDER ...` starts `app.py ...`.

While the file `FOLDER/hold` exists, a run waits at each of its phases, after the page was told of the phase, until the
file is gone or the run is stopped. `FOLDER/running` has one file for every run that is on a worker and has its turn.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from app.main import main
from app.serving.service import Service
from app.serving.worker import Event


class HeldEvents:
    """The events of a run, of which a phase is put at once and returns when the run may go on."""

    def __init__(self, events: Any, stop: threading.Event, hold: Path) -> None:
        self.events, self.stop, self.hold = events, stop, hold

    def put(self, event: Event) -> None:
        self.events.put(event)
        while event.kind == "phase" and self.hold.exists() and not self.stop.is_set():
            time.sleep(0.02)


def hold_runs(folder: Path) -> None:
    """Make every service of this process wait while `folder` says so."""
    run, running = Service._run, folder / "running"
    running.mkdir(exist_ok=True)

    def held(self, events, stop, *arguments):
        mine = running / str(threading.get_ident())
        mine.touch()
        try:
            return run(self, HeldEvents(events, stop, folder / "hold"), stop, *arguments)
        finally:
            mine.unlink()

    Service._run = held


if __name__ == "__main__":
    hold_runs(Path(sys.argv[1]))
    main(sys.argv[2:])
