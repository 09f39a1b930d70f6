"""List the methods, head scores, compensators and models of the registries, as JSON-ready data and as Markdown tables.

Tables link to files of this repository. `root` is the path from the page that holds a table to the root of the
repository: nothing for README.md, `../` for a page in docs/.
"""

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
    """Return every method with its paper, the signals it needs and its parameters; JSON-ready."""
    return [_describe(method) for method in METHODS.values()]


def list_compensators() -> list[dict[str, str]]:
    """Return every compensator, which replaces dropped visual tokens by a caption; JSON-ready."""
    return [{"key": c.key, "title": c.title, "idea": c.idea, "paper": c.paper} for c in COMPENSATORS.values()]


def list_scores() -> list[dict[str, Any]]:
    """Return every score of attention heads with its options; JSON-ready."""
    return [
        {"key": s.key, "title": s.title, "idea": s.idea, "paper": s.paper,
         "parameters": [_declared(n, getattr(s(), n), d) for n, d in s.parameters().items()]}
        for s in STRUCTURAL.values()
    ]  # fmt: skip


def list_models() -> list[dict[str, Any]]:
    """Return every model of the registry with size, licence and source; JSON-ready."""
    return [
        {"key": s.key, "source": s.key if s.bundled or s.made_by else s.source, "title": s.title,
         "parameters": s.parameters, "memory": s.memory, "licence": s.licence, "disk": s.disk, "checked": s.checked}
        for s in MODELS.values()
    ]  # fmt: skip


def methods_table(root: str = "") -> str:
    """Return the full table of methods: idea, stage, needed signals, paper and file."""
    lines = ["| method | idea | stage | needs | paper | file |", "| --- | --- | --- | --- | --- | --- |"]
    for key, method in METHODS.items():
        needs = ", ".join(_needs(method)) or "nothing"
        lines.append(f"| {method.title} | {method.idea} | {method.acts} | {needs} | {_paper(method)} | "
                     f"[`{key}.py`]({_file(method, root)}) |")  # fmt: skip
    return "\n".join(lines)


def short_methods_table(root: str = "") -> str:
    """Return the short table of methods: idea and paper, with each title linked to its file."""
    lines = ["| method | idea | paper |", "| --- | --- | --- |"]
    lines += [f"| [{m.title}]({_file(m, root)}) | {m.idea} | {_paper(m)} |" for m in METHODS.values()]
    return "\n".join(lines)


def parameters_table() -> str:
    """Return the options of every method, with default and allowed values; methods without options are left out."""
    lines = ["| method | option | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    for method in list_methods():
        for p in method["parameters"]:
            allowed = ", ".join(p["options"]) if "options" in p else f"{p['low']:g} to {p['high']:g}"
            lines.append(f"| {method['key']} | `{p['name']}` | {p['default']} | {allowed} | {p['help']} |")
    return "\n".join(lines)


def differences_list(root: str = "") -> str:
    """Return, for every method, the line `Differs` of its file: where it departs from the paper or from its code."""
    found = []
    for method in METHODS.values():
        text = method.explanation()["Differs"]
        found.append(f"- **[{method.title}]({_file(method, root)})**: {text}{'' if text.endswith('.') else '.'}")
    return "\n".join(found)


def compensators_table(root: str = "") -> str:
    """Return the table of compensators."""
    lines = ["| key | compensator | idea | paper |", "| --- | --- | --- | --- |"]
    for key, c in COMPENSATORS.items():
        lines.append(f"| `{key}` | [{c.title}]({_file(c, root)}) | {c.idea} | {_paper(c)} |")
    return "\n".join(lines)


def scores_table(root: str = "") -> str:
    """Return the table of head scores."""
    lines = ["| head score | idea | paper | file |", "| --- | --- | --- | --- |"]
    for score in STRUCTURAL.values():
        file = _file(score, root)
        lines.append(f"| {score.title} | {score.idea} | {_paper(score)} | [`{file.rsplit('/', 1)[1]}`]({file}) |")
    return "\n".join(lines)


def models_table() -> str:
    """Return the table of models; `verified against` names what size and licence were checked with."""
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


def _paper(cls: Any) -> str:
    return f"[{cls.paper.rsplit('/', 1)[1]}]({cls.paper})"


def _file(cls: type, root: str) -> str:
    return f"{root}{cls.__module__.replace('.', '/')}.py"


def _needs(method: type[TokenPruner]) -> list[str]:
    """Return the signals a method needs, by their names on the page, and whether it needs a trained module."""
    received = " or attention received" if method.without_cls else ""
    trained = [] if method.module is None else ["a module trained for the model"]
    return trained + sorted(s.value + (received if s is Signal.CLS_ATTENTION else "") for s in method.needs)


def _declared(name: str, default: object, declared: Param | Choice) -> dict[str, Any]:
    entry = {"name": name, "default": default, "label": declared.label, "help": declared.help}
    if isinstance(declared, Param):
        return entry | {"low": declared.low, "high": declared.high, "step": declared.step}
    return entry | {"options": list(declared.options)}
