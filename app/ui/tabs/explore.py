"""The Explore tab: controls of a run, picture, answers, captions and cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from app import messages
from app.errors import sentence_for
from app.handlers.budgets import budgets, opening
from app.handlers.explore import Handlers
from app.handlers.links import read_link
from app.handlers.requests import RunForm
from app.session import visitor_of
from app.settings import Settings
from app.ui.caption_controls import N_VALUES, build_caption_controls, requested_compensation, shown
from app.ui.components import static_component
from app.ui.controls import build_groups
from app.ui.panel import JOB, QUIET, ExploreParts, Panel
from pruning.errors import PruningError
from pruning.methods import FROM_FILES, METHODS
from pruning.models import MODELS, find_spec

OPENING = ("resprune", 64)
TABLE = METHODS | FROM_FILES
PATIENCE = 20  # seconds for loading the start-up model before the presets say that it is not loaded
SWITCH = "(method, count, question) => { window.prunescope.choose(method, count, question); }"


def build_explore(
    page: gr.Blocks, handlers: Handlers, settings: Settings, panels: Sequence[Panel] = ()
) -> tuple[ExploreParts, dict[str, gr.HTML]]:
    """Lay out the tab and wire its events.

    Returns:
        What panels need of it, and the components of the panels below the run, by key.
    """
    first, question, suggestions, status, shown_first = handlers.open_example(0, *OPENING)
    state = gr.State(first)
    with gr.Row(elem_classes="explore"):
        with gr.Column(scale=3, min_width=250, elem_classes="side"):
            strip = static_component(
                "example_strip", _strip(handlers), elem_id="examples", server_functions=[_shelf(handlers)]
            )
            with gr.Row(elem_classes="bring"):
                upload = gr.UploadButton(
                    "Use my picture", file_count="multiple", size="sm", elem_id="upload", min_width=110, scale=0
                )
                gr.Markdown(messages.BRING[find_spec(settings.model).bundled], elem_classes="hint")
            method = gr.Dropdown(_method_choices(), value=OPENING[0], label="Method", elem_id="method")
            about = gr.Markdown(_about(OPENING[0]), elem_classes="hint", elem_id="about-method")
            total = handlers.n_tokens
            count = gr.Slider(1, total, value=OPENING[1], step=1, label="Visual tokens kept", elem_id="count")
            published = static_component("budget_presets", opening(OPENING[1], total), elem_id="budgets")
            with gr.Accordion("Advanced", open=False):
                groups, controls = build_groups(TABLE, OPENING[0])
                decision = gr.UploadButton("Import kept visual tokens or groups", size="sm", elem_id="decision")
                gr.Markdown(messages.DECISION_HELP, elem_classes="hint")
                positions, seed, model = _settings_of_a_run(settings)
                with_plan = gr.Checkbox(
                    value=False, label="Apply the plan of Weight pruning to the weights", elem_id="with-plan"
                )
            words = build_caption_controls(handlers.service.captioners)
            with gr.Row(elem_classes="buttons"):
                go = gr.Button("Run", variant="primary", elem_id="run", min_width=60, scale=2)
                stop = gr.Button("Stop", elem_id="stop", min_width=60, scale=1)
        with gr.Column(scale=10, min_width=320):
            with gr.Row(elem_classes="explore"):
                with gr.Column(scale=6, min_width=320, elem_classes="middle"):
                    line = static_component("status_line", status, elem_id="status")
                    view = static_component("patch_canvas", elem_id="canvas")
                with gr.Column(scale=4, min_width=280, elem_classes="side"):
                    ask = gr.Textbox(
                        question, label="Question", lines=1, max_lines=3, elem_id="question", submit_btn=False
                    )
                    chips = static_component("ask_chips", suggestions, elem_id="chips")
                    pair = static_component("answer_pair", elem_id="answers")
                    static_component("layer_chart", elem_id="layers")
            captions = static_component("compensation", elem_id="captions")
    static_component("cost_strip", elem_id="cost")
    below = {panel.key: static_component(panel.component, elem_id=panel.key) for panel in panels if panel.component}
    away = static_component("export", elem_id="export")
    feed = static_component("run_feed", shown_first, elem_id="feed")

    parameters = [control for by_name in controls.values() for control in by_name.values()]
    known = [state, method, model, *parameters]
    tell: dict[str, Any] = {"fn": _teller(handlers, controls), "inputs": known, "outputs": published, **QUIET}
    strip.pick(_picker(handlers), [method, count], [state, ask, chips, line, feed], **QUIET).then(**tell)
    brought = [state, line, feed, chips]
    upload.upload(_bringer(handlers), [upload, state, model], brought, **QUIET).then(**tell)
    view.picture(_dropped(handlers), [state, model], brought, **QUIET).then(**tell)
    decision.upload(_decider(handlers), decision, [line, method], **QUIET).then(**tell)
    gr.on([c.change for c in (method, model, *parameters)], **tell)
    published.choose(_chosen, None, count, **QUIET)
    away.take(_taker(handlers), None, away, concurrency_limit=2, **(QUIET | {"queue": True}))
    count.change(None, count, None, js="(slider) => { window.prunescope.emit('count', slider); }", **QUIET)
    method.change(_show_parameters, method, [about, *groups], **QUIET)
    words.switch.change(lambda on: gr.update(visible=on), words.switch, words.group, **QUIET)
    for control in (method, count):  # recorded runs are switched in the browser
        control.change(None, [method, count, ask], None, js=SWITCH, **QUIET)
    heavy: dict[str, Any] = {
        "fn": _runner(handlers, controls),
        "inputs": [state, ask, method, count, model, positions, seed, with_plan, *words.values, *parameters],
        "outputs": [line, feed],
        "show_progress": "minimal",
        "show_progress_on": [line],
        **JOB,
    }
    dice = {"fn": _dice(handlers), "inputs": None}
    pair.dice(**(heavy | dice))
    go.click(**heavy).then(**tell)
    ask.submit(**heavy).then(**tell)
    words.caption.submit(**heavy)
    chips.ask(_asked, None, ask, **QUIET).then(**heavy)
    chips.more(_more(handlers), state, [ask, line, feed], **QUIET)
    captions.again(_edited, None, [words.switch, words.caption], **QUIET).then(**heavy)
    stop.click(_stopper(handlers), None, line, **QUIET)
    opened = [state, line, feed, chips, ask, method, count, model, positions, seed, *words.values, *parameters]
    arrived = page.load(_linked(handlers, controls), None, opened, **QUIET)
    arrived.then(None, None, None, js="() => { window.prunescope.begin(); }")
    arrived.then(**(tell | {"fn": _teller(handlers, controls, PATIENCE)}))
    return ExploreParts(heavy["fn"], heavy["inputs"], line, feed, count, model, with_plan, total), below


def _settings_of_a_run(settings: Settings) -> tuple[gr.Dropdown, gr.Number, gr.Dropdown]:
    positions = gr.Dropdown(
        [("as the method does", "method"), "original", "renumbered"],
        value="method",
        label="Positions",
        info="What happens to position ids when visual tokens are dropped.",
    )
    seed = gr.Number(0, label="Seed", precision=0, info="Only methods that draw at random use it.")
    model = gr.Dropdown(_model_choices(settings.model), value=settings.model, label="Model", elem_id="model")
    about = gr.Markdown(_about_model(settings.model), elem_classes="hint", elem_id="about-model")
    model.change(_about_model, model, about, **QUIET)
    return positions, seed, model


def _runner(handlers: Handlers, controls: dict[str, dict[str, Any]]) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Return the handler of Run; of all parameters on the page it passes on those of the chosen method."""
    names = [(key, name) for key, by_name in controls.items() for name in by_name]

    def run(
        request: gr.Request, state, question, key, n, model, policy, seed, with_plan, *values
    ) -> Iterator[tuple[Any, ...]]:
        compensation, own = requested_compensation(*values[:N_VALUES]), values[N_VALUES:]
        mine = {name: v for (owner, name), v in zip(names, own, strict=True) if owner == key}
        form = RunForm(question, key, n, model, policy, seed, mine, compensation, with_plan is True)
        yield from handlers.run(state, form, visitor_of(request))

    return run


