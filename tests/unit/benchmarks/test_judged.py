"""Figures of captions and plans: in README, on the page and as charts, and what is said while there are none."""

from __future__ import annotations

import json

import gradio as gr
import pytest

from app.ui.caption_controls import build_caption_controls
from app.ui.tabs import measured, structure
from pruning.benchmarks.reports import (
    COMMANDS,
    DENSE,
    accm_section,
    accm_sentence,
    fewer_scenes,
    points,
    structural_section,
)
from pruning.compensation.accm import DEFAULT_FOLDER
from viz.charts import captions_chart, plans_chart
from viz.theme import theme

ENVIRONMENT = {"machine": "A processor, 2 cores", "dtype": "float32", "torch": "2.13.0", "transformers": "5"}
TOWER, LANGUAGE = "vision tower", "language model"
TITLES = {"vispruner": "VisPruner"}


def right(value: float) -> dict:
    return {"value": value, "standard_error": 0.02, "n": 500}


def plan(accuracy, tower, kept, score="infoprune", ffn="none", parts=(TOWER,), **request):
    request = {"score": score, "ffn": ffn, "parts": list(parts), "erank_factor": 1.5, "tau": 0.1, "ffn_flops": 0.6,
               "whitening": False} | request  # fmt: skip
    return {
        "accuracy": right(accuracy),
        "estimated_flops": {"tower": 1000 * tower, "prefill": 1000.0},
        "measured_ms": {"tower": 10 * tower, "prefill": 30.0},
        "measured_dense_ms": {"tower": 10.0, "prefill": 30.0},
        "structure": {"request": request, "heads": {part: [kept, 30] for part in parts}},
    }


STRUCTURAL = {
    "scenes": 500,
    "environment": ENVIRONMENT,
    "plans": {
        DENSE: {k: v for k, v in plan(0.9, 1.0, 30).items() if k != "structure"},
        "my trained one": plan(0.88, 0.8, 21, "trained"),
        "tower: infoprune 0.7": plan(0.85, 0.8, 21),
        "tower: random 0.7 seed 0": plan(0.6, 0.8, 21, "random"),
        "tower: random 0.7 seed 1": plan(0.7, 0.8, 21, "random"),
        "tower: infoprune 0.5": plan(0.5, 0.5, 15),
        "tower: mass 0.1 whitened": plan(0.87, 0.75, 30, ffn="mass", whitening=True),
        "both: infoprune 0.6 + budget": plan(0.4, 0.5, 18, ffn="budget", parts=(TOWER, LANGUAGE), whitening=True),
    },
}
ROW = {name: right(v) for name, v in (
    ("without", 0.5), ("compensated", 0.7), ("equal_cost", 0.61), ("best_fixed", 0.68), ("best_of_three", 0.8),
    ("true_description", 0.85), ("right_made_wrong", 0.04),
)} | {"worth_visual_tokens": 25.4}  # fmt: skip
ACCM = {
    "scenes": 1000, "environment": ENVIRONMENT, "full": right(0.9),
    "curve": {"vispruner@36": ROW, "vispruner@18": ROW | {"without": right(0.3)}, "vitcop@18": {"refused": True}},
}  # fmt: skip


def test_without_figures_it_says_how_to_get_them(tmp_path, monkeypatch):
    assert accm_section(tmp_path) == f"Not measured yet: `{COMMANDS['accm']}`."
    assert structural_section(tmp_path) == f"Not measured yet: `{COMMANDS['structural']}`."
    monkeypatch.setattr(structure, "figures", lambda name: None)
    monkeypatch.setattr(structure, "structural_section", lambda: structural_section(tmp_path))
    with gr.Blocks() as page:
        structure._show_curves()
    [said] = page.blocks.values()
    assert COMMANDS["structural"] in said.value


