"""The table of methods, in display order. A new method is one new file and one line here."""

from __future__ import annotations

from pruning.methods.base import TokenPruner, look_up
from pruning.methods.cdpruner import CDPruner
from pruning.methods.divprune import DivPrune
from pruning.methods.fastv import FastV
from pruning.methods.holov import HoloV
from pruning.methods.prumerge import PruMerge
from pruning.methods.random_baseline import RandomBaseline
from pruning.methods.resprune import ResPrune
from pruning.methods.tome import ToMe
from pruning.methods.uniform_grid import UniformGrid
from pruning.methods.visionzip import VisionZip
from pruning.methods.vispruner import VisPruner
from pruning.methods.vitcop import ViTCoP
from pruning.methods.vscan import VScan
from pruning.methods.zspaprune import ZSPAPrune

METHODS: dict[str, type[TokenPruner]] = {
    m.key: m
    for m in (
        ResPrune,
        ViTCoP,
        VisionZip,
        VisPruner,
        DivPrune,
        CDPruner,
        PruMerge,
        HoloV,
        VScan,
        ToMe,
        ZSPAPrune,
        FastV,
        RandomBaseline,
        UniformGrid,
    )
}


def method_class(key: str) -> type[TokenPruner]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    return look_up(METHODS, key, "method")
