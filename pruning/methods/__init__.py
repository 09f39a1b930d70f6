"""The table of methods, in display order. A new method is one new file and one line here."""

from __future__ import annotations

from pruning.methods.base import TokenPruner, look_up
from pruning.methods.divprune import DivPrune
from pruning.methods.fastv import FastV
from pruning.methods.random_baseline import RandomBaseline
from pruning.methods.resprune import ResPrune
from pruning.methods.uniform_grid import UniformGrid
from pruning.methods.visionzip import VisionZip
from pruning.methods.vispruner import VisPruner
from pruning.methods.vitcop import ViTCoP

METHODS: dict[str, type[TokenPruner]] = {
    m.key: m for m in (ResPrune, ViTCoP, VisionZip, VisPruner, DivPrune, FastV, RandomBaseline, UniformGrid)
}


def method_class(key: str) -> type[TokenPruner]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    return look_up(METHODS, key, "method")
