"""Defects of published implementations, and which test would see each of them here.

`GUARDED` goes through what the specification of the peers lists: results that cannot be told apart, modes, budgets that
are not what they say, crashes and lost or repeated tokens, ties, number formats, models without [CLS]. What no other
test saw is tested below. What no guard can be written for: FastV's paper speaks of the attention that a token receives
on average and its code reads one row; the paper's reading is not offered, since it needs whole maps.
"""

from __future__ import annotations

import pytest
import torch

from pruning.errors import BudgetError, ParameterError
from pruning.methods import METHODS
from pruning.methods.vispruner import important_and_diverse
from pruning.ops.scoring import best_ascending
from support.world import MAY_REFUSE, World, drive, survivors


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
    with pytest.raises(ParameterError, match="layer"):
        METHODS["fastv"].from_parameters(0.5, {"layer": 0})


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
