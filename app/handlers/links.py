"""Read a link with a recipe: `?example=...&method=...&keep=...`, as `viz.export.recipe.query` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.handlers.requests import RunForm
from app.media.examples import Example
from pruning.errors import LinkError
from pruning.methods import method_class
from pruning.parameters import Param


@dataclass(frozen=True, slots=True)
class Link:
    """What a link asks for, about the example of this number. `captioner` is the one that wrote the captions of the run
    it was copied from; empty for the bundled one.
    """

    example: int
    form: RunForm
    captioner: str = ""


def read_link(fields: Mapping[str, str], examples: Sequence[Example], model: str) -> Link | None:
    """Return the link in the address of a page, or None where there is none. `model` is the page's own.

    Raises:
        PruningError: with what is wrong with it.
    """
    if "example" not in fields:
        return None
    numbers = {e.key: i for i, e in enumerate(examples)}
    if fields["example"] not in numbers:
        raise LinkError(f"There is no example {fields['example'][:40]!r}.", f"Known are {', '.join(numbers)}.")
    number, method = numbers[fields["example"]], fields.get("method", "resprune")
    declared = method_class(method).parameters()
    given = {name.removeprefix("set."): text for name, text in fields.items() if name.startswith("set.")}
    try:
        form = RunForm(
            question=fields.get("question") or examples[number].questions[0].text,
            method=method,
            count=int(fields.get("keep", 64)),
            model=fields.get("model", model),
            positions=fields.get("positions", "method"),
            seed=int(fields.get("seed", 0)),
            parameters={n: float(t) if isinstance(declared.get(n), Param) else t for n, t in given.items()},
            compensation=_compensation(fields),
        )
        return Link(number, form, fields.get("captioner", ""))
    except ValueError as error:
        raise LinkError("The link holds something that should be a number and is none.", "Copy it again.") from error


def _compensation(fields: Mapping[str, str]) -> dict[str, Any] | None:
    if "compensation" not in fields:
        return None
    return {
        "key": fields["compensation"],
        "gate": float(fields.get("gate", 0)),
        "caption": fields.get("caption"),
        "measure_kl": fields.get("kl", "0") == "1",
    }
