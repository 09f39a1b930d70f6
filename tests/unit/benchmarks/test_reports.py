"""Reports of measured speed, captions and plans: their sections, the points of charts, and what is said without."""

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
    speed_section,
    structural_section,
)
from pruning.compensation.accm import DEFAULT_FOLDER
from pruning.methods import METHODS
from viz.charts import captions_chart, plans_chart
from viz.theme import theme

ENVIRONMENT = {
    "machine": "A processor, 2 cores", "threads": "2", "dtype": "float32", "torch": "2.13.0", "transformers": "5",
    "chromium": "150", "commit": "0123456789ab",
}  # fmt: skip
SPEED = {
    "environment": ENVIRONMENT,
    "prefill": {
        "random 0.15 B": [
            {"kept": 192, "time_over_work": 1.2, "engine_over_bare": 1.01},
            {"kept": 64, "time_over_work": 1.04, "engine_over_bare": 0.99},
        ]
    },
    "recording": {"bundled": {"plain_ms": 100, "engine_over_plain": 1.012, "with_attention_over_plain": 1.2}},
    "selection": {
        "fastv": {"ms_576": 0.2, "ms_2880": 12.3, "growth": 1.0},
        "dart": {"ms_576": 3.0, "ms_2880": 50.4, "growth": 1.8, "over_published_order": 0.281},
        "vitcop": {"refused": "Too few tokens."},
    },
    "memory": {"random 0.15 B": {"full": 90.0, "fastv": 60.0, "resprune": 70.4}},
}
TIME = {"median": 812.4, "least": 700.0, "most": 950.0, "n": 7}
PAGE = {
    "environment": ENVIRONMENT,
    "ms": dict.fromkeys(("start", "first_comparison", "live_run", "recorded_stop", "hover"), TIME),
    "requests": {"hover": 0, "foreign": 3},
}
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


def row_of(section: str, *words: str) -> list[str]:
    """The cells of the only row of a section whose first cell has all these words."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    [found] = [row for row in rows if all(word in row[0] for word in words)]
    return found


@pytest.mark.parametrize(
    ("section", "commands"),
    [(speed_section, ("speed", "page")), (accm_section, ("accm",)), (structural_section, ("structural",))],
    ids=["speed", "accm", "structural"],
)
def test_without_figures_it_says_how_to_measure(section, commands, tmp_path):
    assert all(f"Not measured yet: `{COMMANDS[command]}`." in section(tmp_path) for command in commands)


def test_the_page_says_how_to_measure_plans(tmp_path, monkeypatch):
    monkeypatch.setattr(structure, "figures", lambda name: None)
    monkeypatch.setattr(structure, "structural_section", lambda: structural_section(tmp_path))
    with gr.Blocks() as page:
        structure._show_curves()
    [said] = page.blocks.values()
    assert COMMANDS["structural"] in said.value


def test_speed_names_the_worst_and_leaves_out_what_was_refused(tmp_path):
    for name, found in (("speed", SPEED), ("page", PAGE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    said = speed_section(tmp_path)
    assert "1.20 / 1.04" in row_of(said, "multiply-adds", "192 / 64", "random 0.15 B")[1], "a figure for each budget"
    assert row_of(said, "peak memory", "random 0.15 B")[1:] == ["70 MB", "below 90 MB, unpruned"]
    assert "0.28" in row_of(said, METHODS["dart"].title)[1]
    assert row_of(said, METHODS["fastv"].title)[2] == "", "no published order to be compared with"
    assert METHODS["vitcop"].title not in said
    assert row_of(said, "requests to other hosts")[1] == "3"
    assert row_of(said, "a live run")[1].startswith("812 ms (700 to 950")
    for command in (COMMANDS["speed"], COMMANDS["page"]):
        [where] = [line for line in said.splitlines() if line.startswith(f"`{command}` on A processor")]
        assert ENVIRONMENT["commit"] in where


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


def test_plans_of_equal_heads_share_a_row_and_random_draws_a_mean(tmp_path):
    (tmp_path / "structural.json").write_text(json.dumps(STRUCTURAL))
    said = structural_section(tmp_path)
    assert "500 scenes" in said.splitlines()[0]
    row = row_of(said, "21 of 30")
    assert [cell.split(" ")[0] for cell in row[3:]] == ["85.0", "88.0", "–", "65.0"]
    assert "60.0 to 70.0" in row[-1]
    assert row_of(said, "15 of 30")[-1] == "–"
    assert row_of(said, "mass 0.1")[-1].startswith("87.0")


def test_captions_have_a_row_for_every_budget_refused_ones_too(tmp_path):
    (tmp_path / "accm.json").write_text(json.dumps(ACCM))
    said = accm_section(tmp_path)
    assert [cell.split(" ")[0] for cell in row_of(said, "vispruner@36")[1:5]] == ["50.0", "70.0", "61.0", "68.0"]
    assert row_of(said, "vitcop@18")[1:] == ["refused"]


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
