"""Handlers of the Explore tab: plain values in, values of the outputs out. No component is named here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
import numpy as np

from app import messages
from app.errors import sentence_for
from app.handlers.exports import parcel, recipe_of
from app.handlers.imports import Decisions
from app.handlers.links import Link
from app.handlers.requests import RunForm
from app.handlers.status import on_the_way, outcome, status
from app.handlers.visitor_runs import LIVE, VisitorRuns
from app.media.album import Album
from app.media.examples import Example
from app.serving.caches import BoundedCache
from app.serving.captioners import check_link
from app.serving.service import Service
from app.serving.worker import Event, Hold
from app.session import SessionState, Visitor
from pruning.budget import n_keep
from pruning.errors import LinkError, PruningError, RecordFormatError, RunStopped
from pruning.inputs.content import VideoClip, VisualInput, digest_of, images_of
from pruning.methods import FROM_FILES, METHODS, method_class
from pruning.metrics.agreement import random_band
from pruning.models import find_spec
from pruning.records.archive import unpack
from pruning.records.io import is_archive
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord, RunRequest
from viz.page.run import picture_view, run_view

RANDOM_SEEDS = 20


class Handlers:
    """The Explore tab's handlers, bound to the service and the example pictures.

    Args:
        n_tokens: visual tokens of one picture, the scale of the budget slider.
        upload_folder: where visitors' files are stored.
        payloads: of the page's panels by key, computed for every run that is shown.
    """

    def __init__(
        self, service: Service, examples: Sequence[Example], n_tokens: int, upload_folder: Path,
        payloads: Mapping[str, Callable[[RunRecord], Any]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.service, self.examples, self.n_tokens = service, examples, n_tokens
        self.album = Album(examples, upload_folder)
        self._bundles = BoundedCache(16)
        self.runs = VisitorRuns(self.album)
        self._payloads = payloads
        self.decisions = Decisions(self.album)

    # -- uploads ----------------------------------------------------------------------------------------------------

    def bring(self, paths: Sequence[str], state: SessionState, session: str, model: str = "") -> tuple[Any, ...]:
        """Return state, status, what is new of the run, and suggestions for files that a visitor brought: pictures for
        one prompt, a video, or a saved run.

        If it is none of these, or a video and `model` (the page's own by default) is known to read none, the status
        says why, and what was there stays.
        """
        new = SessionState.of_files(paths)
        try:
            if len(paths) == 1 and is_archive(self.album.sent(new)):
                return self._open_run(new, session)
            if self.album.is_video(new):
                self.service.check_video(model or self.service.settings.model)  # before it is decoded
            visual_input, urls = self.album.visual_input(new), self.album.urls(new)
            layout = self.service.layout(model or self.service.settings.model, visual_input)
        except PruningError as error:
            return state, status("error", f"{sentence_for(error)} {messages.STILL_HERE}"), gr.skip(), gr.skip()
        self.service.stop(session, superseded=True)
        canvas = picture_view(urls, visual_input, layout)
        empty = {"cost": None, "compensation": None, "chart": None, "recipe": None, "random": None, "example": None}
        empty |= dict.fromkeys(self._payloads)
        run = {"canvas": canvas, "answers": {"state": "idle"}, "opens": new.picture} | empty
        return new, status("idle", self._in_place(visual_input)), run, {"idea": "", "questions": []}

    def _in_place(self, visual_input: VisualInput) -> str:
        n = len(images_of(visual_input))
        if isinstance(visual_input, VideoClip):
            return messages.NEW_VIDEO.format(n=n, first=visual_input.seconds[0], last=visual_input.seconds[-1])
        if n == 1:
            return messages.NEW_PICTURE
        bundled = f" {messages.ONE_AT_A_TIME}" if self.service.settings.model == "demo" else ""
        return messages.NEW_PICTURES.format(n=n) + bundled

    def _open_run(self, new: SessionState, session: str) -> tuple[Any, ...]:
        """Return the view of a saved run; nothing is computed."""
        record = next(iter(unpack(self.album.sent(new)).values()))
        visual_input, frames = self.album.visual_input(new), sum(map(len, record.layout.frames()))
        if digest_of(visual_input) != record.request.image_digest or len(images_of(visual_input)) != frames:
            raise RecordFormatError("The picture in the file is not the one of its run.", "Bring an unchanged file.")
        try:
            view = run_view(record, self.album.urls(new), recorded=True, how=_how(record), model=_model(record))
            view |= {"recipe": recipe_of(record, LIVE)} | self._panel_views(record)
            json.dumps(view)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            raise RecordFormatError("The saved run is damaged.", "Save it again.") from error
        self.service.stop(session, superseded=True)
        self.runs.remember(session, new, record)
        line = status("idle", messages.OPENED.format(question=record.request.question))
        opened = view | {"example": None, "random": None, "opens": new.picture}
        return new, line, opened, {"idea": "", "questions": []}

    # -- recorded runs --------------------------------------------------------------------------------------------

    def pick_example(self, number: Any, method: str, count: float, session: str) -> tuple[Any, ...]:
        """Return state, question, suggestions, status and recorded run of the example that was clicked."""
        self.service.stop(session, superseded=True)
        number = str(number)
        return self.open_example(min(int(number) if number.isdigit() else 0, len(self.examples) - 1), method, count)

    def open_example(self, number: int, method: str, count: float) -> tuple[Any, ...]:
        """Return an example with the recorded run nearest to the chosen method and number of visual tokens."""
        example = self.examples[number]
        state = SessionState(f"example:{number}")
        usable = isinstance(count, int | float) and math.isfinite(count)
        record = example.recording(method, int(count) if usable else self.n_tokens // 9)
        run = self._recorded_view(number, record, self.album.urls(state)) | {"example": number, "opens": state.picture}
        more = [{"name": name, "title": messages.MORE[name][0]} for name in example.more]
        suggestions = {"idea": example.idea, "questions": [q.text for q in example.questions], "more": more}
        ready = messages.RECORDED if self.service.settings.model == "demo" else messages.RECORDED_ELSEWHERE
        if method in METHODS and method not in example.recorded_stops:
            ready = messages.NOT_RECORDED.format(method=METHODS[method].title)
        return state, record.request.question, suggestions, status("idle", ready), run

    def open_more(self, name: Any, state: SessionState, session: str) -> tuple[Any, ...]:
        """Return question, status and view of a run of the example recorded with a caption or a plan."""
        example = self.album.example(state)
        if example is None or name not in example.more:
            return gr.skip(), status("error", "No such run is recorded of this picture. Press Run instead."), gr.skip()
        record = example.recorded_more(name)
        self.service.stop(session, superseded=True)
        number = self.examples.index(example)
        run = self._recorded_view(number, record, self.album.urls(state), name)
        line = status("idle", messages.RECORDED_MORE.format(advice=messages.MORE[name][1]))
        return record.request.question, line, run | {"example": number, "opens": state.picture}

    def open_link(self, link: Link) -> tuple[SessionState, dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return state, status, run and suggestions for a link; `run["go"]` asks for a live run where none is recorded.

        Raises:
            PruningError: with what is wrong with the link.
        """
        form = link.form
        if form.model != self.service.settings.model:  # nobody's link may make this page load something else
            raise LinkError(
                f"The link asks for the model {form.model[:60]!r}.", "Start PruneScope with --model for it."
            )
        request = self._request(form)
        wanted = request.compensation
        if wanted is not None and wanted.caption is None:
            check_link(wanted.key, link.captioner, self.service.captioners)
        method_class(form.method).from_parameters(request.keep_ratio, request.parameters)
        state, question, suggestions, line, run = self.open_example(link.example, form.method, form.count)
        source = run["recipe"]["source"]
        recorded = (source["method"], source["count"], question) == (form.method, form.count, form.question)
        plain = (request.parameters, request.positions, request.seed, request.compensation) == ({}, "method", 0, None)
        if not (recorded and plain):
            run["go"], line = True, status("idle", messages.FROM_LINK)
        return state, line, run, suggestions

    def recorded(self, number: int) -> str:
        """Return all recorded runs of an example as JSON, for switching between them in the browser."""
        number = number if isinstance(number, int) and 0 <= number < len(self.examples) else 0
        known = self._bundles.get(number)
        if known is None:
            example = self.examples[number]
            runs = {
                method: {c: self._recorded_view(number, example.recording(method, c), [""]) for c in counts}
                for method, counts in example.recorded_stops.items()
            }
            [url] = self.album.urls(SessionState(f"example:{number}"))
            known = json.dumps({"question": example.questions[0].text, "picture": url, "runs": runs})
            self._bundles.put(number, known)
        return known

    def _recorded_view(self, number: int, record: RunRecord, urls: Sequence[str], more: str = "") -> dict[str, Any]:
        example = self.examples[number]
        truth = self._truth(SessionState(f"example:{number}"), record)
        view = run_view(record, urls, recorded=True, how=_how(record), truth=truth, model=_model(record))
        count = n_keep(record.request.keep_ratio, record.layout.n_tokens)
        source = {"kind": "recorded", "example": number, "method": record.request.method, "count": count}
        source |= {"more": more} if more else {}
        view["recipe"] = recipe_of(record, source, example.key, example.place)
        return view | self._panel_views(record) | {"random": example.random_band.get(str(count))}

    def _panel_views(self, record: RunRecord) -> dict[str, Any]:
        return {key: payload(record) for key, payload in self._payloads.items()}

    # -- live runs ------------------------------------------------------------------------------------------------

    def run(self, state: SessionState, form: RunForm, visitor: Visitor) -> Iterator[tuple[Any, ...]]:
        """Yield status and what is new of the run, many times while it is running.

        Whatever fails, what was on the page stays, and the status says what to do.
        """
        began = time.perf_counter()
        try:
            self.service.admit(visitor)
            form = replace(form, parameters=self.decisions.fill(form.method, form.parameters, visitor.session))
            request = self._request(form)
            plan = self.runs.plan_of(visitor.session) if form.with_plan else None
            visual_input = self.album.visual_input(state)
        except (PruningError, TypeError, ValueError, OverflowError) as error:
            yield status("error", sentence_for(error)), gr.skip()
            return
        question, example, urls = request.question, self.album.example(state), self.album.urls(state)
        silent = {"full": "", "pruned": "", "compensated": ""}
        texts, phase, note = dict(silent), "encode", ""

        def say(text: str, kind: str = "busy") -> dict[str, str]:
            return status(kind, f"{text} {note}".strip(), state.picture)

        with self.service.hold(visitor.session) as hold:
            yield say(messages.PHASES["encode"]), gr.skip()  # from here on Stop finds something to stop
            answer_region = self._answer_region_of(example, question)
            for event in self.service.run(hold, request, visual_input, answer_region, plan):
                if event.kind == "failed":
                    yield from self._failed(event.value, hold, state)
                    return
                if event.kind == "done":
                    self.runs.remember(visitor.session, state, event.value)
                    text = messages.FINISHED.format(seconds=time.perf_counter() - began)
                    live = {"method": form.method, "count": form.count, "question": form.question}
                    yield say(text, "idle"), self._live_view(event.value, state, urls) | {"live": live}
                    return
                if event.kind in ("waiting", "download"):
                    yield say(on_the_way(event)), gr.skip()
                    continue
                if event.kind == "held_up":
                    note = messages.HELD_UP
                elif event.kind == "restarted":
                    note, texts, phase = messages.RESTARTED, dict(silent), "encode"
                elif event.kind == "phase":
                    phase = event.phase
                else:
                    texts[event.phase] += event.text
                answers = {"state": "running", "phase": "encode" if phase == "load" else phase, "question": question}
                answers |= {"full_text": texts["full"], "pruned_text": texts["pruned"]}
                if request.compensation is not None:
                    answers["compensated_text"] = texts["compensated"]
                yield say(messages.PHASES[phase]), {"answers": answers, "of": state.picture}

    def _live_view(self, record: RunRecord, state: SessionState, urls: Sequence[str]) -> dict[str, Any]:
        truth = self._truth(state, record)
        view = run_view(record, urls, recorded=False, how=_how(record), truth=truth, model=_model(record))
        recipe = self.runs.recipe(state, record)
        return view | self._panel_views(record) | {"recipe": recipe, "random": None, "of": state.picture}

    def record(
        self, state: SessionState, form: RunForm, visitor: Visitor, plan: StructuralPlan | None = None
    ) -> RunRecord:
        """Return the record of one complete run.

        Raises:
            PruningError: with what is wrong.
        """

        def start(hold: Hold) -> Iterator[Event]:
            request, visual_input = self._request(form), self.album.visual_input(state)
            return self.service.run(hold, request, visual_input, lambda adapter: None, plan)

        return outcome(self.service, visitor, visitor.session, start)

    def run_random(self, source: Any, visitor: Visitor) -> Iterator[tuple[Any, ...]]:
        """Yield status, and at the end the result of random pruning with `RANDOM_SEEDS` seeds on the run that is shown.

        Args:
            source: says which run that is, as `recipe_of` wrote it.
        """
        try:
            self.service.admit(visitor)
            state, record, plan = self.runs.find_with_plan(source, visitor.session)
            visual_input = self.album.visual_input(state)
        except (PruningError, TypeError, ValueError, OverflowError) as error:
            yield status("error", sentence_for(error)), gr.skip()
            return
        words = min(record.request.max_new_tokens, self.service.settings.max_new_tokens)
        form = {"parameters": {}, "positions": "method", "max_new_tokens": words, "compensation": None}
        base = replace(record.request, method="random_baseline", **form)
        answer_region = self._answer_region_of(self.album.example(state), base.question)
        records: list[RunRecord] = []
        with self.service.hold(visitor.session) as hold:
            for seed in range(RANDOM_SEEDS):
                text = messages.RANDOM.format(done=seed, of=RANDOM_SEEDS)
                yield status("busy", text, state.picture), gr.skip()
                for event in self.service.run(hold, replace(base, seed=seed), visual_input, answer_region, plan):
                    if event.kind == "failed":
                        yield from self._failed(event.value, hold, state)
                        return
                    if event.kind == "done":
                        records.append(event.value)
        yield status("idle", messages.RANDOM_DONE), {"random": random_band(records), "of": state.picture}

    # -- export ------------------------------------------------------------------------------------------------

    def take(self, wish: Any, session: str) -> dict[str, Any]:
        """Return the file that the browser asks for: name, type and data; or, under `problem`, why there is none.

        Args:
            wish: `kind`, `stop`, `dark`, `number` (returned with it) and `source`, as `recipe_of` wrote it.
        """
        number = getattr(wish, "number", 0)
        try:
            state, record = self.runs.find(getattr(wish, "source", None), session)
            stop, dark = int(getattr(wish, "stop", 0)), bool(getattr(wish, "dark", False))
            visual_input, files, truth = (
                self.album.visual_input(state),
                self.album.files(state),
                self._truth(state, record),
            )
            made = parcel(record, visual_input, files, str(wish.kind), stop, dark=dark, truth=truth)
        except Exception as error:  # noqa: BLE001 (whatever fails while drawing, the browser must be told)
            return {"number": number, "problem": sentence_for(error)}
        return made | {"number": number}

    def stop(self, session: str) -> Any:
        """Ask the visitor's run to stop; its own handler reports when it has."""
        return gr.skip() if self.service.stop(session) else status("idle", messages.READY)

    @staticmethod
    def _failed(error: BaseException, hold: Hold, state: SessionState) -> Iterator[tuple[Any, ...]]:
        if hold.superseded:  # the visitor went on to something else, which the page shows already
            return
        stopped = isinstance(error, RunStopped)
        kind, text = ("idle", messages.STOPPED) if stopped else ("error", sentence_for(error))
        yield status(kind, text, state.picture), {"answers": {"state": "restore"}, "of": state.picture}

    @staticmethod
    def _answer_region_of(example: Example | None, question: str) -> Callable[[Any], np.ndarray | None]:
        def answer_region(adapter: Any) -> np.ndarray | None:
            return None if example is None else example.answer_region(question, adapter.layout_of(example.picture))

        return answer_region

    def _truth(self, state: SessionState, record: RunRecord) -> str:
        example = self.album.example(state)
        return "" if example is None else example.truth(record.request.question)

    def _request(self, form: RunForm) -> RunRequest:
        return form.request(self.n_tokens, self.service.settings.max_new_tokens, self.service.settings.longest_question)


def _model(record: RunRecord) -> str:
    return find_spec(record.request.model).title


def _how(record: RunRecord) -> list[str]:
    """Return how the method of a run decides, from the docstring of its own file."""
    known = METHODS | FROM_FILES
    if record.request.method not in known:  # a saved run may come from another version
        return []
    said = known[record.request.method].explanation()
    return [
        said["Idea"],
        f"Where: {said['Stage']}. Uses: {said['Needs']}.",
        f"Ran: {record.variant}. Differs from the paper or its code: {said['Differs']}.",
        f"Symbols: {said['Symbols']}. Cost: {said['Cost']}.",
        f"Source: {said['Paper']}.",
    ]
