"""Queue runs in order of arrival, one at a time, and limit runs per minute."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pruning.errors import BusyError, RunStopped

MINUTE = 60.0


class Turns:
    """A queue in which threads wait for the model. A thread that died is removed.

    Args:
        longest: most threads in it, the running one included.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self._line: list[threading.Thread] = []
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, stop: Callable[[], bool], ahead: Callable[[int], None]) -> Iterator[None]:
        """Wait for the turn of this thread, and keep it for the body.

        Args:
            stop: asked several times a second while waiting.
            ahead: called with the number of threads before this one, whenever it changes.

        Raises:
            BusyError: if the queue is full. RunStopped: if `stop` said so.
        """
        mine = threading.current_thread()
        with self._moved:
            self._sweep()
            if len(self._line) >= self.longest:
                raise BusyError(f"{len(self._line)} runs are waiting already.", "Try again in a minute.")
            self._line.append(mine)
        try:
            told = 0
            with self._moved:
                while (before := self._line.index(mine)) > 0:
                    if stop():
                        raise RunStopped
                    if before != told:
                        ahead(before)
                        told = before
                    self._moved.wait(0.2)
                    self._sweep()
            yield
        finally:
            with self._moved:
                self._line = [thread for thread in self._line if thread is not mine]  # a dead one was swept out
                self._moved.notify_all()

    def _sweep(self) -> None:
        self._line = [thread for thread in self._line if thread.is_alive()]


class Rate:
    """At most `per_minute` runs a minute for everybody who is counted; 0 means no limit. Remembers the last 1,000.

    Args:
        counted: what is counted, for the error message.
    """

    def __init__(self, per_minute: int, counted: str = "by one visitor") -> None:
        self.per_minute, self.counted = per_minute, counted
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, who: str) -> None:
        """Note one more run.

        Raises:
            BusyError: if it is one too many, with how long to wait.
        """
        if not self.per_minute:
            return
        now = time.monotonic()
        with self._lock:
            mine = self._times.setdefault(who, deque())
            self._times.move_to_end(who)
            while len(self._times) > 1000:
                self._times.popitem(last=False)
            while mine and now - mine[0] > MINUTE:
                mine.popleft()
            if len(mine) >= self.per_minute:
                wait = MINUTE - (now - mine[0])
                limit = f"{len(mine)} runs {self.counted} in a minute is the limit."
                raise BusyError(limit, f"The next one can start in {wait:.0f} s.")
            mine.append(now)