def _teller(
    handlers: Handlers, controls: dict[str, dict[str, Any]], patience: float = 0
) -> Callable[..., dict[str, Any]]:
    """Return the handler that says what the paper budgets mean; it waits `patience` seconds for the start-up model."""
    names = [(key, name) for key, by_name in controls.items() for name in by_name]

    def tell(request: gr.Request, state, key, model, *values) -> dict[str, Any]:
        handlers.service.warm.wait(patience)
        own = {name: v for (owner, name), v in zip(names, values, strict=True) if owner == key}
        return budgets(handlers, state, key, model, own, request.session_hash or "")

    return tell


def _decider(handlers: Handlers) -> Callable[..., tuple[Any, ...]]:
    def bring(request: gr.Request, path) -> tuple[Any, ...]:
        return handlers.decisions.bring(str(path), request.session_hash or "")

    return bring


def _chosen(event: gr.EventData) -> Any:
    return getattr(event, "slider", gr.skip())


def _shelf(handlers: Handlers) -> Callable[[int], str]:
    def recorded(number: int) -> str:
        return handlers.recorded(number)

    return recorded


def _dice(handlers: Handlers) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def dice(request: gr.Request, event: gr.EventData) -> Iterator[tuple[Any, ...]]:
        yield from handlers.run_random(getattr(event, "source", None), visitor_of(request))

    return dice


