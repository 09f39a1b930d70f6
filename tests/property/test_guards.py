"""Defects of published implementations, and which test would see each of them here.

`GUARDED` goes through what the specification of the peers lists: results that cannot be told apart, modes, budgets that
are not what they say, crashes and lost or repeated tokens, ties, number formats, models without [CLS]. What no other
test saw is tested below. What no guard can be written for: FastV's paper speaks of the attention that a token receives
on average and its code reads one row; the paper's reading is not offered, since it needs whole maps.
"""

from __future__ import annotations

import re

import pytest
import torch
from conftest import ROOT
from test_methods import MAY_REFUSE, World, drive, survivors

from pruning.errors import BudgetError
from pruning.methods import METHODS
from pruning.methods.vispruner import important_and_diverse
from pruning.ops.scoring import best_ascending

GUARDED = {
    # 1. one result for all: ids of the original grid, reading order, what was merged into what, scores, positions
    "ids of the original grid, order, groups": ("unit/test_records.py", "test_round_trip"),
    "a partition whose targets are kept": ("property/test_methods.py", "test_counts_order_and_fates"),
    "zero vectors fed as tokens (HoloV)": ("property/test_tower_methods.py", "test_holov_hands_on"),
    "positions nobody recorded": ("contract/test_runs.py", "test_pruned_run_equals_masked_run"),
    # 2. as published and as coded: see MODES below; numbers as coded are held by golden selections
    "numbers of the published codes": ("golden/test_golden.py", "test_selection_equals_the_published_one"),
    # 3. budgets that are not what they say
    "asked, kept, unique and the true average": ("unit/test_presets.py", "test_asked_kept_unique_and_average"),
    "64 that is not 64 in every layer": ("unit/test_presets.py", "test_sixty_four_is_not_one_quantity"),
    "an average other than what the layers read": ("unit/test_records.py", "test_round_trip"),
    "runs on unequal averages compared in silence": ("unit/test_presets.py", "test_the_random_band_says_its_average"),
    "DART's count of 4 + 8 t": ("property/test_language_pruners.py", "test_dart_counts_as_coded_or_exactly"),
    "PruMerge's extra row": ("property/test_methods.py", "test_counts_order_and_fates"),
    "VScan's lost picks": ("property/test_tower_methods.py", "test_vscan_keeps_what_was_asked"),
    # 4. guards the originals lack
    "odd residual (VisPruner)": ("property/test_guards.py", "test_vispruner_survives_an_odd_rest"),
    "more tokens than the rank (CDPruner)": ("property/test_tower_methods.py", "test_cdpruner_beyond_the_rank"),
    "repeated tokens (DivPrune and all)": ("property/test_guards.py", "test_repeated_tokens_are_not_kept_twice"),
    "quota larger than its part (HoloV)": ("property/test_tower_methods.py", "test_quotas_meet_every_count"),
    "step 0 (PruMerge+)": ("property/test_tower_methods.py", "test_prumerge_counts_outliers_and_has_a_step"),
    "neighbours in a batch (CDPruner)": ("property/test_guards.py", "test_no_run_feels_another_one"),
    "noise in densities (SparseVLM)": ("property/test_language_pruners.py", "test_clusters_do_not_depend_on_noise"),
    "a set frozen or pruned again while decoding (FastV)": ("contract/test_runs.py", "test_lengths_in_the_record"),
    "pivots in the order of a hash (DART)": ("property/test_methods.py", "test_same_seed_same_result"),
    "a cut at layer 0 that is random (FastV)": ("property/test_guards.py", "test_fastv_has_no_layer_zero"),
    # 5. ties
    "ties that differ from device to device": ("property/test_guards.py", "test_equal_scores_go_to_the_first"),
    # 6. half precision
    "decisions in the model's number format": ("property/test_guards.py", "test_half_precision_decides_as_float32"),
    # 7. models without [CLS], mergers, DeepStack, several axes of positions
    "a model that lacks what a method needs": ("contract/test_runs.py", "test_missing_signal_and_missing_layer"),
    "tokens of several patches, DeepStack, M-RoPE": ("contract/test_families.py", "test_pruned_run_equals_masked_run"),
    "tower stages in windows or tiles": ("contract/test_families.py", "test_no_method_drops_rows_in_a_tower"),
    "which square a token is": ("unit/test_geometry_families.py", "test_every_token_sees_the_colour_at_its_box"),
    # the field's habits: whole maps, other visitors, cached pictures
    "observing moves every layer to eager": ("contract/test_signals.py", "test_language_signals_equal_eager_maps"),
    "state left on a shared model": ("contract/test_runs.py", "test_two_visitors_at_once_never_see_each_other"),
}
MODES = {
    ("cdpruner", "sign"): 2, ("holov", "ranking"): 2, ("holov", "crops"): 2, ("visionzip", "merge"): 2,
    ("dart", "visit"): 2, ("dart", "count"): 2, ("v2drop", "schedule"): 2, ("vscan", "windows"): 2,
    ("sparsevlm", "merge"): 2, ("sparsevlm", "version"): 2, ("prumerge", "budget"): 2, ("vitcop", "merge"): 2,
}  # fmt: skip


