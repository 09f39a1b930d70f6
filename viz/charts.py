"""Charts for the page, as Plotly figures with a transparent ground."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from viz.theme import METHOD_COLORS, METHOD_MARKERS, Theme

# Lines that are no method: dash and open marker tell them apart, their grey tells them from the methods.
CONTROLS = {
    "random_baseline": ("dot", "circle-open"),
    "uniform_grid": ("dash", "square-open"),
    "oracle": ("longdashdot", "star-open"),
}


def accuracy_chart(results: dict[str, Any], titles: dict[str, str], *, theme: Theme) -> go.Figure:
    """Accuracy against kept tokens, one line a method, with a standard error on every point.

    Args:
        results: the figures of `python -m pruning.demo_model evaluate`.
        titles: what to call every method, in the order of the legend.
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
    figure.add_hline(
        y=100 * full, line={"color": theme.full, "width": 1, "dash": "dash"}, annotation_text="whole picture"
    )
    ticks = sorted({int(name.rsplit("@", 1)[1]) for name in curve})
    figure.update_layout(
        height=430,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": theme.ink, "size": 13, "family": "system-ui, sans-serif"},
        xaxis={
            "title": {"text": "pieces that the method was asked to keep"},
            "type": "log", "tickvals": ticks, "ticktext": [str(t) for t in ticks],
            "gridcolor": theme.line, "color": theme.quiet,
        },
        yaxis={"title": {"text": "exact match, %"}, "gridcolor": theme.line, "zeroline": False, "color": theme.quiet},
        legend={"orientation": "v", "x": 1.02, "y": 1},
        dragmode=False,
    )  # fmt: skip
    return figure
