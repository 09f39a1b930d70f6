"""The panels of the page, in their order. docs/extending_panel.md shows how to add one."""

from __future__ import annotations

from app.ui.panel import Panel
from app.ui.tabs.diagnostics import DIAGNOSTICS
from app.ui.tabs.measured import BENCHMARKS
from app.ui.tabs.structure import WEIGHT_PRUNING

PANELS: tuple[Panel, ...] = (DIAGNOSTICS, WEIGHT_PRUNING, BENCHMARKS)
