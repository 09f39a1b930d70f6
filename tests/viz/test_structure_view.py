"""What the Weight pruning tab shows is what the plan says."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pruning.engine.plan import make_plan
from pruning.engine.run import run
from pruning.engine.session import Compressed
from pruning.interface import Part
from pruning.layout import Tile, TokenLayout
from pruning.metrics.plan_cost import plan_cost
from pruning.ops import ks
from pruning.ops.spectra import ks_two_sample
from pruning.records.plan import PlanRequest, Trajectory
from pruning.records.run import RunRequest
from support.noise import Noise
from support.tiny_models import make_tiny_adapter
from viz.export.recipe import command, figures_of, python
from viz.page.head_attention import head_attention_view
from viz.page.run import run_view
from viz.page.structure import gates_view, head_view, maps_view, plan_view, ranks_view, sums_view

BOTH = (Part.TOWER.value, Part.LANGUAGE_MODEL.value)


@pytest.fixture(scope="module")
def adapter():
    return make_tiny_adapter()


@pytest.fixture(scope="module")
def plan(adapter):
    return make_plan(adapter, PlanRequest("tiny", heads=0.6, ffn="mass", tau=0.3, parts=BOTH, n_pairs=2), Noise())


def cost_of(plan, adapter):
    return plan_cost(plan, adapter.info, 36, 20, [37] * adapter.info.tower_layers)


def trained(plan, points=5, note=0.5):
    n = sum(p.n_heads for p in plan.layers)
    gates = np.linspace(1, note, points)[:, None] * np.ones(n)
    terms = {"loss": np.arange(points), "task": np.arange(points), "target": np.linspace(0, 0.4, points)}
    return replace(plan, training=Trajectory(np.arange(points), gates, terms, {"rate": 0.01}))


def test_a_view_is_json_without_numbers_that_json_has_not(plan, adapter):
    view = plan_view(trained(plan), cost_of(plan, adapter), "Tiny")
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert view["digest"] == plan.digest
    assert plan.notes[0] in view["notes"]


def test_maps_hold_every_head_once_with_the_plan_s_own_values(plan):
    maps = maps_view(plan)
    assert [p["part"] for p in maps["parts"]] == list(BOTH)
    assert maps["modes"] == ["score", "erank", "ks"]
    layers = [layer for part in maps["parts"] for layer in part["layers"]]
    for view, layer in zip(layers, plan.layers, strict=True):
        assert (view["layer"], view["heads"], view["kept"]) == (layer.layer, layer.n_heads, layer.heads.tolist())
        for name in maps["modes"]:
            assert np.array_equal(np.float32(view[name]), getattr(layer, name)), "not rounded: order decides who goes"


def test_a_score_without_pictures_has_nothing_but_itself_to_show(adapter):
    plan = make_plan(adapter, PlanRequest("tiny", score="magnitude", heads=0.5))
    assert maps_view(plan)["modes"] == ["score"]
    assert maps_view(plan)["curves"] is False
    view = head_view(plan, "vision tower", 0, 1)
    assert view["spectrum"] is None
    assert view["values"]["erank"] is None
    full = make_plan(adapter, PlanRequest("tiny", ffn="erank"))
    assert maps_view(full)["modes"] == [], "no head was scored"
    json.dumps(plan_view(full, cost_of(full, adapter), "Tiny"), allow_nan=False)


def test_the_gap_between_the_curves_is_the_head_s_ks(plan):
    for layer in plan.layers:
        for head in range(layer.n_heads):
            view = head_view(plan, layer.part.value, layer.layer, head)
            gap = view["gap"]
            assert abs(gap["full"] - gap["without"]) == pytest.approx(layer.ks[head], abs=1e-5)
            assert [gap["at"], pytest.approx(gap["full"], abs=1e-5)] in view["full"], "the gap is on the curve"
            assert [gap["at"], pytest.approx(gap["without"], abs=1e-5)] in view["without"]
            assert view["kept"] == (head in layer.heads)


def test_the_pitfall_is_drawn_plain_ks_is_a_line_and_the_mass_is_not(plan):
    layer = plan.layers[0]
    view = head_view(plan, layer.part.value, layer.layer, 0)
    n = view["n"]
    assert [y for _, y in view["plain"]] == pytest.approx([1 - k / n for k in range(1, n + 1)], abs=1e-6)
    assert [y for _, y in view["cut"]] == pytest.approx((1 - np.cumsum(layer.spectra[0])).clip(0).tolist(), abs=1e-5)
    k = view["k"]
    assert f"{1 - k / n:.2f} for k = {k} of {n}" in view["pitfall"]
    assert f"the same cut is {view['cut'][k - 1][1]:.2f}" in view["pitfall"]


def test_plain_ks_is_the_engine_s():
    spectrum = np.array([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], np.float32)
    for k in range(1, 7):
        engine = float(ks_two_sample(torch.from_numpy(spectrum), torch.from_numpy(spectrum[:k])))
        assert ks.ks_two_sample(spectrum, spectrum[:k]) == pytest.approx(engine)


def test_what_a_head_attends_to_is_painted_where_it_is():
    layout = TokenLayout((90, 60), (Tile((0, 0, 90, 60), (2, 3), (48, 48)),))
    weights = np.array([0, 0, 0.6, 0, 0.1, 0], np.float32)
    view = head_attention_view(np.full((60, 90, 3), 128, np.uint8), layout, weights, "vision tower")
    assert view["says"].startswith("70% of its attention goes to the picture, half of that to 1 of 6 visual tokens.")
    painted = cv2.imdecode(np.frombuffer(base64.b64decode(view["picture"].split(",")[1]), np.uint8), 1)
    yellow = painted[..., 2].astype(int) - painted[..., 0]  # red above blue
    cells = yellow.reshape(2, 30, 3, 30).mean((1, 3)).ravel()
    assert cells.argmax() == 2
    assert cells[4] > max(cells[[0, 1, 3, 5]]) + 5


@pytest.mark.parametrize("wish", [("vision tower", 99, 0), ("ear", 0, 0), ("vision tower", 0, 99)])
def test_a_head_that_is_not_there_is_a_key_error(plan, wish):
    with pytest.raises(KeyError):
        head_view(plan, *wish)


def test_ranks_say_what_stays_and_what_would_save_nothing(plan, adapter):
    rows = ranks_view(plan)
    matrices = [(p, m) for p in plan.layers for m in p.matrices]
    for view, (layer, m) in zip(rows, matrices, strict=True):
        assert (view["layer"], view["name"], view["rank"]) == (layer.layer, m.shape.name, m.shape.rank)
        assert view["break_even"] == m.shape.break_even
        if m.shape.rank is None:
            assert view["says"] == f"full rank: rank {m.wanted} saves nothing"
        else:
            assert view["fill"] == m.shape.rank / min(m.shape.d_in, m.shape.d_out)
    narrow = make_plan(adapter, PlanRequest("tiny", ffn="bottleneck", tau=0.5, n_pairs=1), Noise())
    assert "hidden units" in ranks_view(narrow)[0]["says"]
    assert 0 < ranks_view(narrow)[0]["fill"] < 1


def test_sums_agree_with_a_run(plan, adapter, noise):
    view = adapter.compressed(plan)
    try:
        record = run(RunRequest("tiny", "resprune", 1, "What?", max_new_tokens=1), adapter, noise,
                     compressed=Compressed(plan, view))  # fmt: skip
    finally:
        view.close()
    text = record.full.text_tokens
    cost = plan_cost(plan, adapter.info, 36, text, [37] * adapter.info.tower_layers)
    before = record.full_cost.prefill_flops + record.full_cost.tower_flops
    after = record.pruned_cost.prefill_flops + record.pruned_cost.tower_flops
    assert cost.full == (before, after)
    sums = sums_view(plan, cost)
    assert sums["full"] == [before, after]
    summary = plan.summary()
    for row in sums["rows"]:
        assert row["parameters"] == list(summary.parameters[row["name"]])[::-1]
        assert row["flops"][1] < row["flops"][0]


def test_gates_are_shown_where_there_was_a_training_and_thinned_out_where_there_were_many_steps(plan):
    assert gates_view(plan) is None
    view = gates_view(trained(plan, points=500))
    assert len(view["gates"]) == len(view["kept"]) == sum(p.n_heads for p in plan.layers)
    assert len(view["steps"]) < 200
    assert (view["steps"][0], view["steps"][-1]) == (0, 499)
    assert view["gates"][0][-1] == pytest.approx(0.5)
    assert sum(view["kept"]) == sum(len(p.heads) for p in plan.layers)


def test_a_run_with_a_plan_names_it_wherever_it_is_shown(plan, adapter, noise):
    view = adapter.compressed(plan)
    try:
        record = run(RunRequest("tiny", "resprune", 0.25, "What?", max_new_tokens=2), adapter, noise,
                     compressed=Compressed(plan, view))  # fmt: skip
    finally:
        view.close()
    heads = f"{sum(len(p.heads) for p in plan.layers)} of {sum(p.n_heads for p in plan.layers)} heads"
    payload = run_view(record, "", recorded=False)
    assert heads in payload["canvas"]["weights"]
    assert heads in payload["canvas"]["headline"]
    assert "9 of 36 visual tokens" in payload["canvas"]["headline"]
    assert heads in payload["answers"]["weights"]
    assert figures_of(record)["structural_plan"]["digest"] == plan.digest
    assert "--plan your_plan.zip" in command(record)
    assert "compressed=Compressed(plan" in python(record)
    compile(python(record), "recipe", "exec")
