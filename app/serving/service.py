"""Share models, encoded pictures, full answers and models with pruned weights among visitors, and run jobs on workers.

A run is executed on a worker thread, so that the page can stream its text and stop it; one run at a time uses a model.
A worker that dies is replaced, and all other running jobs get an event.
"""

from __future__ import annotations

import contextvars
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.errors import sentence_for
from app.serving.caches import BoundedCache
from app.serving.captioners import captioners_of
from app.serving.queueing import Rate, Turns
from app.serving.worker import Event, Hold, _heard, log
from app.session import Visitor
from app.settings import Settings
from pruning.compensation.base import Compensator
from pruning.errors import CompensatorUnavailableError, ModelUnavailableError, RunStopped, WorkerDiedError
from pruning.inputs.content import VisualInput, digest_of
from pruning.layout import TokenLayout
from pruning.metrics.plan_cost import PlanCost, plan_cost
from pruning.models import MODELS, check, load
from pruning.models.base import VLMAdapter
from pruning.records.plan import PlanRequest, StructuralPlan
from pruning.records.run import RunRecord, RunRequest

if TYPE_CHECKING:
    from pruning.engine.plan import Pairs
    from pruning.engine.session import Compressed

VIEWS, VIEW_BYTES = 4, 2 * 2**30  # of models with pruned weights; one is kept however large it is


@dataclass(frozen=True, slots=True)
class _View:
    """A private view of a model for one plan, and the bytes of it that it does not share."""

    adapter: VLMAdapter
    nbytes: int


@dataclass(frozen=True, slots=True)
class PlanAtHand:
    """A plan that fits the model `model`, and its estimated cost."""

    plan: StructuralPlan
    cost: PlanCost
    model: str


