"""The API of the page: named, typed endpoints that return the same JSON as the exports.

Everything else on the page is private to it. A picture arrives as Gradio's clients send files (`handle_file(path)`);
further pictures of the same prompt come as a list of them. For the Qwen families it may be a video file.
"""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from app.errors import sentence_for
from app.handlers.explore import Handlers
from app.handlers.requests import PlanForm, RunForm
from app.handlers.structure import Planning
from app.session import SessionState, Visitor, visitor_of
from pruning import catalogue
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord
from viz.export.recipe import figures_of
from viz.page.structure import maps_view


def build_api(handlers: Handlers, planning: Planning) -> None:
    """Register the endpoints on the page that is being built. Errors are returned as `{"error": sentence}`."""

    def list_methods() -> list[dict[str, Any]]:
        """List all pruning methods, with their parameters."""
        return catalogue.list_methods()

    def list_models() -> list[dict[str, Any]]:
        """List all models of the table; this page serves the one it was started with."""
        return catalogue.list_models()

    def list_compensators() -> list[dict[str, Any]]:
        """List all compensators; `here`: whether this page has a captioner for it."""
        return [c | {"here": c["key"] in handlers.service.captioners} for c in catalogue.list_compensators()]

    def list_scores() -> list[dict[str, Any]]:
        """List all scores for attention heads, with their options."""
        return catalogue.list_scores()

    for function in (list_methods, list_models, list_compensators, list_scores):
        gr.api(function, api_name=function.__name__, queue=False)
    for name, (description, shape) in SHAPES.items():
        function = _endpoint(handlers, description, shape)
        gr.api(function, api_name=name, concurrency_limit=8, concurrency_id="api")
    gr.api(_planner(planning), api_name="plan", concurrency_limit=8, concurrency_id="api")


def _endpoint(handlers: Handlers, description: str, shape: Callable[[RunRecord], dict[str, Any]]) -> Callable[..., Any]:
    """Return an endpoint that runs once and returns the record in one shape.

    Gradio reads names, types and defaults of the parameters off the signature.
    """

    def endpoint(
        request: gr.Request,
        image: dict[str, Any],
        question: str,
        method: str = "resprune",
        keep: int = 64,
        parameters: dict[str, Any] | None = None,
        positions: str = "method",
        seed: int = 0,
        compensation: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        more_images: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        model = handlers.service.settings.model
        form = RunForm(question, method, keep, model, positions, seed, parameters or {}, compensation)
        try:
            weights = None if plan is None else StructuralPlan.from_bytes(handlers.album.sent(_files(plan)))
            return shape(handlers.record(_files(image, *_listed(more_images)), form, _program(request), weights))
        except Exception as error:  # noqa: BLE001 (programs get a sentence too, and the log the rest)
            return {"error": sentence_for(error)}

    endpoint.__doc__ = description
    return endpoint


def _planner(planning: Planning) -> Callable[..., dict[str, Any]]:
    def plan(
        request: gr.Request,
        score: str = "infoprune",
        heads_out: float = 30,
        ffn: str = "none",
        where: str = "both",
        parameters: dict[str, Any] | None = None,
        erank_factor: float = 1,
        tau: float = 0.1,
        ffn_flops: float = 0.5,
        whitening: bool = False,  # noqa: FBT001, FBT002 (a field of a request, given by name)
        seed: int = 0,
    ) -> dict[str, Any]:
        """A structural plan for the page's model: its summary, its estimated cost, the scores of all heads, and
        the plan's file in base64, which the endpoints that run take as `plan`.
        """
        model = planning.service.settings.model
        form = PlanForm(
            model, score, heads_out, ffn, where, parameters or {}, erank_factor, tau, ffn_flops, whitening, seed
        )
        try:
            found = planning.plan(form, _program(request))
            return {
                "summary": found.plan.summary().to_dict(),
                "estimated_flops": {
                    "parts": {p.value: two for p, two in found.cost.parts.items()},
                    "full": found.cost.full,
                },
                "heads": maps_view(found.plan)["parts"],
                "file": base64.b64encode(found.plan.to_bytes()).decode(),
            }
        except Exception as error:  # noqa: BLE001 (as above)
            return {"error": sentence_for(error)}

    return plan


def _program(request: gr.Request) -> Visitor:
    visitor = visitor_of(request)
    return replace(visitor, session=f"api:{visitor.session or secrets.token_hex(8)}")


def _listed(sent: Any) -> list[Any]:
    """Return what a program sent as a list, whatever it is."""
    return sent if isinstance(sent, list) else [] if sent is None else [sent]


def _files(*sent: Any) -> SessionState:
    """Return what a program sent as the album names it."""
    return SessionState.of_files(str(file.get("path")) if isinstance(file, dict) else "" for file in sent)


def _map(record: RunRecord) -> dict[str, Any]:
    stages = []
    for step in record.steps:
        s = step.selection
        scores = None if s.scores is None else _plain(s.scores)
        stages.append(
            {
                "part": step.stage.part.value,
                "layer": step.stage.layer,
                "kept": s.kept.tolist(),
                "merged_into": {str(i): int(s.merged_into[i]) for i in s.merged},  # JSON has text keys only
                "scores": scores,
            }
        )
    return {"layout": record.layout.to_dict(), "tokens": record.layout.n_tokens, "stages": stages}


def _record(record: RunRecord) -> dict[str, Any]:
    data, arrays = record.to_parts()
    return {"record": data, "arrays": {n: {"shape": list(a.shape), "values": _plain(a)} for n, a in arrays.items()}}


def _plain(array: np.ndarray) -> list[Any]:
    """Return the values in order, with null where a number is not finite: JSON has no such number."""
    return [v if math.isfinite(v) else None for v in array.ravel().tolist()]


SHAPES: dict[str, tuple[str, Callable[[RunRecord], dict[str, Any]]]] = {
    "prune_map": ("Which visual tokens a method keeps: layout, and kept, merged and scores of every stage.", _map),
    "answer": ("The answers and the run's figures, as every export contains them.", figures_of),
    "compare": ("The whole record of a run: the JSON of a saved run, and its arrays as lists.", _record),
}
ENDPOINTS = ("list_methods", "list_models", "list_compensators", "list_scores", *SHAPES, "plan")