def _linked(handlers: Handlers, controls: dict[str, dict[str, Any]]) -> Callable[..., list[Any]]:
    """Return the handler of page load: a link's values for all controls, or nothing."""
    names = [(key, name) for key, by_name in controls.items() for name in by_name]

    def open_link(request: gr.Request) -> list[Any]:
        untouched = [gr.skip()] * (10 + N_VALUES + len(names))
        try:
            link = read_link(dict(request.query_params), handlers.album.examples, handlers.service.settings.model)
            if link is None:
                problem = handlers.service.problem
                return [untouched[0], {"kind": "error", "text": problem}, *untouched[2:]] if problem else untouched
            opened = handlers.open_link(link)
        except PruningError as error:
            return [untouched[0], {"kind": "error", "text": sentence_for(error)}, *untouched[2:]]
        form = link.form
        own = [form.parameters.get(n, gr.skip()) if key == form.method else gr.skip() for key, n in names]
        settings = [form.question, form.method, form.count, form.model, form.positions, form.seed]
        return [*opened, *settings, *shown(form.compensation), *own]

    return open_link


def _picker(handlers: Handlers) -> Callable[..., tuple[Any, ...]]:
    def pick(request: gr.Request, event: gr.EventData, method, count) -> tuple[Any, ...]:
        return handlers.pick_example(getattr(event, "number", ""), method, count, request.session_hash or "")

    return pick


def _bringer(handlers: Handlers) -> Callable[..., tuple[Any, ...]]:
    def bring(request: gr.Request, paths, state, model) -> tuple[Any, ...]:
        return handlers.bring([str(p) for p in paths or ()], state, request.session_hash or "", model)

    return bring


def _dropped(handlers: Handlers) -> Callable[..., tuple[Any, ...]]:
    def dropped(request: gr.Request, event: gr.EventData, state, model) -> tuple[Any, ...]:
        paths = getattr(event, "paths", None)
        paths = [str(p) for p in paths] if isinstance(paths, list) else []
        return handlers.bring(paths, state, request.session_hash or "", model)

    return dropped


def _taker(handlers: Handlers) -> Callable[..., dict[str, Any]]:
    def take(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        return handlers.take(event, request.session_hash or "")

    return take


def _stopper(handlers: Handlers) -> Callable[..., Any]:
    def stop(request: gr.Request) -> Any:
        return handlers.stop(request.session_hash or "")

    return stop


def _asked(event: gr.EventData) -> str:
    return str(event.question)


def _more(handlers: Handlers) -> Callable[..., tuple[Any, ...]]:
    def more(request: gr.Request, event: gr.EventData, state) -> tuple[Any, ...]:
        return handlers.open_more(getattr(event, "name", ""), state, request.session_hash or "")

    return more


def _edited(event: gr.EventData) -> tuple[bool, str]:
    return True, str(getattr(event, "caption", ""))


def _strip(handlers: Handlers) -> dict[str, Any]:
    shown = [{"title": e.title, "alt": e.alt, "thumbnail": e.thumbnail} for e in handlers.examples]
    return {"examples": shown}


def _method_choices() -> list[tuple[str, str]]:
    return [(m.title, m.key) for m in TABLE.values()]


def _model_choices(chosen: str) -> list[tuple[str, str]]:
    choices = [(f"{m.title} ({m.parameters})", m.key) for m in MODELS.values()]
    return choices if chosen in MODELS else [*choices, (chosen, chosen)]


def _about_model(key: str) -> str:
    spec = find_spec(key)
    if spec.key not in MODELS:  # given by id or folder
        return f"Licence: {spec.licence}."
    disk = f", {spec.disk} to download" if spec.disk else ""
    return messages.MODEL_HELP.format(parameters=spec.parameters, disk=disk, memory=spec.memory, licence=spec.licence)


def _about(key: str) -> str:
    method = TABLE[key]
    return messages.METHOD_HELP.format(idea=method.idea[0].upper() + method.idea[1:], where=method.acts)


def _show_parameters(key: str) -> list[Any]:
    return [_about(key), *(gr.update(visible=k == key) for k in TABLE)]
