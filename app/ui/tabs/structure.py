"""The Weight pruning tab: structural plans for attention heads and feed-forward ranks, and runs with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from app import messages
from app.handlers.requests import BOTH, FFN_OPTIONS, PARTS, PlanForm
from app.handlers.structure import FIRST, Planning
from app.session import visitor_of
from app.ui.components import static_component
from app.ui.controls import build_groups
from app.ui.panel import JOB, QUIET, ExploreParts, PageContext, Panel
from pruning.benchmarks.reports import DENSE, figures, points, structural_section
from pruning.catalogue import list_scores
from pruning.models import find_spec
from pruning.records.plan import TRAINED
from pruning.structural import STRUCTURAL
from viz.charts import plans_chart
from viz.theme import theme

FFN_CHOICES = [
    ("keep full rank", "none"),
    ("effective rank", "erank"),
    ("mass of the spectrum", "mass"),
    ("budget over all matrices", "budget"),
    ("fewer hidden units", "bottleneck"),
]
TOKENS = {"as": "those of Explore", "all": "all, so that only the weights differ"}
RUN_HELP = (
    "Asks Explore's question about Explore's picture: the full model with all visual tokens, then the pruned one."
)

CURVES = """
### Accuracy against multiply-adds, measured

The bundled model on drawn scenes that nothing was trained or calibrated on, full picture, one standard error. The
paper's claim, made elsewhere on photographs, is up to 3.2 times fewer multiply-adds with little loss.
"""


def _build(tab: gr.Tab, planning: Planning, context: PageContext) -> None:
    """Lay out the tab and wire its events."""
    exploring = context.explore
    gates = planning.gates.exists()
    with gr.Row(elem_classes="explore weight-pruning"):
        with gr.Column(scale=3, min_width=250, elem_classes="side"):
            model = gr.Markdown(_model(exploring.model.value), elem_id="plan-model", elem_classes="hint")
            score = gr.Dropdown(_score_choices(gates=gates), value=FIRST["score"], label="Score", elem_id="score")
            about = gr.Markdown(_about(FIRST["score"]), elem_classes="hint", elem_id="about-score")
            with gr.Group() as chosen:
                with gr.Accordion("Options of the score", open=False) as accordion:
                    groups, controls = build_groups(STRUCTURAL, FIRST["score"])
                seed = gr.Number(0, label="Seed of the draw", precision=0, visible=False)
                out = gr.Slider(0, 99, value=FIRST["out"], step=0.01, label="Heads to remove, %", elem_id="heads-out")
                where = gr.Dropdown(list(PARTS), value=BOTH, label="Where", elem_id="where")
                ffn = gr.Dropdown(FFN_CHOICES, value=FIRST["ffn"], label="Feed-forward ranks", elem_id="ffn")
                rules = _rule_controls(FIRST["ffn"])
            with gr.Row(elem_classes="buttons"):
                make = gr.Button("Make a plan", variant="primary", elem_id="make-plan", min_width=60, scale=2)
                stop = gr.Button("Stop", elem_id="stop-plan", min_width=60, scale=1)
            with gr.Row(elem_classes="buttons"):
                save = gr.Button("Save plan", size="sm", elem_id="save-plan", min_width=60)
                bring = gr.UploadButton("Open plan", size="sm", elem_id="open-plan", min_width=60, file_types=[".zip"])
        with gr.Column(scale=6, min_width=320, elem_classes="middle"):
            line = static_component(
                "status_line", {"kind": "idle", "text": messages.NO_PLAN_YET}, elem_id="plan-status", own=True
            )
            head = static_component("plan_head", elem_id="plan")
            heads = static_component("head_map", elem_id="heads")
            card = static_component("head_card", elem_id="head")
        with gr.Column(scale=4, min_width=280, elem_classes="side"):
            static_component("plan_sums", elem_id="sums")
            gr.Markdown(RUN_HELP, elem_classes="hint")
            visual_tokens = gr.Radio([(text, key) for key, text in TOKENS.items()], value="as", label="Visual tokens")
            go = gr.Button("Run with this plan", variant="primary", elem_id="run-plan")
            static_component("answer_pair", elem_id="plan-answers")
    static_component("ffn_bars", elem_id="ranks")
    static_component("gate_chart", elem_id="gates", without=messages.GATES_SHIPPED if gates else messages.GATES_MISSING)
    _show_curves()
    saver = static_component("file_saver", elem_id="plan-file")

    outputs = [line, head]
    heavy: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", **JOB}
    options = [control for by_name in controls.values() for control in by_name.values()]
    plan = {
        "fn": _maker(planning, controls),
        "inputs": [exploring.model, score, out, where, ffn, *rules, seed, *options],
    }
    tab.select(_opener(planning), exploring.model, **heavy)
    make.click(**(heavy | plan))
    heads.share(_share, None, out, **QUIET).then(**(heavy | plan))
    bring.upload(_bringer(planning), [bring, exploring.model], **heavy)
    stop.click(_stopper(planning), None, None, **QUIET)
    save.click(_saver(planning), None, [saver, line], **QUIET)
    heads.curves(_head(planning), None, card, **QUIET)
    attending = {"fn": _head_attention_handler(planning), "inputs": exploring.inputs[:2], "outputs": [line, card]}
    card.head_attention(**(heavy | attending))
    score.change(_show_options, score, [about, chosen, seed, accordion, *groups], **QUIET)
    ffn.change(_show_rule, ffn, rules, **QUIET)
    exploring.model.change(_model, exploring.model, model, **QUIET)
    running = {"fn": _runner(exploring), "inputs": [visual_tokens, *exploring.inputs]}
    go.click(**(heavy | running | {"outputs": [line, exploring.line, exploring.feed]}))
    go.click(lambda: True, None, exploring.with_plan, **QUIET)


def _show_curves() -> None:
    """Show the measured accuracy of plans of this kind on the bundled model, or how to measure it."""
    found = figures("structural")
    gr.Markdown(CURVES if found is not None else f"{CURVES}\n\n{structural_section()}")
    if found is None:
        return
    curve, full = points(found), found["plans"][DENSE]["accuracy"]["value"]
    for number, where in enumerate(dict.fromkeys(p.where for p in curve)):
        chart = plans_chart(curve, where, full, theme=theme(dark=False))
        gr.Plot(chart, show_label=False, elem_id=f"curve-{number}", buttons=[])


def _rule_controls(chosen: str) -> list[gr.components.Component]:
    """Controls of the feed-forward rules, in the order of `_RULES`; those that the rule does not use are hidden."""
    used = FFN_OPTIONS.get(chosen, ())
    return [
        gr.Slider(1, 2, value=1, step=0.05, label="c: ranks are c × effective rank", visible="erank_factor" in used),
        gr.Slider(0, 0.5, value=0.1, step=0.01, label="τ: largest mass given up", visible="tau" in used),
        gr.Slider(0.05, 1, value=0.5, step=0.05, label="Share of the multiply-adds kept", visible="ffn_flops" in used),
        gr.Checkbox(
            value=False,
            label="Whitening: weight matrices by their inputs (an extension)",
            visible="whitening" in used,
        ),
    ]


_RULES = ("erank_factor", "tau", "ffn_flops", "whitening")


def _show_rule(rule: str) -> list[Any]:
    used = FFN_OPTIONS.get(rule, ())
    return [gr.update(visible=name in used) for name in _RULES]


def _score_choices(*, gates: bool) -> list[tuple[str, str]]:
    choices = [(s["title"], s["key"]) for s in list_scores()]
    return [*choices, ("InfoPrune, trained gates", TRAINED)] if gates else choices


def _show_options(key: str) -> list[Any]:
    """Return the text of the score and the controls it uses; a trained plan has its own values."""
    return [
        _about(key),
        gr.update(visible=key != TRAINED),
        gr.update(visible=key == "random"),
        gr.update(visible=bool(key in STRUCTURAL and STRUCTURAL[key].parameters())),
        *(gr.update(visible=k == key) for k in STRUCTURAL),
    ]


def _about(key: str) -> str:
    if key == TRAINED:
        return "Gates trained against the full model's own answers. Share and ranks are those of the training."
    idea = STRUCTURAL[key].idea
    return f"{idea[0].upper()}{idea[1:]}."


def _model(key: str) -> str:
    return f"Model in use: **{find_spec(key).title}**. Choose another one under Explore, Advanced."


def _share(event: gr.EventData) -> float:
    out = getattr(event, "out", 0)
    return round(min(99.0, max(0.0, float(out))), 2) if isinstance(out, int | float) else 0.0


def _opener(planning: Planning) -> Callable[..., Iterator[tuple[Any, Any]]]:
    def open_tab(request: gr.Request, model) -> Iterator[tuple[Any, Any]]:
        yield from planning.first(model, visitor_of(request))

    return open_tab


def _maker(planning: Planning, controls: dict[str, dict[str, Any]]) -> Callable[..., Iterator[tuple[Any, Any]]]:
    names = [(key, name) for key, by_name in controls.items() for name in by_name]

    def make(request: gr.Request, model, score, out, where, ffn, *rest) -> Iterator[tuple[Any, Any]]:
        rules, seed, values = dict(zip(_RULES, rest, strict=False)), rest[len(_RULES)], rest[len(_RULES) + 1 :]
        mine = {name: v for (owner, name), v in zip(names, values, strict=True) if owner == score}
        values_now = PlanForm(model, score, out, ffn, where, mine, seed=seed, **rules)
        yield from planning.make(values_now, visitor_of(request))

    return make


def _bringer(planning: Planning) -> Callable[..., Iterator[tuple[Any, Any]]]:
    def bring(request: gr.Request, path, model) -> Iterator[tuple[Any, Any]]:
        yield from planning.open(str(path), model, visitor_of(request))

    return bring


def _stopper(planning: Planning) -> Callable[..., None]:
    def stop(request: gr.Request) -> None:
        planning.stop(request.session_hash or "")

    return stop


def _saver(planning: Planning) -> Callable[..., tuple[Any, Any]]:
    def save(request: gr.Request) -> tuple[Any, Any]:
        return planning.save(request.session_hash or "")

    return save


def _head(planning: Planning) -> Callable[..., dict[str, Any]]:
    def head(request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        return planning.head(event, request.session_hash or "")

    return head


def _head_attention_handler(planning: Planning) -> Callable[..., Iterator[tuple[Any, Any]]]:
    def head_attention(request: gr.Request, event: gr.EventData, state, question) -> Iterator[tuple[Any, Any]]:
        yield from planning.head_attention(event, state, question, visitor_of(request))

    return head_attention


def _runner(exploring: ExploreParts) -> Callable[..., Iterator[tuple[Any, ...]]]:
    """Return Explore's run with the plan and, if chosen, all visual tokens; its status appears on both tabs."""
    places = {component: place for place, component in enumerate(exploring.inputs)}

    def run(request: gr.Request, visual_tokens, *values) -> Iterator[tuple[Any, ...]]:
        values_now = list(values)
        values_now[places[exploring.with_plan]] = True
        if visual_tokens == "all":
            values_now[places[exploring.count]] = exploring.total
        for status, outputs in exploring.run(request, *values_now):
            yield status, status, outputs

    return run


WEIGHT_PRUNING = Panel(
    key="weight_pruning",
    title="Weight pruning",
    handlers=lambda context: Planning(context.service, context.runs),
    build=_build,
)
