"""Handlers of the Weight pruning tab: make, open and save plans, and show the curves of a head."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app import messages
from app.errors import sentence_for
from app.handlers.requests import PlanForm
from app.handlers.status import Said, follow, outcome, status
from app.handlers.visitor_runs import VisitorRuns
from app.media.examples import ASSETS, Example
from app.serving.service import PlanAtHand, Service
from app.serving.worker import Event, Hold
from app.session import SessionState, Visitor
from pruning.errors import PlanError, PruningError
from pruning.inputs.questions import Pair, clean_question
from pruning.interface import Part
from pruning.models import find_spec
from pruning.records.plan import TRAINED, StructuralPlan
from viz.page.head_attention import head_attention_view
from viz.page.structure import head_view, plan_view

GATES = ASSETS / "models" / "demo_gates" / "plan.zip"  # trained gates of the bundled model, where they come with it
FIRST = {"score": "infoprune", "out": 30, "ffn": "mass"}  # the plan made when the tab is first opened
_DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError, ArithmeticError)


class ExamplePairs:
    """The example pictures, each with its first question: small, always available, and equal for all visitors."""

    title = "the example pictures"

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> Pair:
        example = self._examples[number % len(self)]
        return Pair(example.picture, example.questions[0].text, example.questions[0].answer)


class Planning:
    """The Weight pruning tab's handlers. A visitor's plan is stored in `runs.plans`, where runs find it.

    Args:
        gates: file of the trained plan that comes with the bundled model; it need not be there.
    """

    def __init__(self, service: Service, runs: VisitorRuns, gates: Path = GATES) -> None:
        self.service, self.runs, self.gates = service, runs, gates
        self.pairs = ExamplePairs(runs.album.examples)

    def first(self, model: Any, visitor: Visitor) -> Iterator[Said]:
        """Yield status and plan when the tab is opened: nothing new for a visitor who has a plan; else a first plan,
        but for the bundled model only, where it takes a moment.
        """
        if self.runs.plans.get(visitor.session) is not None:
            yield gr.skip(), gr.skip()
        elif isinstance(model, str) and find_spec(model).bundled:
            yield from self.make(PlanForm(model, **FIRST), visitor)
        else:
            yield status("idle", messages.NO_PLAN_YET), gr.skip()

    def make(self, form: PlanForm, visitor: Visitor) -> Iterator[Said]:
        """Yield status, and at the end the plan. On failure the plan before it is kept, and the status says why."""

        def start(hold: Hold) -> Iterator[Event]:
            if form.score == TRAINED:
                plan = StructuralPlan.load(self.gates)
                return self.service.take_plan(hold, plan, form.model, self.pairs)
            return self.service.make_plan(hold, form.request(len(self.pairs)), self.pairs)

        return self._follow(visitor, "plan", start, self._taker(visitor), messages.PLANNED)

    def plan(self, form: PlanForm, visitor: Visitor) -> PlanAtHand:
        """Return a plan.

        Raises:
            PruningError: with what is wrong.
        """

        def start(hold: Hold) -> Iterator[Event]:
            return self.service.make_plan(hold, form.request(len(self.pairs)), self.pairs)

        return outcome(self.service, visitor, _key(visitor.session), start)

    def open(self, path: str, model: Any, visitor: Visitor) -> Iterator[Said]:
        """As `make`, for a plan file that the visitor sent."""

        def start(hold: Hold) -> Iterator[Event]:
            file = self.runs.album.sent(SessionState(f"upload:{path}"))
            return self.service.take_plan(hold, StructuralPlan.from_bytes(file), model, self.pairs)

        return self._follow(visitor, "plan", start, self._taker(visitor), messages.PLAN_OPENED)

    def save(self, session: str) -> tuple[Any, dict[str, str]]:
        """Return the visitor's plan as a file (name, type, base64 data and a number of its own), and a status."""
        mine = self.runs.plans.get(session)
        if mine is None:
            return gr.skip(), status("error", messages.NO_PLAN_YET)
        try:
            data = mine.plan.to_bytes()
        except PruningError as error:
            return gr.skip(), status("error", sentence_for(error))
        score = re.sub(r"[^a-z0-9_]", "", str(mine.plan.request.score).lower())[:40]
        name = f"prunescope-plan-{score}-{mine.plan.digest[:8]}.zip"
        parcel = {"name": name, "type": "application/zip", "data": base64.b64encode(data).decode()}
        return parcel | {"number": time.time_ns()}, status("idle", messages.PLAN_SAVED.format(name=name))

    def head(self, wish: Any, session: str) -> dict[str, Any]:
        """Return the curves of a head of the visitor's plan; or, under `problem`, why there are none.

        Args:
            wish: `part`, `layer` and `head`, as the map sends them.
        """
        mine = self.runs.plans.get(session)
        if mine is None:
            return {"problem": messages.NO_PLAN_YET}
        try:
            view = head_view(mine.plan, str(wish.part), int(wish.layer), int(wish.head))
            json.dumps(view, allow_nan=False)
        except _DAMAGE:
            return {"problem": "The plan has no curves of that head. Make a plan and click it again."}
        return view

    def head_attention(self, wish: Any, state: SessionState, question: Any, visitor: Visitor) -> Iterator[Said]:
        """Yield status, and at the end the head's card with its attention, drawn on the picture that Explore shows.

        Args:
            wish: `part`, `layer` and `head`, as the card sends them.
        """
        card = self.head(wish, visitor.session)
        if "problem" in card:
            yield status("error", card["problem"]), gr.skip()
            return

        model = self.runs.plans.get(visitor.session).model

        def start(hold: Hold) -> Iterator[Event]:
            picture, form = self.runs.album.pictures(state)[0], clean_question(question)
            return self.service.on_a_worker(hold, model, self._head_attention, model, picture, form, card)

        yield from self._follow(
            visitor,
            "head",
            start,
            lambda head_attention: card | {"attention": head_attention},
            messages.HEAD_ATTENTION_DONE,
        )

    def _head_attention(self, events, stop, model, picture, question, card) -> dict[str, Any]:
        from pruning.engine.head_attention import head_attention  # torch is slow to import; the page is up before

        adapter = self.service.adapter(model)
        events.put(Event("phase", "head"))
        prompt, part = adapter.prompt(picture, question), Part(card["part"])
        weights = head_attention(adapter, prompt, part, card["layer"], card["head"], card["of"], stop.is_set)
        return head_attention_view(picture, prompt.layout, weights, card["part"])

    def _taker(self, visitor: Visitor) -> Callable[[PlanAtHand], dict[str, Any]]:
        """Return a function that keeps a plan as the visitor's and returns its view."""

        def take(at_hand: PlanAtHand) -> dict[str, Any]:
            view = _view(at_hand)
            self.runs.plans.put(visitor.session, at_hand)
            return view

        return take

    def stop(self, session: str) -> None:
        """Stop the visitor's planning, and their run."""
        self.service.stop(_key(session))
        self.service.stop(session)

    def _follow(
        self, visitor: Visitor, phase: str, start: Callable[[Hold], Iterator[Event]], show: Callable[[Any], Any],
        done: str,
    ) -> Iterator[Said]:  # fmt: skip
        """Yield status while a job runs, beginning with `phase`, and what `show` makes of its value."""
        began = time.perf_counter()

        def finish(value: Any) -> Said:
            view = show(value)
            return status("idle", done.format(seconds=time.perf_counter() - began)), view

        yield status("busy", messages.PHASES[phase]), gr.skip()
        yield from follow(self.service, visitor, _key(visitor.session), start, finish)


def _view(at_hand: PlanAtHand) -> dict[str, Any]:
    """Return a plan's view for the browser. A file may contain anything; what cannot be shown is refused."""
    spec = find_spec(at_hand.model)
    try:
        view = plan_view(at_hand.plan, at_hand.cost, f"{spec.title} ({spec.parameters} parameters)")
        json.dumps(view, allow_nan=False)
    except _DAMAGE as error:
        raise PlanError("The plan contains something that cannot be shown.", "Make it again.") from error
    return view


def _key(session: str) -> str:
    """Return the key of a session's planning, which does not stop its runs."""
    return f"plan:{session}"
