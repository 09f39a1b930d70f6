"""Everything that a method observes of one picture, drawn at random, and a driver that asks it at all its stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.interface import Decision, ModelInfo, Part, PromptText, PruneContext, Signal, Stage
from pruning.methods.base import TokenPruner

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
