"""The Benchmarks tab: accuracy of the bundled model under every pruning method, and with captions."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from app.ui.panel import PageContext, Panel
from pruning.benchmarks.reports import accm_section, accuracy_text, draws_joined, fewer_scenes, figures
from pruning.methods import METHODS
from viz.charts import accuracy_chart, captions_chart
from viz.theme import theme

FIGURES = Path(__file__).parents[3] / "assets" / "benchmarks" / "demo_model.json"
KINDS = {
    "where": "where it is",
    "count": "how many of a kind",
    "count_all": "how many in all",
    "exists": "is there one",
    "digit": "read the digit",
    "relation": "left, right, above, below",
}
INTRODUCTION = """
### Accuracy of the bundled model under pruning

Each point is the share of questions answered exactly right, one question about each of {scenes} drawn scenes that the
model was never trained on, with one standard error. Random and an even grid are controls; the oracle knows which visual
tokens hold the answer. The same number of visual tokens is requested of every method, **but they count differently**: a
method that prunes inside the language model keeps all of them in the first layers, and some numbers are means over the
layers (see the table).

It is one small model in a drawn world: a place to study mechanisms, not a ranking of methods on photographs. It learnt
to count visual tokens in reading order: methods that pass them on in another order (HoloV, LLaVA-PruMerge+) lose
counting first, which says nothing about them elsewhere.
"""
CAPTIONS = """
### Accuracy with a caption (ACCM)

The same kind of questions with ACCM: without a caption, with the chosen one, and against the control of equal cost: the
same pruner with as many more visual tokens as caption, captioner and selector cost. The true description of what was
dropped is the upper bound for any caption here.
"""


def _build(tab: gr.Tab, handlers: None, context: PageContext) -> None:
    """Lay out the tab. All figures are read from files; nothing is measured here."""
    results = json.loads(FIGURES.read_text(encoding="utf-8"))
    results["curve"] = draws_joined(results["curve"])
    titles = {key: m.title for key, m in METHODS.items()} | {"oracle": "Oracle"}
    gr.Markdown(INTRODUCTION.format(scenes=results["pruned_scenes"]))
    gr.Plot(accuracy_chart(results, titles, theme=theme(dark=False)), show_label=False, elem_id="accuracy", buttons=[])
    gr.Markdown(_curve_table(results, titles))
    gr.Markdown(_kinds_table(results))
    _show_captions(titles)


def _show_captions(titles: dict[str, str]) -> None:
    """Show the measured accuracy with captions, or how to measure it."""
    found = figures("accm")
    gr.Markdown(CAPTIONS)
    if found is not None:
        chart = captions_chart(found, titles, theme=theme(dark=False))
        gr.Plot(chart, show_label=False, elem_id="captions-measured", buttons=[])
    gr.Markdown(accm_section())


def _curve_table(results: dict, titles: dict[str, str]) -> str:
    counts = sorted({int(name.rsplit("@", 1)[1]) for name in results["curve"]} - {0}, reverse=True)[1:]
    lines = ["| requested | " + " | ".join(str(c) for c in counts) + " |", "| --- |" + " --- |" * len(counts)]
    curve = results["curve"]
    for key, title in titles.items():
        cells = [_cell(curve.get(f"{key}@{count}", {})) for count in counts]
        lines.append(f"| {title}{fewer_scenes(results, key)} | " + " | ".join(cells) + " |")
    note = "Exact match in %; in brackets the answer region kept in % and the mean number of visual tokens per layer."
    if any("lowest" in entry for entry in curve.values()):
        note += " For random tokens the mean of several draws, with the lowest and the highest."
    return "\n".join([*lines, "", note])


def _cell(entry: dict) -> str:
    if "accuracy" not in entry:
        return "not possible" if "refused" in entry else "–"
    kept, mean = entry["answer_region_kept"], entry["mean_tokens_per_layer"]
    return f"{accuracy_text(entry)} ({100 * kept:.0f}, {mean:.0f})"


def _kinds_table(results: dict) -> str:
    parts = [results[name]["by_kind"] for name in ("full", "shuffled", "blind")]
    lines = [
        "### Accuracy with the full picture",
        "",
        "| kind of question | right, % | visual tokens shuffled, % | blind, % |",
        "| --- | --- | --- | --- |",
    ]
    for kind in parts[0]:
        shares = " | ".join(f"{100 * part[kind]['value']:.1f}" for part in parts)
        lines.append(f"| {KINDS.get(kind, kind)} | {shares} |")
    for key, label in (("objects", "objects named"), ("objects_and_places", "objects with their places")):
        with_image, without = 100 * results["described"][key], 100 * results["described_blind"][key]
        lines.append(f"| describe: F1 of the {label} | {with_image:.1f} | – | {without:.1f} |")
    note = (
        "Shuffled: all visual tokens, in a random order. Blind: the same questions asked about another scene's picture."
    )
    return "\n".join([*lines, "", note])


BENCHMARKS = Panel(key="benchmarks", title="Benchmarks", build=_build)