class Service:
    """The shared state of the page, one per process. Public methods may be called from any thread.

    Args:
        load: opens a model by its name, as `pruning.models.load` does with the same arguments.
    """

    def __init__(self, settings: Settings, load: Callable[..., VLMAdapter] = load) -> None:
        self.settings = settings
        self._load = load
        self._adapter: tuple[str, VLMAdapter] | None = None
        self.captioners = captioners_of(settings)
        self._compensator: Compensator | None = None  # opened for the model at hand
        self._loading = threading.Lock()
        self._turns, self._rate = Turns(settings.longest_queue), Rate(settings.runs_per_minute)
        self._host_rate = Rate(settings.runs_per_minute_per_host, "from one address")
        self._holds: dict[str, Hold] = {}
        self._subscribers: set[queue.Queue[Event]] = set()  # of the runs that go on or wait
        self._lock = threading.Lock()
        self._share = -1  # percent of a download that has arrived
        self.warm = threading.Event()  # the start-up model was loaded, or cannot be
        self.problem = ""  # why the start-up model cannot be used, if it cannot
        self._encoded, self._baselines = BoundedCache(12), BoundedCache(128)
        self._plans = BoundedCache(16)
        self._views = BoundedCache(VIEWS, VIEW_BYTES, lambda view: view.adapter.close())

    def warm_up(self) -> None:
        """Load the start-up model in the background, so that the first run does not wait for it."""

        def work() -> None:
            try:
                self.adapter(self.settings.model)
            except Exception as error:  # noqa: BLE001 (whatever it is, the page says it, and so will every run)
                self.problem = sentence_for(error)
            finally:
                self.warm.set()

        threading.Thread(target=work, name="warm-up", daemon=True).start()

    def adapter(self, model: str) -> VLMAdapter:
        """Return the model, loaded if necessary; a model loaded before is released first.

        Raises:
            ModelUnavailableError: with what to do.
        """
        if model not in MODELS and model != self.settings.model:  # a request may come from a visitor's file
            raise ModelUnavailableError(f"This page does not serve {model[:60]!r}.", "Choose one of its models.")
        with self._loading:
            if self._adapter is not None and self._adapter[0] == model:
                return self._adapter[1]
            s = self.settings
            arguments = {
                "device": s.device, "dtype": s.dtype, "allow_download": s.allow_download, "progress": self._arrived
            }  # fmt: skip
            if self._adapter is not None:
                check(
                    model, freed=self._adapter[1].nbytes, **arguments
                )  # the loaded model is released only if the new one fits
                self._adapter[1].close()
                self._adapter = self._compensator = None
                self._encoded.clear()  # tensors on the other model's device
                self._views.clear()
            adapter = self._load(model, **arguments)
            self._adapter = (model, adapter)
            return adapter

    def _arrived(self, n_bytes: int, total: int) -> None:
        """Send the progress of a download to all running and waiting jobs: they wait for the same model."""
        share = 100 * n_bytes // total
        if share != self._share:
            self._share = share
            self._tell(Event("download", value=(n_bytes, total)))

    def _compensator_for(self, request: RunRequest, adapter: VLMAdapter) -> Compensator | None:
        """Return the captioner of a run; None where the caption is written by hand. The last one opened is kept."""
        wanted = request.compensation
        if wanted is None or wanted.caption is not None:
            return None
        if wanted.key not in self.captioners:
            known = ", ".join(self.captioners)
            raise CompensatorUnavailableError(
                f"This page has no captioner {wanted.key[:40]!r}{f', only {known}' if known else ''}.",
                "Write the caption yourself, or start the page with --captioner.",
            )
        if self._compensator is None or self._compensator.key != wanted.key:
            from pruning.engine.compensate import open_compensator

            self._compensator = None  # the other one's memory first
            source, download = self.captioners[wanted.key], self.settings.allow_download
            self._compensator = open_compensator(wanted.key, adapter, source, allow_download=download)
        return self._compensator

    def is_loaded(self, model: str) -> bool:
        return self._adapter is not None and self._adapter[0] == model

    def at_hand(self, model: str) -> VLMAdapter | None:
        """Return the model if it is loaded, else None; nothing is loaded."""
        loaded = self._adapter
        return loaded[1] if loaded is not None and loaded[0] == model else None

    def layout(self, model: str, visual_input: VisualInput) -> TokenLayout | None:
        """Return the token layout of a visual input; None while the model is not loaded.

        Raises:
            ImageRejectedError: if it reads nothing of this kind.
        """
        adapter = self.at_hand(model)
        return None if adapter is None else adapter.layout_of(visual_input)

    def check_video(self, model: str) -> None:
        """Refuse a video for a model that is loaded and reads none.

        Raises:
            ImageRejectedError.
        """
        adapter = self.at_hand(model)
        if adapter is not None:
            adapter.check_video()

    def admit(self, visitor: Visitor) -> None:
        """Count a run of a visitor, by opened page and by address (a reload does not change the address).

        Raises:
            BusyError: if it is one too many for now.
        """
        self._rate.count(visitor.session)
        self._host_rate.count(visitor.host)

    @contextmanager
    def hold(self, session: str) -> Iterator[Hold]:
        """Yield the handle that `stop` and newer runs of the session use. Leaving the body stops what still runs."""
        mine = Hold()
        with self._lock:
            earlier, self._holds[session] = self._holds.get(session), mine
        if earlier is not None:
            earlier.superseded = True
            earlier.stop.set()
        try:
            yield mine
        finally:
            mine.stop.set()
            with self._lock:
                if self._holds.get(session) is mine:
                    del self._holds[session]

    def stop(self, session: str, *, superseded: bool = False) -> bool:
        """Ask a session's run to stop; with `superseded` no status is shown. Return False if there is none."""
        with self._lock:
            hold = self._holds.get(session)
        if hold is None:
            return False
        hold.superseded = hold.superseded or superseded
        hold.stop.set()
        return True

    def run(
        self,
        hold: Hold,
        request: RunRequest,
        pictures: VisualInput,
        answer_region: Callable[[VLMAdapter], np.ndarray | None],
        plan: StructuralPlan | None = None,
    ) -> Iterator[Event]:
        """Run and yield events; the last one is `done` (value: the record) or `failed` (value: the exception).

        When the hold is stopped, the run ends at the next layer. A run whose worker dies gets a second one, and no
        third: it may be the run that kills them.

        Args:
            plan: what is removed from the weights for the pruned answer.
        """
        return self.on_a_worker(hold, request.model, self._run, request, pictures, answer_region, plan)

    def make_plan(self, hold: Hold, request: PlanRequest, pairs: Pairs) -> Iterator[Event]:
        """As `run`, for a structural plan; the value of `done` is a `PlanAtHand`. Equal requests share one."""
        return self.on_a_worker(hold, request.model, self._plan, request, pairs)

    def take_plan(self, hold: Hold, plan: StructuralPlan, model: str, pairs: Pairs) -> Iterator[Event]:
        """As `make_plan`, for an opened plan: it is applied to the model, and fails if it does not fit."""
        return self.on_a_worker(hold, model, self._try, plan, model, pairs)

    def on_a_worker(self, hold: Hold, model: str, work: Callable[..., Any], *arguments: Any) -> Iterator[Event]:
        """As `run`, for `work(events, stop, *arguments)`, whose result is the value of `done`."""
        with self._subscribe() as events:
            for again in (True, False):
                job = (self._work, events, hold.stop, model, work, arguments)
                worker = threading.Thread(target=contextvars.copy_context().run, args=job, name="run", daemon=True)
                worker.start()
                for event in _heard(events, worker):
                    if event.kind == "done" and hold.stop.is_set():
                        event = Event("failed", value=RunStopped())
                    yield event
                    if event.kind in ("done", "failed"):
                        return
                self._tell_the_others(events)
                if again:
                    yield Event("restarted")
            yield Event("failed", value=WorkerDiedError())

    @contextmanager
    def _subscribe(self) -> Iterator[queue.Queue[Event]]:
        events: queue.Queue[Event] = queue.Queue()
        with self._lock:
            self._subscribers.add(events)
        try:
            yield events
        finally:
            with self._lock:
                self._subscribers.discard(events)

    def _tell_the_others(self, mine: queue.Queue[Event]) -> None:
        log.error("a worker died during a run; another one takes its place")
        self._tell(Event("held_up"), but=mine)

    def _tell(self, event: Event, but: queue.Queue[Event] | None = None) -> None:
        with self._lock:
            for events in self._subscribers - {but}:
                events.put(event)

    def _work(self, events, stop, model, work, arguments) -> None:
        try:
            with self._turns.turn(stop.is_set, lambda before: events.put(Event("waiting", value=before))):
                if stop.is_set():
                    raise RunStopped
                if not self.is_loaded(model):
                    events.put(Event("phase", "load"))
                value = work(events, stop, *arguments)
            events.put(Event("done", value=value))
        except Exception as error:  # noqa: BLE001 (passed to the page's own thread; anything worse ends this one)
            events.put(Event("failed", value=error))

    def _plan(self, events, stop, request, pairs) -> PlanAtHand:
        from pruning.engine.plan import make_plan  # as in `_run`

        adapter = self.adapter(request.model)
        key = (adapter.fingerprint, json.dumps(asdict(request), sort_keys=True))
        known = self._plans.get(key)
        if known is None:
            events.put(Event("phase", "plan"))
            plan = make_plan(adapter, request, pairs, stop=stop.is_set)
            known = PlanAtHand(plan, self._cost(adapter, plan, pairs, stop), request.model)
            self._plans.put(key, known)
        return known

    def _try(self, events, stop, plan, model, pairs) -> PlanAtHand:
        adapter = self.adapter(model)
        events.put(Event("phase", "try"))
        self.compressed(adapter, plan)
        return PlanAtHand(plan, self._cost(adapter, plan, pairs, stop), model)

    @staticmethod
    def _cost(adapter: VLMAdapter, plan: StructuralPlan, pairs: Pairs, stop: threading.Event) -> PlanCost:
        """Return the estimate for the first pair, with the token counts of this model."""
        from pruning.engine.run import encode_image
        from pruning.models.base import RunCallbacks

        prompt = adapter.prompt(pairs[0].picture, pairs[0].question)
        encoded, _ = encode_image(adapter, prompt, RunCallbacks(stop=stop.is_set))
        visual = int(prompt.visual.sum())
        return plan_cost(plan, adapter.info, visual, len(prompt.visual) - visual, encoded.tokens_per_layer)

    def compressed(self, adapter: VLMAdapter, plan: StructuralPlan) -> Compressed:
        """Return the model pruned by a plan; cached for the plans used last."""
        from pruning.engine.session import Compressed

        known = self._views.get(plan.digest)
        if known is None:
            own = sum(after for after, _ in plan.summary().parameters.values()) * adapter.dtype.itemsize
            known = _View(adapter.compressed(plan), own)
            self._views.put(plan.digest, known)
        return Compressed(plan, known.adapter)

    def _run(self, events, stop, request, pictures, answer_region, plan) -> RunRecord:
        from pruning.engine import run as runner  # torch and transformers are slow to import; the page is up before

        adapter = self.adapter(request.model)
        compensator = self._compensator_for(request, adapter)
        callbacks = runner.RunCallbacks(
            phase=lambda phase: events.put(Event("phase", phase)),
            text=lambda phase, text: events.put(Event("text", phase, text)),
            stop=stop.is_set,
            trace=True,
        )
        compressed = None if plan is None else self.compressed(adapter, plan)
        prompt = adapter.prompt(pictures, request.question)
        encoded_key = (request.model, digest_of(pictures))
        full_key = (*encoded_key, request.question, request.max_new_tokens)
        encoded, reused = self._encoded.get(encoded_key), []
        if encoded is not None:
            reused.append(runner.LOOK)
        else:
            encoded = runner.encode_image(adapter, prompt, callbacks)
            self._encoded.put(encoded_key, encoded)
        baseline = self._baselines.get(full_key)
        if baseline is None:
            baseline = runner.answer_in_full(adapter, prompt, *encoded, request.max_new_tokens, callbacks)
            self._baselines.put(full_key, baseline)
        else:
            reused.append(runner.FULL_ANSWER)
            events.put(Event("phase", "full"))
            events.put(Event("text", "full", baseline.answer.text))
        return runner.run(
            request, adapter, pictures,
            runner.RunContext(
                callbacks, *encoded, baseline, answer_region(adapter), tuple(reused), compressed, compensator
            ),
        )  # fmt: skip
