"""Charts of records for the page, as Plotly figures with a transparent ground."""

from __future__ import annotations

import plotly.graph_objects as go

from pruning.records import RunRecord
from viz.theme import Theme


def tokens_per_layer(record: RunRecord, *, theme: Theme) -> go.Figure:
    """Visual tokens in every language-model layer: the full run behind, the pruned run in front."""
    layers = list(range(len(record.full.visual_per_layer)))
    figure = go.Figure()
    figure.add_bar(
        x=layers, y=list(record.full.visual_per_layer), name="full", marker_color=theme.full, opacity=0.35,
        hovertemplate="layer %{x}: %{y} pieces<extra>full</extra>",
    )  # fmt: skip
    figure.add_bar(
        x=layers, y=list(record.pruned.visual_per_layer), name="pruned", marker_color=theme.pruned,
        marker_pattern_shape="/", marker_pattern_solidity=0.25,
        hovertemplate="layer %{x}: %{y} pieces<extra>pruned</extra>",
    )  # fmt: skip
    figure.update_layout(
        barmode="overlay",
        bargap=0.25,
        height=132,
        margin={"l": 44, "r": 8, "t": 6, "b": 34},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": theme.ink, "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"},
        xaxis={
            "title": {"text": "language-model layer", "standoff": 4},
            "dtick": _tick(len(layers)),
            "color": theme.quiet,
        },
        yaxis={"title": {"text": "pieces"}, "gridcolor": theme.line, "zeroline": False, "color": theme.quiet},
        dragmode=False,
    )
    return figure


def _tick(n_layers: int) -> int:
    return 1 if n_layers <= 16 else 4
