"""Estimated FLOPs and bytes of the cache, against the figures of the papers."""

from __future__ import annotations

import pytest

from pruning.budget import mean_per_layer
from pruning.cost import estimate, kv_bytes, layer_flops, prefill_flops
from pruning.interface import ModelInfo

LLAVA_7B = {"dim": 4096, "ffn_dim": 11008}
VITCOP = {192: (288, 253, 51), 128: (230, 165, 33), 64: (172, 77, 15)}


def test_llava_7b_prefill_is_the_familiar_3_82_tera():
    assert prefill_flops([576] * 32, 0, **LLAVA_7B) == pytest.approx(3.817e12, rel=1e-3)


@pytest.mark.parametrize(("tokens", "expected"), [(192, 1.253), (128, 0.833), (64, 0.416), (36, 0.233), (18, 0.117)])
def test_prefill_at_the_usual_budgets(tokens, expected):
    assert prefill_flops([tokens] * 32, 0, **LLAVA_7B) / 1e12 == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("target", "without_text", "with_text"), [(192, 1.256, 1.678), (128, 0.833, 1.253), (64, 0.413, 0.831)]
)
def test_prefill_of_vitcops_three_cuts(target, without_text, with_text):
    vision, shallow, deep = VITCOP[target]
    per_layer = [vision] * 2 + [shallow] * 20 + [deep] * 10
    assert prefill_flops(per_layer, 0, **LLAVA_7B) / 1e12 == pytest.approx(without_text, abs=6e-4)
    assert prefill_flops(per_layer, 64, **LLAVA_7B) / 1e12 == pytest.approx(with_text, abs=6e-4)
    assert mean_per_layer(per_layer) == pytest.approx(target, abs=0.5)


def test_text_counts_in_every_layer():
    assert prefill_flops([576] * 32, 64, **LLAVA_7B) / 1e12 == pytest.approx(4.252, abs=6e-4)
    assert prefill_flops([10], 5, 8, 16) == layer_flops(15, 8, 16)


def test_grouped_keys_make_two_projections_narrower():
    assert layer_flops(10, 64, 128, kv_dim=64) == layer_flops(10, 64, 128)
    assert layer_flops(10, 64, 128) - layer_flops(10, 64, 128, kv_dim=16) == 2 * 10 * 64 * 48


def test_kv_cache_of_llava_7b_in_half_precision():
    assert kv_bytes([576] * 32, 0, 4096, 2) == 576 * 32 * 2 * 4096 * 2
    assert kv_bytes([100, 10], 5, 8, 4) == 2 * 8 * 4 * (105 + 15)


def test_the_estimate_adds_up_tower_and_language_model_apart():
    info = ModelInfo("m", 2, 1, 2, 8, 32, 16, 48, 16, signals=frozenset())
    cost = estimate(info, [4, 2], 3, [5, 5], 4)
    assert cost.prefill_flops == layer_flops(7, 16, 48) + layer_flops(5, 16, 48)
    assert cost.tower_flops == 2 * layer_flops(5, 8, 32, matrices=2)
    assert cost.kv_bytes == 2 * 16 * 4 * (7 + 5)
