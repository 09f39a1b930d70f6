"""Colours with a meaning, for browser, figure and animation: one table (Okabe-Ito, no pair depends on hue alone)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "amber": "#E69F00",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "grey": "#8B949E",
}
METHOD_COLORS = tuple(PALETTE[name] for name in ("blue", "vermilion", "green", "pink", "amber", "sky"))
METHOD_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon", "pentagon")
REASON_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")  # why tokens were kept


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of the light or the dark page.

    Attributes:
        kept, dropped, merged, answer_region: fates of visual tokens, drawn on a picture (outline, shade, mark, border).
        full, pruned, compensated: the three answers; `compensated` is too pale for text.
        merged_into, most_similar: lines from a token to the one it was merged into, and to the most similar kept one.
        second: the second line of a chart. accent: buttons with white text. notice, error: borders of messages.
        ink, quiet, line, paper: text, secondary text, rules and background.
    """

    full: str
    pruned: str
    second: str
    ink: str
    quiet: str
    line: str
    paper: str
    kept: str = "#FFFFFF"
    dropped: str = "#14181D"
    merged: str = "#FFFFFF"
    answer_region: str = "#E69F00"
    compensated: str = "#CC79A7"
    merged_into: str = "#56B4E9"
    most_similar: str = "#CC79A7"
    accent: str = "#0072B2"
    notice: str = "#E69F00"
    error: str = "#D55E00"


LIGHT = Theme("#4D4D4D", "#0072B2", "#D55E00", "#1B1F24", "#57606A", "#D0D7DE", "#FFFFFF")
DARK = Theme("#BDBDBD", "#56B4E9", "#E69F00", "#E6EDF3", "#9DA7B1", "#30363D", "#0F1117")


def theme(*, dark: bool) -> Theme:
    """The light or the dark look."""
    return DARK if dark else LIGHT


def variables(theme: Theme) -> dict[str, str]:
    """Return all colours by the names that the browser gives them (CSS variables without their prefix `--ps-`)."""
    numbered = {f"series-{i}": color for i, color in enumerate(METHOD_COLORS)}
    numbered |= {f"reason-{i}": color for i, color in enumerate(REASON_COLORS)}
    return {name.replace("_", "-"): color for name, color in asdict(theme).items()} | numbered
