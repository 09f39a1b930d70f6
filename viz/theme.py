"""The one table of colours, for the page, figures and animations: of answers, of what became of visual tokens, and the
the palette (Okabe and Ito's, so that no pair depends on hue alone; checked for colour blindness).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

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
# For which of a method's reasons a token was kept.
REASON_COLORS = tuple(PALETTE[name] for name in ("sky", "amber", "green", "pink", "yellow", "vermilion"))


@dataclass(frozen=True, slots=True)
class Theme:
    """One look.

    Attributes:
        full, pruned, compensated: mark the answers (`compensated` is too pale for text).
        answer_region: the border of the visual tokens that hold the answer.
        kept, merged: outlines of kept tokens and marks of merged ones, on the picture.
        dropped: laid over tokens that are not there any more.
        outside: what no visual token shows: padding, and what a crop leaves out.
        second: the other line of a chart of two.
        ink, quiet, line, paper: text, lesser text, rules, ground.
    """

    full: str
    pruned: str
    compensated: str
    answer_region: str
    kept: str
    merged: str
    dropped: str
    outside: str
    second: str
    ink: str
    quiet: str
    line: str
    paper: str


LIGHT = Theme(
    full="#4D4D4D", pruned=PALETTE["blue"], compensated=PALETTE["pink"], answer_region=PALETTE["amber"],
    kept="#FFFFFF", merged="#FFFFFF", dropped="#0D1117", outside="#5A6068", second=PALETTE["vermilion"],
    ink="#1B1F24", quiet="#57606A", line="#D0D7DE", paper="#FFFFFF",
)  # fmt: skip
DARK = Theme(
    full="#BDBDBD", pruned=PALETTE["sky"], compensated=PALETTE["pink"], answer_region=PALETTE["amber"],
    kept="#FFFFFF", merged="#FFFFFF", dropped="#0D1117", outside="#5A6068", second=PALETTE["amber"],
    ink="#E6EDF3", quiet="#9DA7B1", line="#30363D", paper="#0F1117",
)  # fmt: skip


def theme(*, dark: bool) -> Theme:
    """The light or the dark look."""
    return DARK if dark else LIGHT


def css_variables() -> str:
    """The table as CSS variables: `--ps-NAME` of the palette, of the themes (those under `.dark` differ) and of the
    reasons (`--ps-reason-0` and on).
    """
    constant = PALETTE | {f"reason-{i}": color for i, color in enumerate(REASON_COLORS)}
    looks = [{f.name.replace("_", "-"): getattr(one, f.name) for f in fields(Theme)} for one in (LIGHT, DARK)]
    changed = {name: color for name, color in looks[1].items() if color != looks[0][name]}
    blocks = ((":root", constant | looks[0]), (".dark", changed))
    return "".join(f"{where} {{ {_declared(table)} }}\n" for where, table in blocks)


def _declared(table: dict[str, str]) -> str:
    return " ".join(f"--ps-{name}: {color};" for name, color in table.items())