@pytest.mark.parametrize("defect", GUARDED)
def test_every_defect_has_a_test_that_would_see_it(defect):
    file, name = GUARDED[defect]
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\w*\(", text, re.M), f"{file} has no {name}"


@pytest.mark.parametrize(("key", "name"), MODES)
def test_what_paper_and_code_do_otherwise_is_an_option(key, name):
    assert len(METHODS[key].parameters()[name].options) == MODES[key, name]


@pytest.mark.parametrize("n_keep", [54, 58])
def test_vispruner_survives_an_odd_rest(n_keep):
    """The published code raises an IndexError at these budgets with half of them by importance."""
    g = torch.Generator().manual_seed(0)
    important, diverse = important_and_diverse(
        torch.rand(576, generator=g), torch.randn(576, 8, generator=g), n_keep, 0.5
    )
    assert len({*important.tolist(), *diverse.tolist()}) == n_keep


@pytest.mark.parametrize("key", METHODS)
def test_repeated_tokens_are_not_kept_twice(key):
    """Eight different tokens, nine times each: a published code picks one of them again and again."""
    world = World.make((8, 9), seed=1)
    order = torch.arange(72) % 8
    again = World.permuted(world, order)
    again.grid = (8, 9)
    try:
        steps = drive(METHODS[key](keep_ratio=0.5), again)
    except BudgetError:
        assert key in MAY_REFUSE
        return
    for step in steps:
        assert len(step.decision.keep.unique()) == len(step.decision.keep)
        rows = len(step.decision.keep) if step.decision.order is None else len(step.decision.order)
        assert rows == min(step.wanted, len(step.ids))


@pytest.mark.parametrize("key", METHODS)
def test_no_run_feels_another_one(key):
    """A published code scales over its whole batch, so that a neighbour changes what is kept."""
    method, mine, loud = METHODS[key](keep_ratio=0.4), World.make((7, 7), seed=4), World.make((7, 7), seed=5)
    alone = survivors(drive(method, mine))
    loud.features *= 100
    drive(method, loud)
    assert torch.equal(survivors(drive(method, mine)), alone)


def test_fastv_has_no_layer_zero():
    assert METHODS["fastv"].parameters()["layer"].low == 1


def test_equal_scores_go_to_the_first():
    assert best_ascending(torch.zeros(9), 4).tolist() == [0, 1, 2, 3]
    flat = World.make((7, 7))
    for name in ("cls_attention", "last_row", "text_attention"):
        setattr(flat, name, torch.full_like(getattr(flat, name), 1 / 49))
    for key in ("fastv", "pyramiddrop"):
        kept = survivors(drive(METHODS[key](keep_ratio=0.3), flat))
        assert kept.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("key", METHODS)
def test_half_precision_decides_as_float32(key):
    """What a method is shown may be half; how it decides is not: equal numbers in two formats, one decision."""
    half, full = World.make((7, 7), seed=6), World.make((7, 7), seed=6)
    for name, value in vars(full).items():
        if torch.is_tensor(value):
            setattr(half, name, value.half())
            setattr(full, name, value.half().float())
    kept = [survivors(drive(METHODS[key](keep_ratio=0.4), world)).tolist() for world in (half, full)]
    assert kept[0] == kept[1]
