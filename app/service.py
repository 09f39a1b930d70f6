"""Shares what is scarce among visitors: loaded models, encoded pictures, full answers. The only file with a lock.

A run happens on a thread of its own, so that the page can show what comes and stop it; one run at a time uses a model.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.settings import Settings
from app.turns import Rate, Turns
from pruning.errors import RunStopped
from pruning.geometry import TokenLayout
from pruning.models import find_spec, load
from pruning.models.base import VLMAdapter
from pruning.pictures import digest
from pruning.records import RunRecord, RunRequest


class BoundedCache:
    """The last few values by key; safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size, self._items, self._lock = size, OrderedDict(), threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            while len(self._items) > self._size:
                self._items.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._items.clear()


@dataclass(frozen=True, slots=True)
class Event:
    """What happens in a run: `kind` is waiting (value: runs before this one), phase, piece, done or failed."""

    kind: str
    phase: str = ""
    text: str = ""
    value: Any = None


class Service:
    """One per process. Public methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._adapter: tuple[str, VLMAdapter] | None = None
        self._loading = threading.Lock()
        self._turns, self._rate = Turns(settings.longest_queue), Rate(settings.runs_per_minute)
        self._stops: dict[str, threading.Event] = {}
        self._seen, self._baselines = BoundedCache(12), BoundedCache(128)

    def warm_up(self) -> None:
        """Load the start-up model in the background, so that the first run does not wait for it."""

        def work() -> None:
            try:
                self.adapter(self.settings.model)
            except Exception:  # noqa: BLE001 (the first run will say what is wrong)
                return

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def adapter(self, model: str) -> VLMAdapter:
        """The loaded model; another one that was loaded before is let go first.

        Raises:
            ModelUnavailableError: with what to do.
        """
        with self._loading:
            if self._adapter is not None and self._adapter[0] == model:
                return self._adapter[1]
            if self._adapter is not None:
                self._adapter[1].close()
                self._adapter = None
                self._seen.clear()  # tensors on the other model's device
            s = self.settings
            adapter = load(model, device=s.device, dtype=s.dtype, allow_download=s.allow_download)
            self._adapter = (model, adapter)
            return adapter

    def is_loaded(self, model: str) -> bool:
        return self._adapter is not None and self._adapter[0] == model

    def title(self, model: str) -> str:
        return find_spec(model).title

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout | None:
        """How the model at hand would cut up a picture of this size; None while no model is loaded."""
        return self._adapter[1].layout(picture_wh) if self._adapter is not None else None

    def admit(self, visitor: str) -> None:
        """Count a run of a visitor.

        Raises:
            BusyError: if it is one too many for now.
        """
        self._rate.count(visitor)

    def run(
        self,
        session: str,
        request: RunRequest,
        picture: np.ndarray,
        evidence: Callable[[VLMAdapter], np.ndarray | None],
    ) -> Iterator[Event]:
        """Run and yield what happens; ends with `done` (value: the record) or `failed` (value: the exception).

        Closing the iterator, or `stop` with the same session, ends the run at the next layer.
        """
        stop = threading.Event()
        self._stops[session] = stop
        events: queue.Queue[Event] = queue.Queue()
        context = contextvars.copy_context()
        worker = threading.Thread(
            target=context.run, args=(self._work, events, stop, request, picture, evidence), name="run", daemon=True
        )
        worker.start()
        try:
            while True:
                event = events.get()
                yield event
                if event.kind in ("done", "failed"):
                    return
        finally:
            stop.set()
            self._stops.pop(session, None)

    def stop(self, session: str) -> bool:
        """Ask a session's run to end. False if it has none."""
        event = self._stops.get(session)
        if event is None:
            return False
        event.set()
        return True

    def _work(self, events, stop, request, picture, evidence) -> None:
        try:
            with self._turns.turn(stop.is_set, lambda before: events.put(Event("waiting", value=before))):
                if stop.is_set():
                    raise RunStopped
                if not self.is_loaded(request.model):
                    events.put(Event("phase", "load"))
                record = self._run(events, stop, request, picture, evidence)
            events.put(Event("done", value=record))
        except BaseException as error:  # noqa: BLE001 (handed to the page's own thread)
            events.put(Event("failed", value=error))

    def _run(self, events, stop, request, picture, evidence) -> RunRecord:
        from pruning import runner  # torch and transformers are slow to import; the page is up before

        adapter = self.adapter(request.model)
        listener = runner.Listener(
            phase=lambda phase: events.put(Event("phase", phase)),
            piece=lambda phase, text: events.put(Event("piece", phase, text)),
            stop=stop.is_set,
            trace=True,
        )
        prompt = adapter.prompt(picture, request.question)
        seen_key = (request.model, digest(picture))
        full_key = (*seen_key, request.question, request.max_new_tokens)
        seen = self._seen.get(seen_key)
        if seen is None:
            seen = runner.see_picture(adapter, prompt, listener)
            self._seen.put(seen_key, seen)
        baseline = self._baselines.get(full_key)
        if baseline is None:
            baseline = runner.answer_in_full(adapter, prompt, *seen, request.max_new_tokens, listener)
            self._baselines.put(full_key, baseline)
        else:
            events.put(Event("phase", "full"))
            events.put(Event("piece", "full", baseline.answer.text))
        return runner.run(
            request, adapter, picture, seen=seen[0], see_ms=seen[1], baseline=baseline,
            evidence=evidence(adapter), listener=listener,
        )  # fmt: skip
