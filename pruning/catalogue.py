"""List methods, head scores, compensators and models, with their parameters, as data and as Markdown tables."""

from __future__ import annotations

from typing import Any

from pruning.compensation import COMPENSATORS
from pruning.interface import Signal
from pruning.methods import METHODS
from pruning.methods.base import TokenPruner
from pruning.models import MODELS
from pruning.parameters import Choice, Param
from pruning.structural import STRUCTURAL


def list_methods() -> list[dict[str, Any]]:
    """Every method with its paper, what it needs and its parameters; JSON-ready."""
    return [_describe(method) for method in METHODS.values()]


def list_compensators() -> list[dict[str, str]]:
    """Every compensator; JSON-ready."""
    return [{"key": c.key, "title": c.title, "idea": c.idea, "paper": c.paper} for c in COMPENSATORS.values()]


def list_scores() -> list[dict[str, Any]]:
    """Every head score with its options; JSON-ready."""
    return [
        {"key": s.key, "title": s.title, "idea": s.idea, "paper": s.paper,
         "parameters": [_declared(n, getattr(s(), n), d) for n, d in s.parameters().items()]}
        for s in STRUCTURAL.values()
    ]  # fmt: skip


def list_models() -> list[dict[str, Any]]:
    """Every model of the table; JSON-ready."""
    return [
        {"key": s.key, "source": s.key if s.bundled or s.made_by else s.source, "title": s.title,
         "parameters": s.parameters, "memory": s.memory, "licence": s.licence, "disk": s.disk, "checked": s.checked}
        for s in MODELS.values()
    ]  # fmt: skip


def methods_table() -> str:
    """The full table of methods, for docs/methods.md."""
    lines = ["| method | idea | stage | needs | paper | file |", "| --- | --- | --- | --- | --- | --- |"]
    for key, method in METHODS.items():
        needs = ", ".join(_needs(method)) or "nothing"
        paper = f"[{method.paper.rsplit('/', 1)[1]}]({method.paper})"
        file = f"[`{key}.py`](../pruning/methods/{key}.py)"
        lines.append(f"| {method.title} | {method.idea} | {method.acts} | {needs} | {paper} | {file} |")
    return "\n".join(lines)


def short_methods_table() -> str:
    """The README's table of methods."""
    lines = ["| method | idea | paper |", "| --- | --- | --- |"]
    for method in METHODS.values():
        lines.append(f"| {method.title} | {method.idea} | [{method.paper.rsplit('/', 1)[1]}]({method.paper}) |")
    return "\n".join(lines)


def scores_table() -> str:
    """The table of head scores, for docs/weight_pruning.md."""
    lines = ["| head score | idea | paper | file |", "| --- | --- | --- | --- |"]
    for score in STRUCTURAL.values():
        module = score.__module__.rsplit(".", 1)[1]
        paper = f"[{score.paper.rsplit('/', 1)[1]}]({score.paper})"
        lines.append(f"| {score.title} | {score.idea} | {paper} | [`{module}.py`](../pruning/structural/{module}.py) |")
    return "\n".join(lines)


def models_table() -> str:
    """The table of models, for docs/models.md."""
    lines = [
        "| model | parameters | download | memory | licence | verified against | start with |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for spec in MODELS.values():
        start = "`python app.py`" if spec.bundled else f"`python app.py --model {spec.key} --allow-download`"
        if spec.made_by:
            start = f"`{spec.made_by}`, then `python app.py --model {spec.key}`"
        size = f"{spec.parameters} | {spec.disk or 'comes with it'} | {spec.memory}"
        checked = "made here" if spec.bundled else spec.checked or "nothing yet"
        lines.append(f"| {spec.title} | {size} | {spec.licence} | {checked} | {start} |")
    return "\n".join(lines)


def _describe(method: type[TokenPruner]) -> dict[str, Any]:
    defaults = method()
    parameters = [_declared(n, getattr(defaults, n), d) for n, d in method.parameters().items()]
    needs = _needs(method)
    facts = {"key": method.key, "title": method.title, "idea": method.idea, "paper": method.paper, "needs": needs}
    return {**facts, "positions": method.default_positions, "parameters": parameters}


def _needs(method: type[TokenPruner]) -> list[str]:
    """The signals a method needs, in the words of the page, and the module that must have been trained."""
    received = " or attention received" if method.without_cls else ""
    trained = [] if method.module is None else ["a module trained for the model"]
    return trained + sorted(s.value + (received if s is Signal.CLS_ATTENTION else "") for s in method.needs)


def _declared(name: str, default: object, declared: Param | Choice) -> dict[str, Any]:
    entry = {"name": name, "default": default, "label": declared.label, "help": declared.help}
    if isinstance(declared, Param):
        return entry | {"low": declared.low, "high": declared.high, "step": declared.step}
    return entry | {"options": list(declared.options)}
