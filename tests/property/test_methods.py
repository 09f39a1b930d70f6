"""What must hold for every method, at every budget, on every grid: no model in sight."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import pytest
import torch

from pruning.budget import n_keep
from pruning.errors import BudgetError
from pruning.methods import METHODS
from support.world import DIM, MAY_REFUSE, World, drive, survivors

GRIDS = [(4, 6), (5, 3), (7, 7), (24, 24)]
BUDGETS = [0.02, 1 / 9, 1 / 3, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("ratio", BUDGETS)
@pytest.mark.parametrize("key", METHODS)
def test_counts_order_and_fates(key, ratio, grid):
    try:
        steps = drive(METHODS[key](keep_ratio=ratio), World.make(grid))
    except BudgetError:  # a tiny grid or few layers can make a small share impossible; saying so is the right answer
        assert key in MAY_REFUSE
        return
    for step in steps:
        d = step.decision
        rows = len(d.keep) if d.order is None else len(d.order)
        assert rows == min(step.wanted, len(step.ids))
        assert (d.keep[1:] > d.keep[:-1]).all()
        if d.merged_into is not None:
            target = d.merged_into[d.merged_into >= 0]
            assert torch.isin(target, d.keep).all()
            assert (d.merged_into[d.keep] == -1).all(), "a kept token is not merged"
        if d.order is not None:
            assert sorted(d.order[d.order >= 0].tolist()) == list(range(len(d.keep)))
        if d.features is not None:
            assert d.features.shape == (len(d.keep), DIM)
            assert torch.isfinite(d.features).all()
        if d.scores is not None:
            assert d.scores.shape == (len(step.ids),)
        if d.why:
            assert torch.cat(list(d.why.values())).sort().values.tolist() == d.keep.tolist(), "one reason for each"


@pytest.mark.parametrize("key", METHODS)
def test_keeping_everything_changes_nothing(key):
    for step in drive(METHODS[key](keep_ratio=1.0), World.make((4, 6))):
        assert step.decision.keep.tolist() == list(range(24))
        assert step.decision.features is None
        assert step.decision.order is None


@pytest.mark.parametrize("key", [k for k, m in METHODS.items() if m.nested])
def test_a_smaller_budget_keeps_a_subset(key):
    world = World.make((7, 7), seed=3)
    kept = [set(survivors(drive(METHODS[key](keep_ratio=r), world)).tolist()) for r in (0.1, 0.3, 0.6, 0.9)]
    assert all(a < b for a, b in pairwise(kept))


@pytest.mark.parametrize("key", METHODS)
def test_same_seed_same_result_and_inputs_untouched(key):
    world, twin = World.make((7, 7), seed=5), World.make((7, 7), seed=5)
    method = METHODS[key](keep_ratio=0.3)
    first, second = drive(method, world, seed=1), drive(method, world, seed=1)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.decision.keep, b.decision.keep)
        if a.decision.features is not None:
            assert torch.equal(a.decision.features, b.decision.features)
    for field in fields(World):
        if field.name != "grid":
            assert torch.equal(getattr(world, field.name), getattr(twin, field.name))


@pytest.mark.parametrize("key", [k for k, m in METHODS.items() if m.equivariant])
def test_permuting_tokens_permutes_the_answer(key):
    world = World.make((5, 3), seed=7)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    method = METHODS[key](keep_ratio=0.4)
    plain = survivors(drive(method, world))
    moved = survivors(drive(method, world.permuted(order), positions=world.positions()[order]))
    assert set(order[moved].tolist()) == set(plain.tolist())


def test_only_methods_that_draw_react_to_the_seed():
    world = World.make((24, 24))
    for key, cls in METHODS.items():
        one, two = (survivors(drive(cls(keep_ratio=0.2), world, seed=s)) for s in (1, 2))
        assert torch.equal(one, two) != cls.draws, key


def test_a_budget_of_one_works_where_a_method_can_meet_it():
    for key, cls in METHODS.items():
        try:
            steps = drive(cls(keep_ratio=1 / 576), World.make((24, 24)))
        except BudgetError:
            assert key in MAY_REFUSE
            continue
        assert len(steps[-1].decision.keep) == 1, key


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 18, 36, 64, 100, 192, 575])
def test_even_grid_is_even(count):
    """Every quarter of the picture gets its share, up to one line."""
    keep = drive(METHODS["uniform_grid"](keep_ratio=count / 576), World.make((24, 24)))[0].decision.keep
    assert len(keep) == count == n_keep(count / 576, 576)
    if count >= 36:
        rows, cols = keep // 24, keep % 24
        quarters = [int(((rows < 12) == a).logical_and((cols < 12) == b).sum()) for a in (0, 1) for b in (0, 1)]
        assert max(quarters) - min(quarters) <= 2 * round(count**0.5)
