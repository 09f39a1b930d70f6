"""What must hold for every method, at every budget, on every grid: no model in sight."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import pytest
import torch

from pruning.budget import n_keep
from pruning.errors import BudgetError
from pruning.interface import Decision, ModelInfo, Part, PromptText, PruneContext, Signal, Stage
from pruning.methods import METHODS
from pruning.methods.base import TokenPruner

GRIDS = [(4, 6), (5, 3), (7, 7), (24, 24)]
BUDGETS = [0.02, 1 / 9, 1 / 3, 0.5, 0.75, 1.0]
DIM, HEADS = 12, 3
ALL_SIGNALS = frozenset(Signal)
MAY_REFUSE = {"vitcop", "tome", "vistog"}  # a keep ratio that their stages, or semantic tokens, cannot reach


def make_info(layers: int = 8) -> ModelInfo:
    return ModelInfo("fake", 6, 4, layers, DIM, 4 * DIM, DIM, 3 * DIM, DIM, signals=ALL_SIGNALS)


@dataclass
class World:
    """Everything a method could see of one picture."""

    grid: tuple[int, int]
    features: torch.Tensor
    cls_attention: torch.Tensor
    tower_keys: torch.Tensor
    last_row: torch.Tensor
    language_keys: torch.Tensor
    text: torch.Tensor
    values: torch.Tensor
    text_attention: torch.Tensor
    earlier: torch.Tensor
    rotary: torch.Tensor

    @classmethod
    def make(cls, grid: tuple[int, int], seed: int = 0) -> World:
        g = torch.Generator().manual_seed(seed)
        n = grid[0] * grid[1]
        return cls(
            grid,
            torch.randn(n, DIM, generator=g),
            torch.rand(HEADS, n, generator=g).softmax(-1),
            torch.randn(n, DIM, generator=g) * 4,
            torch.rand(HEADS, n, generator=g).softmax(-1),
            torch.randn(HEADS, n, 4, generator=g),
            torch.randn(5, DIM, generator=g),
            torch.randn(HEADS, n, 4, generator=g),
            torch.rand(HEADS, 5, n, generator=g).softmax(-1),
            torch.randn(n, DIM, generator=g),
            torch.rand(2, n, 4, generator=g),
        )

    def positions(self) -> torch.Tensor:
        rows, cols = self.grid
        index = torch.arange(rows * cols)
        return torch.stack([index // cols / rows, index % cols / cols], 1)

    def permuted(self, order: torch.Tensor) -> World:
        return World(
            self.grid, self.features[order], self.cls_attention[:, order], self.tower_keys[order],
            self.last_row[:, order], self.language_keys[:, order], self.text, self.values[:, order],
            self.text_attention[..., order], self.earlier[order], self.rotary[:, order],
        )  # fmt: skip

    def visual_input(self, observations, ids: torch.Tensor) -> dict:
        """Observations of the visual tokens with these ids."""
        sources = {
            Signal.CLS_ATTENTION: lambda i: self.cls_attention[:, i],
            Signal.CLS_ATTENTION_WIDE: lambda i: self.cls_attention[:1, i],
            Signal.TOWER_KEYS: lambda i: self.tower_keys[i],
            Signal.TOWER_KEYS_MEAN: lambda i: self.tower_keys[i, : DIM // HEADS],
            Signal.LAST_TOKEN_ATTENTION: lambda i: self.last_row[:, i],
            Signal.LANGUAGE_KEYS: lambda i: self.language_keys[:, i],
            Signal.LANGUAGE_VALUES: lambda i: self.values[:, i],
            Signal.TEXT_ATTENTION: lambda i: self.text_attention[..., i],
            Signal.LANGUAGE_STATES: lambda i: self.earlier[i],
            Signal.NORMED_STATES: lambda i: self.features[i],
            Signal.ROTARY: lambda i: self.rotary[:, i],
        }
        return {observation: sources[observation.signal](ids) for observation in observations}

    def behind(self, observations) -> PromptText:
        """The prompt's text; what is observed of it is what another picture's first tokens would show."""
        words = ["what", "color", "is", "star", "?"]
        other = World.make((2, 4), seed=99)
        text, before = (other.visual_input(observations, torch.arange(a, b)) for a, b in ((0, 5), (5, 8)))
        full = torch.ones(5, dtype=torch.bool)
        return PromptText(self.text, words, full, words, 3 + self.grid[0] * self.grid[1], text, before)


@dataclass
class Step:
    stage: Stage
    ids: torch.Tensor
    wanted: int
    decision: Decision


def drive(method: TokenPruner, world: World, seed: int = 0, positions: torch.Tensor | None = None) -> list[Step]:
    """Ask a method at all its stages, as the runner does."""
    info = make_info()
    n = world.grid[0] * world.grid[1]
    ids, features, memory, steps = torch.arange(n), world.features, {}, []
    positions = world.positions() if positions is None else positions
    generator = torch.Generator().manual_seed(seed)
    for stage, wanted in method.plan(info, n).items():
        late = stage.part is Part.LANGUAGE_MODEL
        context = PruneContext(
            stage=stage, features=features, ids=ids, positions=positions[ids], n_total=n, info=info,
            generator=generator,
            observations=world.visual_input(method.observations(info), ids),
            text=world.behind(method.observations(info)) if late else None,
            memory=memory,
        )  # fmt: skip
        decision = method(context, wanted)
        steps.append(Step(stage, ids, wanted, decision))
        ids = ids[decision.keep]
        features = features[decision.keep] if decision.features is None else decision.features
        if decision.order is not None and len(decision.order) == len(ids):  # no [CLS] row among them
            ids, features = ids[decision.order], features[decision.order]
    return steps


def survivors(steps: list[Step]) -> torch.Tensor:
    """Ids that are left after the last stage."""
    return steps[-1].ids[steps[-1].decision.keep]


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
