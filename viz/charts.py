"""Plotly charts of the page, with a transparent background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from pruning.metrics.plan_cost import Point
from viz.theme import METHOD_COLORS, METHOD_MARKERS, Theme

# Controls: told apart by dash and open marker, and from the methods by their grey.
CONTROLS = {
    "random_baseline": ("dot", "circle-open"),
    "uniform_grid": ("dash", "square-open"),
    "oracle": ("longdashdot", "star-open"),
}


def accuracy_chart(results: dict[str, Any], titles: dict[str, str], *, theme: Theme) -> go.Figure:
    """Return accuracy against requested visual tokens, one line per method, with a standard error on every point.

    Args:
        results: the figures of `python -m pruning.demo_model evaluate`, with joined draws
            (`pruning.benchmarks.reports.draws_joined`).
        titles: display names of the methods, in the order of the legend.
    """
    curve = results["curve"]
    figure = go.Figure()
    for number, (method, title) in enumerate(titles.items()):
        found = {
            int(name.rsplit("@", 1)[1]): entry["accuracy"]
            for name, entry in curve.items()
            if name.rsplit("@", 1)[0] == method and "accuracy" in entry
        }
        counts = sorted(found)
        control = CONTROLS.get(method)
        color = theme.quiet if control else METHOD_COLORS[number % len(METHOD_COLORS)]
        figure.add_scatter(
            x=counts,
            y=[100 * found[c]["value"] for c in counts],
            error_y={"array": [100 * found[c]["standard_error"] for c in counts], "thickness": 1, "width": 3},
            name=title,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": control[0] if control else "solid"},
            marker={
                "symbol": control[1] if control else METHOD_MARKERS[number % len(METHOD_MARKERS)],
                "size": 8,
                "color": color,
            },
            hovertemplate="%{x} kept: %{y:.1f} %<extra>" + title + "</extra>",
        )
    full = next(entry for name, entry in curve.items() if name.startswith("full@"))["accuracy"]["value"]
    _add_full(figure, full, "full picture", theme)
    ticks = sorted({int(name.rsplit("@", 1)[1]) for name in curve})
    _lay_out(figure, "visual tokens requested", "exact match, %", theme)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(t) for t in ticks])
    return figure


def plans_chart(points: Sequence[Point], where: str, full: float, *, theme: Theme) -> go.Figure:
    """Return the accuracy of structural plans against how many times fewer multiply-adds the compressed module takes,
    one colour and marker per family; random heads are single draws.

    Args:
        points: of all modules; those of the module `where` are drawn. full: accuracy of the full model, 0 .. 1.
    """
    mine = [p for p in points if p.where == where]
    figure = go.Figure()
    for number, family in enumerate(dict.fromkeys(p.family for p in mine)):
        row = sorted((p for p in mine if p.family == family), key=lambda p: p.fewer)
        control = row[0].key == "random"
        color = theme.quiet if control else METHOD_COLORS[number % len(METHOD_COLORS)]
        figure.add_scatter(
            x=[p.fewer for p in row],
            y=[100 * p.accuracy for p in row],
            error_y={"array": [100 * p.error for p in row], "thickness": 1, "width": 3},
            name=family,
            mode="markers" if control else "lines+markers",
            line={"color": color, "width": 2, "dash": "solid" if row[0].key else "dot"},
            marker={
                "symbol": "circle-open" if control else METHOD_MARKERS[number % len(METHOD_MARKERS)],
                "size": 8,
                "color": color,
            },
            text=[f"{p.label}: {p.fewer:.2f}x fewer multiply-adds, {p.faster:.2f}x faster" for p in row],
            hovertemplate="%{text}: %{y:.1f} %<extra>" + family + "</extra>",
        )
    _add_full(figure, full, "full model", theme)
    _lay_out(figure, f"times fewer multiply-adds, {where} (estimated)", "exact match, %", theme)
    return figure


CAPTION_BARS = (
    ("without", "without a caption", ""),
    ("compensated", "with ACCM's caption", ""),
    ("equal_cost", "without, tokens of equal cost", "/"),
    ("true_description", "with a true description", "."),
)


def captions_chart(results: dict[str, Any], titles: dict[str, str], *, theme: Theme) -> go.Figure:
    """Return accuracy without and with a caption and with tokens of equal cost, for every pruner and budget.

    Args:
        results: the figures of `python -m pruning.demo_model evaluate-accm`. titles: of the pruners.
    """
    rows = {name: row for name, row in results["curve"].items() if "refused" not in row}
    pruners = [name.split("@") for name in rows]
    colors = (theme.pruned, theme.compensated, theme.full, theme.answer_region)
    figure = go.Figure()
    for (part, title, pattern), color in zip(CAPTION_BARS, colors, strict=True):
        figure.add_bar(
            x=[f"{titles.get(method, method)}, {kept} kept" for method, kept in pruners],
            y=[100 * row[part]["value"] for row in rows.values()],
            error_y={"array": [100 * row[part]["standard_error"] for row in rows.values()], "thickness": 1, "width": 3},
            name=title,
            marker={"color": color, "pattern": {"shape": pattern}},
            hovertemplate="%{x}: %{y:.1f} %<extra>" + title + "</extra>",
        )
    _add_full(figure, results["full"]["value"], "full picture", theme)
    _lay_out(figure, "", "exact match, %", theme)
    return figure


def _add_full(figure: go.Figure, value: float, text: str, theme: Theme) -> None:
    figure.add_hline(y=100 * value, line={"color": theme.full, "width": 1, "dash": "dash"}, annotation_text=text)


def _lay_out(figure: go.Figure, x: str, y: str, theme: Theme) -> None:
    axis = {"gridcolor": theme.line, "color": theme.quiet, "zeroline": False}
    figure.update_layout(
        height=430,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": theme.ink, "size": 13, "family": "system-ui, sans-serif"},
        xaxis={"title": {"text": x}} | axis,
        yaxis={"title": {"text": y}} | axis,
        legend={"orientation": "v", "x": 1.02, "y": 1},
        dragmode=False,
    )
