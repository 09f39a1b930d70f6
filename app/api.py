"""The page's functions for programs: five named endpoints, typed, with the JSON that the exports hold.

Everything else on the page is private to it. A picture arrives as Gradio's clients send files (`handle_file(path)`).
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import gradio as gr
import numpy as np

from app.errors import sentence_for
from app.handlers import Handlers
from app.session import SessionState
from pruning import catalogue
from pruning.records import RunRecord
from viz.recipe import figures_of

ENDPOINTS = ("list_methods", "list_models", "prune_map", "answer", "compare")


def build_api(handlers: Handlers) -> None:
    """Register the endpoints on the page that is being built. Errors come back as `{"error": sentence}`."""

    def list_methods() -> list[dict[str, Any]]:
        """All pruning methods, with their parameters."""
        return catalogue.list_methods()

    def list_models() -> list[dict[str, Any]]:
        """All models of the table; this page serves the one it was started with."""
        return catalogue.list_models()

    def prune_map(
        request: gr.Request,
        image: dict[str, Any],
        question: str,
        method: str = "resprune",
        keep: int = 64,
        parameters: dict[str, Any] | None = None,
        positions: str = "method",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Which visual tokens a method keeps: the layout, and every stage's kept, merged and scored tokens."""
        return _answer(handlers, request, (image, question, method, keep, parameters, positions, seed), _map)

    def answer(
        request: gr.Request,
        image: dict[str, Any],
        question: str,
        method: str = "resprune",
        keep: int = 64,
        parameters: dict[str, Any] | None = None,
        positions: str = "method",
        seed: int = 0,
    ) -> dict[str, Any]:
        """Both answers and the run's figures, as every export carries them."""
        return _answer(handlers, request, (image, question, method, keep, parameters, positions, seed), figures_of)

    def compare(
        request: gr.Request,
        image: dict[str, Any],
        question: str,
        method: str = "resprune",
        keep: int = 64,
        parameters: dict[str, Any] | None = None,
        positions: str = "method",
        seed: int = 0,
    ) -> dict[str, Any]:
        """The whole record of a run: the JSON of a saved run, and its arrays as lists."""
        return _answer(handlers, request, (image, question, method, keep, parameters, positions, seed), _record)

    for function in (list_methods, list_models):
        gr.api(function, api_name=function.__name__, queue=False)
    for function in (prune_map, answer, compare):
        gr.api(function, api_name=function.__name__, concurrency_limit=8, concurrency_id="api")


def _answer(handlers: Handlers, request: gr.Request, asked: tuple[Any, ...], shape: Any) -> dict[str, Any]:
    image, question, method, keep, parameters, positions, seed = asked
    path = image.get("path") if isinstance(image, dict) else None
    session = f"api:{request.session_hash or secrets.token_hex(8)}"
    try:
        record = handlers.record(
            SessionState(f"upload:{path}"), question, method, keep, positions, seed, parameters or {}, session
        )
    except Exception as error:  # noqa: BLE001 (programs get a sentence too, and the log the rest)
        return {"error": sentence_for(error)}
    return shape(record)


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
                "merged_into": {int(i): int(s.merged_into[i]) for i in s.merged},
                "scores": scores,
            }
        )
    return {"layout": record.layout.to_dict(), "tokens": record.layout.n_tokens, "stages": stages}


def _record(record: RunRecord) -> dict[str, Any]:
    data, arrays = record.to_parts()
    return {"record": data, "arrays": {n: {"shape": list(a.shape), "values": _plain(a)} for n, a in arrays.items()}}


def _plain(array: np.ndarray) -> list[Any]:
    """Values in order, with null where a number is not finite: JSON has no word for it."""
    return [v if math.isfinite(v) else None for v in array.ravel().tolist()]
