"""Draw one run as a figure for a paper or a slide: picture with its dropped, merged and kept tokens, answers, recipe.

Squares, marks and text are vectors in SVG and PDF; only the picture itself is an image. Every file carries the run's
figures inside (`viz.export.recipe.figures_of`).
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pruning.inputs.content import VisualInput, images_of
from pruning.metrics.token_fates import DROPPED, KEPT, MERGED, fates_after
from pruning.records.run import RunRecord
from viz.export.recipe import caption, figures_of
from viz.page.compensation import price
from viz.page.run import stop_titles, tokens_left
from viz.text_diff import word_diff
from viz.theme import LIGHT, Theme

KINDS = ("png", "svg", "pdf")
SIZE = (9.6, 5.4)  # inches, 16 : 9
DPI = 200
_TEXT: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, editable
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "svg.hashsalt": "prunescope",  # equal runs make equal files
}


def figure_file(
    record: RunRecord, pictures: VisualInput, stop: int, kind: str, theme: Theme = LIGHT, truth: str = ""
) -> bytes:
    """Return the figure as a file.

    Args:
        pictures: what was run, one or several, uint8 `[height, width, 3]` RGB, or a video; of each temporal step the
            first frame is drawn.
        stop: number of stages shown, 0 (full picture) to `len(record.steps)`.
        kind: one of `KINDS`.
        truth: the correct answer, where it is known.
    """
    if kind not in KINDS:
        raise ValueError(f"a figure is one of {', '.join(KINDS)}; got {kind!r}")
    inside = json.dumps(figures_of(record, truth), ensure_ascii=False)
    titles = {"png": {"Title": "PruneScope", "Description": inside}, "svg": {"Description": inside, "Date": None}}
    titles["pdf"] = {"Title": "PruneScope", "Subject": inside, "CreationDate": None}
    buffer = io.BytesIO()
    with rc_context(_TEXT):
        draw(record, pictures, stop, theme, truth).savefig(buffer, format=kind, dpi=DPI, metadata=titles[kind])
    return buffer.getvalue()


def frames(
    record: RunRecord, pictures: VisualInput, theme: Theme = LIGHT, truth: str = "", dpi: int = 100
) -> list[np.ndarray]:
    """Return the figure after every stage, the full picture first, uint8 `[height, width, 3]` RGB."""
    drawn = []
    with rc_context(_TEXT):
        for stop in range(len(record.steps) + 1):
            canvas = FigureCanvasAgg(draw(record, pictures, stop, theme, truth))
            canvas.figure.set_dpi(dpi)
            canvas.draw()
            drawn.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return drawn


def draw(record: RunRecord, pictures: VisualInput, stop: int, theme: Theme, truth: str) -> Figure:
    """Return the matplotlib figure; the caller chooses the format."""
    figure = Figure(figsize=SIZE, facecolor=theme.paper)
    images, layout = images_of(pictures), record.layout
    columns = math.ceil(layout.n_pictures**0.5)
    rows = -(-layout.n_pictures // columns)
    for n, (first, *_) in enumerate(layout.frames()):
        row, column = divmod(n, columns)
        place = (0.02 + 0.5 * column / columns, 0.13 + 0.78 * (1 - (row + 1) / rows))
        axes = figure.add_axes((*place, 0.5 / columns - 0.01 * (columns > 1), 0.78 / rows - 0.01 * (rows > 1)))
        _draw_picture(axes, record, n, images[first], stop, theme)
        if layout.seconds:
            axes.set_title(layout.names()[n], fontsize=6.5, color=theme.quiet, pad=2)
    found = figures_of(record)
    _write_answers(figure, record, found, stop, theme, truth)
    figure.text(0.02, 0.945, found["headline"], fontsize=13, fontweight="bold", color=theme.ink)
    small = "\n".join(textwrap.wrap(caption(record), 150))
    figure.text(0.02, 0.02, small, fontsize=6.5, color=theme.quiet, va="bottom", parse_math=False)
    return figure


def _draw_picture(axes, record: RunRecord, number: int, picture: np.ndarray, stop: int, theme: Theme) -> None:
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="antialiased")
    shown = np.isin(record.layout.tile_numbers(), _finest(record, number))
    boxes, fate = record.layout.boxes()[shown], fates_after(record, stop)[shown]
    axes.add_collection(PatchCollection(_squares(boxes[fate != KEPT]), facecolor=theme.dropped, alpha=0.8, linewidth=0))
    if stop:
        kept = PatchCollection(_squares(boxes[fate == KEPT]), facecolor="none", edgecolor=theme.kept, linewidth=0.5)
        axes.add_collection(kept)
    merged = boxes[fate == MERGED]
    if len(merged):
        x, y = (merged[:, 0] + merged[:, 2]) / 2, (merged[:, 1] + merged[:, 3]) / 2
        axes.scatter(x, y, s=7, marker="D", facecolor="none", edgecolor=theme.merged, linewidth=0.5)
    if record.answer_region is not None and number == 0:
        for line in _outline(record):
            axes.plot(*line, color=theme.answer_region, linewidth=1.4, solid_capstyle="round")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()


def _finest(record: RunRecord, number: int) -> list[int]:
    """Return the tiles that are drawn of a picture: of those that cover each other the finest."""
    layout = record.layout
    return next(view for view in layout.views() if layout.tiles[view[0]].picture == number)


def _squares(boxes: np.ndarray) -> list[Rectangle]:
    return [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]


def _outline(record: RunRecord) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return the border of the answer region: edges that belong to one of its squares only."""
    edges: dict[tuple[float, ...], int] = {}
    region = np.zeros(0, np.int32) if record.answer_region is None else record.answer_region
    finest = np.isin(record.layout.tile_numbers()[region], _finest(record, 0))
    for x0, y0, x1, y1 in record.layout.boxes()[region[finest]].round(4):
        for edge in ((x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1)):
            edges[edge] = edges.get(edge, 0) + 1
    return [((x0, x1), (y0, y1)) for (x0, y0, x1, y1), n in edges.items() if n == 1]


