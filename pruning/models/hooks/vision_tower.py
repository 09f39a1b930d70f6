"""Hooks on the vision tower: observe [CLS] attention and keys, drop rows before a layer.

Fits towers whose layers are called as `layer(hidden_states, attention_mask, ...)` with no mask on
`[tiles, prefix + patches, dim]` (CLIP, SigLIP, DINOv2), or on packed rows `[patches, dim]` (Qwen). The prefix ([CLS])
always stays. With several tiles, rows are numbered tile after tile; each tile's [CLS] spreads its attention over its
own tile, and the first tile's [CLS] is the one that a method gets. Rows are dropped between layers only where there is
one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from pruning.errors import RunStopped
from pruning.interface import Observation, Part, Signal
from pruning.models.base import Decider, VisionFeatures
from pruning.models.hooks.attention import active, attention_received, attention_row, current, cut_observation, rows_of


class TowerRun:
    """One pass of one picture through the tower."""

    def __init__(
        self, hooks: TowerHooks, observations: Sequence[Observation], decider: Decider | None, stop: Callable[[], bool]
    ) -> None:
        self.hooks, self.decider, self.stop = hooks, decider, stop
        self.stages = {s.layer: s for s in decider.stages if s.part is Part.TOWER} if decider else {}
        self.ids: torch.Tensor | None = None
        self.sizes: torch.Tensor | None = None  # how many tokens every row stands for, if a method weighs that
        self.tokens_per_layer: list[int] = []
        self.features: torch.Tensor | None = None
        self.observed: dict[Observation, tuple[torch.Tensor, torch.Tensor]] = {}  # look -> (values, ids they are of)
        by_layer: dict[int, list[Observation]] = {}
        for observation in observations:
            by_layer.setdefault(observation.layer, []).append(observation)
        self.observed_modules = {
            hooks.attention(layer): partial(self._observe_attention, wanted) for layer, wanted in by_layer.items()
        }

    def _observe_attention(
        self, observations: list[Observation], query: torch.Tensor, key: torch.Tensor, scaling: float
    ) -> None:
        for observation in observations:
            prefix, tiles = self.hooks.prefix, zip(query.split(1), key.split(1), strict=True)
            if observation.signal is Signal.CLS_ATTENTION:
                value = torch.cat([attention_row(q, k, 0, scaling)[:, prefix:] for q, k in tiles], 1)
            elif observation.signal is Signal.CLS_ATTENTION_WIDE:
                wide = [[x.transpose(1, 2).flatten(2)[:, None] for x in tile] for tile in tiles]
                rows = [attention_row(q, k, 0, q.shape[-1] ** -0.5)[:, prefix:] for q, k in wide]
                value = torch.cat(rows, 1)
            elif observation.signal is Signal.RECEIVED_ATTENTION:
                part = query.shape[2] / (len(self.ids) + prefix * self.tiles)  # of all rows
                value = part * torch.cat([attention_received(q, k, scaling)[:, prefix:] for q, k in tiles], 1)
                if observation in self.observed:  # windows, or pictures side by side, come one after the other
                    value = torch.cat([self.observed[observation][0], value], 1)
            elif observation.signal is Signal.TOWER_KEYS_MEAN:
                value = key[:, :, prefix:].float().mean(1).flatten(0, 1)
            else:
                value = key[:, :, prefix:].transpose(1, 2).flatten(2).flatten(0, 1)
            self.observed[observation] = value, self.ids

    def enter_layer(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Rows that the layer gets, after the decision of a stage before it."""
        if self.stop():
            raise RunStopped
        prefix = self.hooks.prefix
        if layer == 0:
            self.tiles = hidden.shape[0]
            self.ids = torch.arange(self.tiles * (hidden.shape[1] - prefix), device=hidden.device)
        stage = self.stages.get(layer)
        if stage is not None:
            decision = self.decider.decide(stage, hidden[0, prefix:], self.ids, self.looks_at(self.ids))
            body = hidden[0, prefix:][decision.keep] if decision.features is None else decision.features
            order = slice(None) if decision.order is None else decision.order
            hidden = torch.cat([hidden[:, :prefix], body[order][None].to(hidden.dtype)], 1)
            self.ids = self.ids[decision.keep][order]
            sizes = self.sizes[decision.keep] if decision.sizes is None and self.sizes is not None else decision.sizes
            self.sizes = sizes if sizes is None else sizes[order]
        self.tokens_per_layer.append(hidden.shape[1])
        return hidden

    def mask(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to attention: the logarithm of the sizes of the rows, `[1, 1, 1, prefix + rows]`."""
        return F.pad(self.sizes.log(), (self.hooks.prefix, 0))[None, None, None].to(hidden.dtype)

    def looks_at(self, ids: torch.Tensor) -> dict[Observation, torch.Tensor]:
        """Everything observed so far, cut to `ids` (heads first for attention, tokens first for keys)."""
        cut = {}
        for observation, (value, of) in self.observed.items():
            cut[observation] = cut_observation(observation, value, rows_of(ids, of))
        return cut

    def result(self, output: object) -> VisionFeatures:
        prefix = self.hooks.prefix
        cls = self.features[0, 0] if prefix else None
        features = self.features[:, prefix:].flatten(0, 1)
        rows = self.tokens_per_layer * self.tiles
        return VisionFeatures(features, self.ids, cls, self.looks_at(self.ids), rows, output)


class TowerHooks:
    """The sleeping hooks of one tower.

    Args:
        layers: the tower's layers; `attention` gives the attention module of a layer.
        feature_layer: the layer whose output feeds the projector.
        prefix: rows before the patches (1 for [CLS], else 0).
    """

    def __init__(
        self, layers: nn.ModuleList, attention: Callable[[int], nn.Module], feature_layer: int, prefix: int
    ) -> None:
        self.attention, self.prefix = attention, prefix
        self._handles = [layer.register_forward_pre_hook(partial(self._before, i)) for i, layer in enumerate(layers)]
        self._handles.append(layers[feature_layer].register_forward_hook(self._features))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self,
        tower: Callable[[], object],
        observations: Sequence[Observation],
        decider: Decider | None,
        stop: Callable[[], bool],
    ) -> VisionFeatures:
        """Run `tower()` under observation."""
        run = TowerRun(self, observations, decider, stop)
        with active(run):
            output = tower()
        return run.result(output)

    def _before(self, layer: int, module: nn.Module, args: tuple):
        run = self._mine()
        if run is None:
            return None
        packed = args[0].ndim == 2
        hidden = run.enter_layer(layer, args[0][None] if packed else args[0])
        if run.sizes is not None:
            return (hidden, run.mask(hidden), *args[2:])
        return (hidden[0] if packed else hidden, *args[1:])

    def _features(self, module: nn.Module, args: tuple, output: object) -> None:
        run = self._mine()
        if run is not None:
            output = output[0] if isinstance(output, tuple) else output
            run.features = output[None] if output.ndim == 2 else output

    def _mine(self) -> TowerRun | None:
        run = current(TowerRun)
        return run if run is not None and run.hooks is self else None
