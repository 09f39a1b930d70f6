"""Colours with a meaning, chosen so that no pair depends on hue alone (Okabe-Ito, checked for colour blindness)."""

from __future__ import annotations

from dataclasses import dataclass

METHOD_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
METHOD_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon", "pentagon")


@dataclass(frozen=True, slots=True)
class Theme:
    """One look. `full`, `pruned` and `helped` (too pale for text) mark the answers; `ink`, `quiet`, `line` are text and
    rules.
    """

    full: str
    pruned: str
    compensated: str
    answer_region: str
    ink: str
    quiet: str
    line: str
    paper: str


LIGHT = Theme("#4D4D4D", "#0072B2", "#CC79A7", "#E69F00", "#1B1F24", "#57606A", "#D0D7DE", "#FFFFFF")
DARK = Theme("#BDBDBD", "#56B4E9", "#CC79A7", "#E69F00", "#E6EDF3", "#9DA7B1", "#30363D", "#0F1117")


def theme(*, dark: bool) -> Theme:
    return DARK if dark else LIGHT