def _write_answers(
    figure: Figure, record: RunRecord, found: dict[str, Any], stop: int, theme: Theme, truth: str
) -> None:
    """Write question, answers and facts beside the picture; `found` are the run's figures."""
    n, compensated = record.layout.n_tokens, record.compensated
    answers = [
        ("Question", record.request.question, theme.ink),
        (f"Full picture, {n} visual tokens", record.full.text, theme.full),
        (
            f"{record.method_title}, {tokens_left(record)} visual tokens in the last layer",
            record.pruned.text,
            theme.pruned,
        ),
    ]
    if compensated is not None:
        answers.append(
            (f"The same and {compensated.caption_tokens} caption tokens", compensated.answer.text, theme.ink)
        )
    size, most = (8.5, 5) if compensated is None else (7.5, 3)
    facts = [line for fact in _facts(record, found, stop, truth) for line in textwrap.wrap(fact, round(490 / size))[:3]]
    text = "\n".join(facts)
    figure.text(0.56, 0.13, text, fontsize=size, color=theme.ink, va="bottom", linespacing=1.5, parse_math=False)
    height = 0.88 - 0.15 - len(facts) * 1.5 * size / 72 / SIZE[1]
    for scale in (1.0, 0.9, 0.8, 0.7, 0.6):  # long answers are written smaller
        blocks = [(a[0], textwrap.wrap(a[1], round(44 / scale))[:most] or ["(empty)"], a[2]) for a in answers]
        if scale * sum(0.085 + 0.04 * len(lines) for _, lines, _ in blocks) <= height:
            break
    y = 0.88
    for label, lines, color in blocks:
        figure.text(0.56, y, label, fontsize=8.5 * scale, color=theme.quiet, va="top", parse_math=False)
        at, large = y - 0.038 * scale, 11.5 * scale
        figure.text(0.56, at, "\n".join(lines), fontsize=large, color=color, va="top", parse_math=False)
        top, y = y, y - (0.085 + 0.04 * len(lines)) * scale
    if compensated is not None:
        ends = (0.55, 0.55), (top, y + 0.04 * scale)
        figure.add_artist(Line2D(*ends, color=theme.compensated, linewidth=2.5, linestyle=":"))


def _facts(record: RunRecord, found: dict[str, Any], stop: int, truth: str) -> list[str]:
    """Return the facts below the answers, one per line."""
    fate, compensated = fates_after(record, stop), record.compensated
    rows = record.steps[stop - 1].selection.n_rows if stop else record.layout.n_tokens
    diff = word_diff(record.full.text, record.pruned.text)
    gone, new = ([w.text for w in diff if w.fate == fate_of] for fate_of in ("gone", "new"))
    facts = [
        found["verdict"] + (f": −{' '.join(gone)} +{' '.join(new)}" if gone or new else ""),
        *([f"correct answer: {truth}"] if truth else []),
        f"{stop_titles(record)[stop]}: {rows} tokens passed on",
        f"{(fate == KEPT).sum()} kept, {(fate == MERGED).sum()} merged, {(fate == DROPPED).sum()} dropped so far",
        f"mean per layer (input): {found['mean_entering_a_layer']:.1f} visual tokens",
        f"prefill {_ratio(found['estimated_prefill_flops'])} (estimated), KV {_ratio(found['computed_kv_bytes'])}",
    ]
    if compensated is not None:
        facts.append(f"caption: {compensated.caption or 'none inserted'}")
        facts.append(f"with it: {found['compensation']['verdict']}. {price(compensated)}")
    if found["answer_region"]:
        e = found["answer_region"]
        facts.append(
            f"answer region kept: {e['kept']} of {e['of']} visual tokens"
            + (f", {e['merged']} merged" if e["merged"] else "")
        )
    return facts


def _ratio(pair: Sequence[float]) -> str:
    return f"{100 * (pair[1] / pair[0] - 1):+.0f} %"
