"""The table of methods, in display order. A new method is one new file and one line here."""

from __future__ import annotations

from pruning.methods.accm_pruner import ACCMPruner
from pruning.methods.base import TokenPruner
from pruning.methods.cdpruner import CDPruner
from pruning.methods.covipal import CoViPAL
from pruning.methods.dart import DART
from pruning.methods.divprune import DivPrune
from pruning.methods.fastv import FastV
from pruning.methods.holov import HoloV
from pruning.methods.imported import Imported
from pruning.methods.ivcprune import IVCPrune
from pruning.methods.meteor import Meteor
from pruning.methods.prumerge import PruMerge
from pruning.methods.pyramiddrop import PyramidDrop
from pruning.methods.random_baseline import RandomBaseline
from pruning.methods.resprune import ResPrune
from pruning.methods.sparsevlm import SparseVLM
from pruning.methods.tome import ToMe
from pruning.methods.uniform_grid import UniformGrid
from pruning.methods.v2drop import V2Drop
from pruning.methods.visionzip import VisionZip
from pruning.methods.vispruner import VisPruner
from pruning.methods.vistog import VisToG
from pruning.methods.vitcop import ViTCoP
from pruning.methods.vscan import VScan
from pruning.methods.zspaprune import ZSPAPrune
from pruning.parameters import look_up

_IN_ORDER: tuple[type[TokenPruner], ...] = (
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
    ACCMPruner,
    CoViPAL,
    VisToG,
    Meteor,
    FastV,
    SparseVLM,
    PyramidDrop,
    DART,
    V2Drop,
    IVCPrune,
    RandomBaseline,
    UniformGrid,
)

METHODS: dict[str, type[TokenPruner]] = {m.key: m for m in _IN_ORDER}
FROM_FILES: dict[str, type[TokenPruner]] = {m.key: m for m in (Imported,)}  # decide nothing without a file


def method_class(key: str) -> type[TokenPruner]:
    """The class behind a key.

    Raises:
        UnknownMethodError: naming all keys, the closest first.
    """
    return look_up(METHODS | FROM_FILES, key, "method")