def test_every_plan_is_a_point_of_its_family():
    found = points(STRUCTURAL)
    assert [(p.where, p.family, p.label) for p in found] == [
        (TOWER, "InfoPrune, trained gates", "21 of 30 heads"),
        (TOWER, "InfoPrune, static score", "21 of 30 heads"),
        (TOWER, "Random heads", "21 of 30 heads"),
        (TOWER, "Random heads", "21 of 30 heads"),
        (TOWER, "InfoPrune, static score", "15 of 30 heads"),
        (TOWER, "ranks by mass, whitened", "mass 0.1"),
        ("both", "heads and ranks", "36 of 60 heads, budget 0.6"),
    ]
    assert found[0].fewer == pytest.approx(1.25), "of the tower alone"
    assert found[-1].fewer == pytest.approx(2000 / 1500), "of tower and language model together"
    assert found[-1].faster == pytest.approx(40 / 35)


def test_readme_quotes_them(tmp_path):
    (tmp_path / "structural.json").write_text(json.dumps(STRUCTURAL))
    (tmp_path / "accm.json").write_text(json.dumps(ACCM))
    said = structural_section(tmp_path).splitlines()
    assert said[0] == "`python -m pruning structural-bench` on 500 scenes; A processor, 2 cores, float32, " \
        "torch 2.13.0, transformers 5:"  # fmt: skip
    assert "| 21 of 30 | 1.25x | 1.25x | 85.0 ± 2.0 | 88.0 ± 2.0 | – | 65.0 (60.0 to 70.0) |" in said
    assert "| 15 of 30 | 2.00x | 2.00x | 50.0 ± 2.0 | – | – | – |" in said
    assert "| ranks by mass, whitened: mass 0.1 | 1.33x | 1.33x | 87.0 ± 2.0 |" in said
    told = accm_section(tmp_path)
    assert "| vispruner@36 | 50.0 ± 2.0 | 70.0 ± 2.0 | 61.0 ± 2.0 | 68.0 ± 2.0 |" in told
    assert "| vitcop@18 | refused |" in told


def test_charts_show_every_figure():
    chart = plans_chart(points(STRUCTURAL), TOWER, 0.9, theme=theme(dark=False))
    traces = {t.name: t for t in chart.data}
    assert list(traces["InfoPrune, static score"].x) == pytest.approx([1.25, 2.0])
    assert list(traces["InfoPrune, static score"].y) == [85, 50]
    assert (len(traces["Random heads"].x), traces["Random heads"].mode) == (2, "markers")
    assert "heads and ranks" not in traces
    bars = captions_chart(ACCM, TITLES, theme=theme(dark=False)).data
    assert [list(b.x) for b in bars] == [["VisPruner, 36 kept", "VisPruner, 18 kept"]] * 4
    assert list(bars[0].y) == [50, 30]
    assert list(bars[2].error_y.array) == [2, 2]


def test_the_page_shows_them_where_somebody_decides(monkeypatch):
    found = {"accm": ACCM, "structural": STRUCTURAL}.get
    for module in (structure, measured):
        monkeypatch.setattr(module, "figures", found)
    monkeypatch.setattr("app.ui.caption_controls.figures", found)
    with gr.Blocks() as page:
        structure._show_curves()
        measured._show_captions(TITLES)
        build_caption_controls({"accm": str(DEFAULT_FOLDER)})
    blocks = {b.elem_id: b for b in page.blocks.values() if b.elem_id}
    assert {"curve-0", "curve-1", "captions-measured"} <= set(blocks)
    assert "VisPruner 50.0 → 70.0 (61.0 with tokens of equal cost)" in blocks["compensate-measured"].value
    assert accm_sentence(ACCM | {"curve": {}}) == ""
    with gr.Blocks() as page:
        build_caption_controls({"accm": "another"})
    [said] = [b.value for b in page.blocks.values() if b.elem_id == "compensate-measured"]
    assert said == "", "they are another captioner's figures"


def test_a_method_that_was_judged_on_fewer_scenes_says_so():
    entry = {"answer_region_kept": 0.5, "mean_tokens_per_layer": 64.0}
    curve = {
        "fastv@64": entry | {"accuracy": right(0.8)},
        "fastv@18": {"refused": "it cannot"},
        "dart@64": entry | {"accuracy": right(0.8) | {"n": 300}},
        "tome@18": {"refused": "it cannot"},
    }
    results = {"pruned_scenes": 500, "curve": curve}
    assert [fewer_scenes(results, m) for m in ("fastv", "dart", "tome")] == ["", " (300 scenes)", ""]
