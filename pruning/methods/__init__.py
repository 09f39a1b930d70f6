"""The table of methods, in display order. A new method is one new file and one line here."""

from __future__ import annotations

from importlib import import_module

from pruning.methods.base import TokenPruner
from pruning.parameters import look_up

_IN_ORDER = (
    "resprune",
    "vitcop",
    "visionzip",
    "vispruner",
    "divprune",
    "cdpruner",
    "prumerge",
    "holov",
    "vscan",
    "tome",
    "zspaprune",
    "accm_pruner",
    "covipal",
    "vistog",
    "meteor",
    "fastv",
    "sparsevlm",
    "pyramiddrop",
    "dart",
    "v2drop",
    "ivcprune",
    "random_baseline",
    "uniform_grid",
)


def _class_in(module: str) -> type[TokenPruner]:
    """Return the method that a module of this package defines: the class whose key is the module's name."""
    for found in vars(import_module(f"{__name__}.{module}")).values():
        if isinstance(found, type) and issubclass(found, TokenPruner) and getattr(found, "key", None) == module:
            return found
    raise LookupError(f"pruning/methods/{module}.py has no class with key = {module!r}.")


METHODS: dict[str, type[TokenPruner]] = {key: _class_in(key) for key in _IN_ORDER}
FROM_FILES: dict[str, type[TokenPruner]] = {"imported": _class_in("imported")}  # decides nothing without a file


def method_class(key: str) -> type[TokenPruner]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    return look_up(METHODS | FROM_FILES, key, "method")
