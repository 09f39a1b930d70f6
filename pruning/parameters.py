"""Declare, check and look up options of methods and head scores.

A dataclass names its options once; page, command line and saved requests all read this one declaration.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from pruning.errors import ParameterError, UnknownMethodError
from pruning.interface import ModelInfo, Part

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Param:
    """Declares a number: its range, its slider's step, and the words beside it.

    `layer_of` marks a layer index; its real upper end is the model's depth.
    """

    low: float
    high: float
    step: float
    label: str
    help: str
    layer_of: Part | None = None

    def limits(self, info: ModelInfo | None) -> tuple[float, float]:
        """Range on a given model."""
        if self.layer_of is None or info is None:
            return self.low, self.high
        layers = info.feature_layer + 1 if self.layer_of is Part.TOWER else info.text_layers
        return self.low, min(self.high, layers - 1)


@dataclass(frozen=True, slots=True)
class Choice:
    """Declares a choice among named options. The first one is what the paper says."""

    options: tuple[str, ...]
    label: str
    help: str


class Declared:
    """A dataclass whose `Annotated` fields declare what a person may set, once for page, command line and request."""

    title: ClassVar[str]
    settable: ClassVar[str] = "parameter"  # what such a field is called in a sentence

    @classmethod
    @cache  # reading annotations takes milliseconds, as long as some methods take to decide
    def parameters(cls) -> Mapping[str, Param | Choice]:
        """The declared fields by name, in order."""
        hints = get_type_hints(cls, include_extras=True)
        found = {}
        for f in fields(cls):
            hint = hints[f.name]
            if get_origin(hint) is Annotated:
                found[f.name] = next(a for a in get_args(hint)[1:] if isinstance(a, Param | Choice))
        return MappingProxyType(found)

    @classmethod
    def check_names(cls, parameters: dict[str, Any]) -> None:
        """Refuse names that are not declared.

        Raises:
            ParameterError.
        """
        known = cls.parameters()
        for name in parameters:
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise ParameterError(
                    f"{cls.title} has no {cls.settable} {name!r}; it has: {allowed}.", "Check the spelling."
                )

    def check_values(self) -> None:
        """Refuse values out of their declared range.

        Raises:
            ParameterError.
        """
        for name, declared in self.parameters().items():
            _check_value(self.title, name, getattr(self, name), declared)


def look_up(table: Mapping[str, Entry], key: str, kind: str) -> Entry:
    """The entry of a table by key; `kind` says in the sentence what its entries are, such as "method".

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    if not isinstance(key, str) or key not in table:
        close = difflib.get_close_matches(str(key), table, n=len(table), cutoff=0.0)
        raise UnknownMethodError(f"There is no {kind} {key!r}.", f"Known {kind.split()[-1]}s: {', '.join(close)}.")
    return table[key]


def _check_value(title: str, name: str, value: Any, declared: Param | Choice) -> None:
    if isinstance(declared, Choice):
        if value not in declared.options:
            allowed = ", ".join(declared.options)
            raise ParameterError(f"{name} is {value!r}; {title} allows: {allowed}.", "Pick one of these.")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ParameterError(f"{name} is {value!r}; {title} needs a number.", f"Try {declared.low:g}.")
    if not declared.low <= value <= declared.high:
        raise ParameterError(
            f"{name} is {value:g}; {title} allows {declared.low:g} to {declared.high:g}.",
            "Choose a value in that range.",
        )
    if declared.step == int(declared.step) and value != int(value):
        raise ParameterError(f"{name} is {value:g}; {title} needs a whole number.", f"Try {round(value)}.")


def changed_parameters(method: type[Declared], values: dict[str, Any]) -> dict[str, Any]:
    """The values that differ from the method's defaults, so that equal runs have equal requests; unknown names too."""
    defaults = method()
    return {n: v for n, v in values.items() if v != getattr(defaults, n, None)}
