"""A structural plan carried out: what is sliced equals what is gated, nobody else notices, and the books are right."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from pruning.cost import prefill_flops, shaped_flops
from pruning.engine.plan import make_plan
from pruning.engine.run import run
from pruning.engine.session import Compressed
from pruning.errors import ParameterError, PlanError
from pruning.inputs.questions import Pair
from pruning.interface import Part
from pruning.methods import METHODS
from pruning.models import load
from pruning.records.plan import PlanRequest, StructuralPlan
from pruning.records.run import RunRecord, RunRequest
from support.following import fingerprint
from support.noise import TWO_QUESTIONS, Noise
from support.paths import ROOT
from support.reference import QUESTION
from support.tiny_models import broken_fastv, make_tiny_adapter

BOTH = (Part.TOWER, Part.LANGUAGE_MODEL)
N_NEW = 4


def request(method="resprune", keep_ratio=0.4) -> RunRequest:
    return RunRequest("tiny", method, keep_ratio, QUESTION, max_new_tokens=N_NEW)


def plan_for(adapter, **kwargs) -> StructuralPlan:
    options = {"parts": [p.value for p in BOTH], "n_pairs": 2} | kwargs
    return make_plan(adapter, PlanRequest("tiny", **options), Noise(*TWO_QUESTIONS))


RECIPES = [
    {"heads": 0.5},
    {"heads": 0.5, "parameters": {"matrix": "attention map"}},
    {"heads": 0.5, "parameters": {"matrix": "OV weight", "ks": "two-sample"}},
    {"heads": 0.5, "score": "magnitude"},
    {"heads": 0.4, "score": "random", "seed": 3},
    {"ffn": "mass", "tau": 0.2},
    {"ffn": "erank"},
    {"ffn": "budget", "ffn_flops": 0.5},
    {"ffn": "bottleneck", "tau": 0.3},
    {"heads": 0.6, "ffn": "mass", "tau": 0.3, "whitening": True},
]


@pytest.fixture(scope="module", params=[2, 4])
def adapter(request):
    return make_tiny_adapter(kv_heads=request.param)


def logits(model, adapter, picture) -> torch.Tensor:
    prompt = adapter.prompt(picture, QUESTION)
    with torch.inference_mode():
        return model(input_ids=prompt.input_ids, pixel_values=prompt.pixels, use_cache=False).logits[0]


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.get("heads")], ids=str)
def test_sliced_heads_equal_gated_ones(adapter, noise, recipe):
    plan = plan_for(adapter, **(recipe | {"ffn": "none"}))
    gated = adapter.gated(BOTH)
    gated.gates = []
    for layer in plan.layers:
        gate = torch.zeros(layer.n_heads)
        gate[layer.heads.tolist()] = 1
        gated.gates.append(gate)
    view = adapter.compressed(plan)
    assert torch.allclose(logits(view.model, view, noise), logits(gated.model, adapter, noise), atol=1e-5)
    assert not torch.allclose(logits(view.model, view, noise), logits(adapter.model, adapter, noise), atol=1e-3)


def test_gates_at_one_change_nothing(adapter, noise):
    gated = adapter.gated(BOTH)
    plain = logits(adapter.model, adapter, noise)
    assert torch.equal(logits(gated.model, adapter, noise), plain)
    gated.gates = [torch.ones(b.shape.kv_dim // b.head_dim) for b in adapter.blocks(BOTH)]
    assert torch.equal(logits(gated.model, adapter, noise), plain)


def test_a_plan_that_keeps_everything_gives_identical_answers(adapter, noise):
    plan = plan_for(adapter)
    assert plan.keeps_everything
    view = adapter.compressed(plan)
    assert torch.equal(logits(view.model, view, noise), logits(adapter.model, adapter, noise))
    for method in METHODS:
        with_plan = run(request(method), adapter, noise, compressed=Compressed(plan, view))
        assert with_plan.pruned.log_probs == run(request(method), adapter, noise).pruned.log_probs
        assert with_plan.pruned_cost.prefill_flops == run(request(method), adapter, noise).pruned_cost.prefill_flops


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_counts_of_the_plan_are_those_of_the_modules(adapter, noise, recipe):
    """Parameters against the real modules; multiply-adds against those that the real matrices did."""
    plan = plan_for(adapter, **recipe)
    view = adapter.compressed(plan)
    done = dict.fromkeys(BOTH, 0)
    blocks = {(b.part, b.layer): b for b in view.blocks(BOTH)}
    tokens: dict[Part, int] = {}
    for layer in plan.layers:
        block = blocks[layer.part, layer.layer]
        real = sum(p.numel() for m in (block.attention, block.mlp) for p in m.parameters())
        assert real == layer.compressed.parameters
        assert block.shape == layer.compressed
        for module in (block.attention, block.mlp):
            for linear in (m for m in module.modules() if isinstance(m, torch.nn.Linear)):

                def count(m, args, part=layer.part):
                    tokens[part] = args[0].shape[-2]
                    done[part] += args[0].shape[-2] * m.in_features * m.out_features

                linear.register_forward_pre_hook(count)
    logits(view.model, view, noise)
    for part in BOTH:
        mine = [p.compressed for p in plan.layers if p.part is part]
        n = tokens[part]
        scores = sum(2 * n * n * s.q_dim for s in mine)  # queries with keys, and weights with values
        assert shaped_flops(mine, [n] * len(mine)) == done[part] + scores
    full = [p.shape for p in plan.layers if p.part is Part.LANGUAGE_MODEL]
    info = adapter.info
    dense = prefill_flops([30] * len(full), 6, info.text_dim, info.text_ffn_dim, info.kv_dim)
    assert shaped_flops(full, [36] * len(full)) == dense


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_matrices_are_thin_only_below_break_even(adapter, recipe):
    plan = plan_for(adapter, **recipe)
    if recipe.get("ffn", "none") in ("none", "bottleneck"):
        assert all(m.shape.rank is None for p in plan.layers for m in p.matrices)
        return
    for m in (m for p in plan.layers for m in p.matrices):
        assert m.shape.rank is None or m.shape.rank < m.shape.break_even
        assert len(m.spectrum) == min(m.shape.d_in, m.shape.d_out)
        assert float(m.spectrum.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("share", [0.34, 0.5, 0.75, 0.9])
def test_the_share_of_heads_is_met_within_one_and_no_layer_is_emptied(adapter, share):
    plan = plan_for(adapter, heads=share)
    kept, total = (sum(v) for v in zip(*plan.summary().heads.values(), strict=True))
    assert abs(kept - share * total) <= 1
    assert all(len(p.heads) >= 1 for p in plan.layers)


@pytest.mark.parametrize("method", METHODS)
def test_it_composes_with_every_token_pruner(adapter, noise, method):
    plan = plan_for(adapter, heads=0.5, ffn="mass", tau=0.3, whitening=True)
    view = adapter.compressed(plan)
    record = run(request(method), adapter, noise, compressed=Compressed(plan, view))
    tokens_only = run(request(method), adapter, noise)
    weights_only = run(request(method, 1.0), adapter, noise, compressed=Compressed(plan, view))
    assert record.full.log_probs == tokens_only.full.log_probs == weights_only.full.log_probs
    answers = [r.pruned.log_probs for r in (record, tokens_only, weights_only)]
    assert len(set(answers)) == 3
    assert record.pruned.visual_per_layer == tokens_only.pruned.visual_per_layer
    costs = [r.pruned_cost.prefill_flops for r in (record, tokens_only, weights_only)]
    assert costs[0] < min(costs[1:]) < record.full_cost.prefill_flops
    assert record.pruned_cost.kv_bytes < tokens_only.pruned_cost.kv_bytes
    assert record.structure.digest == plan.digest == record.request.structure
    assert tokens_only.structure is None
    again = RunRecord.from_parts(*record.to_parts())
    assert again.structure == record.structure


def test_generated_answers_use_the_cache_rightly(adapter, noise):
    """Prefill and decode with fewer heads equal one pass over the finished text."""
    plan = plan_for(adapter, heads=0.5, ffn="mass", tau=0.3)
    view = adapter.compressed(plan)
    for model_view in (view,):
        prompt = model_view.prompt(noise, QUESTION)
        out = model_view.model.generate(
            input_ids=prompt.input_ids, pixel_values=prompt.pixels, do_sample=False, max_new_tokens=N_NEW,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        with torch.inference_mode():
            full = model_view.model(input_ids=out.sequences, pixel_values=prompt.pixels, use_cache=False).logits[0]
        n = prompt.input_ids.shape[1]
        for step, given in enumerate(out.logits):
            torch.testing.assert_close(given[0], full[n - 1 + step], atol=1e-4, rtol=1e-4)
        heads = [layer.keys.shape[1] for layer in out.past_key_values.layers]
        assert heads == [len(p.heads) for p in plan.layers if p.part is Part.LANGUAGE_MODEL]
        record = run(request(keep_ratio=1.0), adapter, noise, compressed=Compressed(plan, view))
        expected = [float(s[0].log_softmax(-1)[i]) for s, i in zip(out.logits, out.sequences[0, n:], strict=True)]
        assert np.allclose(record.pruned.log_probs, expected, atol=1e-4)


def test_eager_attention_gives_the_same_answer(noise):
    sdpa, eager = (make_tiny_adapter(attention=a) for a in ("sdpa", "eager"))
    plan = plan_for(sdpa, heads=0.5)
    found = [run(request("fastv"), a, noise, compressed=Compressed(plan, a.compressed(plan))) for a in (sdpa, eager)]
    assert np.allclose(found[0].pruned.log_probs, found[1].pruned.log_probs, atol=1e-4)


def test_untouched_tensors_are_shared_and_replaced_ones_are_not(adapter):
    plan = plan_for(adapter, heads=0.5, parts=[Part.TOWER.value])
    view = adapter.compressed(plan)
    shared = {p.data_ptr() for p in adapter.model.parameters()}
    own = [n for n, p in view.model.named_parameters() if p.data_ptr() not in shared]
    cut = {f"layers.{p.layer}.self_attn" for p in plan.layers if len(p.heads) < p.n_heads}
    assert own
    assert all("vision_tower" in n and any(c in n for c in cut) for n in own)
    assert not any(p.requires_grad for p in view.model.parameters())


@pytest.mark.parametrize("recipe", [RECIPES[1], RECIPES[-1]], ids=str)
def test_the_shared_model_is_left_alone_by_plans_views_and_crashes(noise, recipe):
    adapter = make_tiny_adapter()
    alone = run(request(), adapter, noise).pruned.log_probs
    before = fingerprint(adapter)
    plan = plan_for(adapter, **recipe)
    view = adapter.compressed(plan)
    run(request(), adapter, noise, compressed=Compressed(plan, view))
    assert fingerprint(adapter) == before

    with broken_fastv(), pytest.raises(ZeroDivisionError):
        run(request("fastv"), adapter, noise, compressed=Compressed(plan, view))
    assert fingerprint(adapter) == before
    with pytest.raises(ZeroDivisionError):
        make_plan(adapter, PlanRequest("tiny", heads=0.5, n_pairs=2), _Crash())
    view.close()
    assert fingerprint(adapter) == before
    assert run(request(), adapter, noise).pruned.log_probs == alone


class _Crash(Noise):
    def __getitem__(self, number: int) -> Pair:
        if number:
            raise ZeroDivisionError
        return super().__getitem__(number)


def test_two_visitors_with_different_plans_at_once(adapter, noise):
    plans = [plan_for(adapter, heads=0.5), plan_for(adapter, score="random", heads=0.4), plan_for(adapter, ffn="mass")]
    views = [Compressed(p, adapter.compressed(p)) for p in plans] + [None]
    alone = [run(request("vitcop"), adapter, noise, compressed=v).pruned.log_probs for v in views]
    assert len(set(alone)) == len(views)
    found, errors = {}, []

    def work(number):
        try:
            for _ in range(3):
                made = run(request("vitcop"), adapter, noise, compressed=views[number])
                found.setdefault(number, set()).add(made.pruned.log_probs)
        except Exception as error:  # noqa: BLE001 (reported below, in the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(views))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert found == {i: {a} for i, a in enumerate(alone)}


def test_the_last_tower_layer_is_dead_weight_and_left_out(adapter):
    """The hidden state before the last feeds the projector: heads behind it would be counted as savings for nothing."""
    plan = plan_for(adapter, heads=0.5, parts=[Part.TOWER.value])
    assert [p.layer for p in plan.layers] == list(range(adapter.info.feature_layer + 1))
    assert len(plan.layers) < adapter.info.tower_layers


def test_a_plan_for_another_model_is_refused(adapter, noise):
    plan = plan_for(make_tiny_adapter(seed=1), score="magnitude", heads=0.5)
    with pytest.raises(PlanError, match="made for other weights"):
        adapter.compressed(plan)
    forged = replace(plan, fingerprint=adapter.fingerprint)
    wrong = replace(forged, layers=(replace(plan.layers[0], layer=adapter.info.feature_layer + 1),))
    with pytest.raises(PlanError, match="no layer 3 in use"):
        adapter.compressed(wrong)


def test_calibration_needs_pictures(adapter):
    with pytest.raises(ParameterError, match="none were given"):
        make_plan(adapter, PlanRequest("tiny", heads=0.5), None)
    make_plan(adapter, PlanRequest("tiny", heads=0.5, score="magnitude", ffn="mass"), None)


def test_the_bundled_model_takes_a_plan_and_is_left_alone(noise):
    adapter = load("demo", device="cpu")
    logits(adapter.model, adapter, noise)  # the library installs recorders of its own on first use
    before = fingerprint(adapter)
    plan = plan_for(adapter, heads=0.6, ffn="mass", tau=0.05, whitening=True, n_pairs=1)
    view = adapter.compressed(StructuralPlan.from_bytes(plan.to_bytes()))
    record = run(request(keep_ratio=0.2), adapter, noise, compressed=Compressed(plan, view))
    assert record.pruned_cost.tower_flops < record.full_cost.tower_flops
    kept = plan_for(adapter)
    everything = adapter.compressed(kept)
    assert torch.equal(logits(everything.model, adapter, noise), logits(adapter.model, adapter, noise))
    assert fingerprint(adapter) == before


def test_a_plan_is_read_without_torch(adapter, tmp_path):
    plan_for(adapter, heads=0.5).save(tmp_path / "p.zip")
    code = (
        "import sys; from pathlib import Path; from pruning.records.plan import StructuralPlan;"
        f"p = StructuralPlan.load(Path({str(tmp_path / 'p.zip')!r}));"
        "assert not {'torch', 'transformers', 'gradio', 'cv2'} & set(sys.modules); print(p.layers[0].n_heads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip().isdigit(), done.stderr
