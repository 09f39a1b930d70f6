"""Statistics of a model's heads and feed-forward matrices on calibration pictures, summed up in forward passes.

The passes run on a private copy (`shared_copy`), so no hook is registered on the model that others use. Sums are kept
in float64: a Gram matrix squares singular values, and float32 would lose the small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn

from pruning.errors import RunStopped
from pruning.interface import BlockFacts
from pruning.models.hooks.attention import active
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Block

HEAD_OUTPUTS, ATTENTION_MAPS, FFN_INPUTS = "head outputs", "attention maps", "feed-forward inputs"


def weights_of(block: Block) -> BlockFacts:
    """Return the facts of a layer that need no picture: its weights."""
    a = block.attention
    query, key, value, out = (m.weight.detach() for m in (a.q_proj, a.k_proj, a.v_proj, block.out))
    weights = {n: getattr(block.mlp, n).weight.detach() for n in block.names}
    return BlockFacts(block.part, block.layer, block.shape, block.head_dim, query, key, value, out, weights)


class Calibration:
    """Hooks on the blocks of a private copy, and their sums so far.

    Args:
        wanted: any of `HEAD_OUTPUTS`, `ATTENTION_MAPS`, `FFN_INPUTS`.
    """

    def __init__(self, blocks: Sequence[Block], wanted: Sequence[str]) -> None:
        self.facts = [weights_of(b) for b in blocks]
        self.observed_modules: dict[nn.Module, Callable[[torch.Tensor, torch.Tensor, float], None]] = {}
        self._maps: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(blocks))}
        for i, (block, facts) in enumerate(zip(blocks, self.facts, strict=True)):
            if HEAD_OUTPUTS in wanted:
                block.out.register_forward_pre_hook(partial(self._outputs, facts))
            if ATTENTION_MAPS in wanted:
                self.observed_modules[block.attention] = partial(self._attention, i, block)
            if FFN_INPUTS in wanted:
                for names in _sharing(block.names):
                    module = getattr(block.mlp, names[0])
                    module.register_forward_pre_hook(partial(self._inputs, facts, names))

    @torch.no_grad()  # not inference mode: the sums may be differentiated through later
    def run(self, model: nn.Module, prompts: Iterable[Prompt], stop: Callable[[], bool]) -> list[BlockFacts]:
        """Pass every prompt through the copy once, and return the facts of all blocks."""
        for prompt in prompts:
            if stop():
                raise RunStopped
            with active(self):
                model(**prompt.inputs(), use_cache=False, logits_to_keep=1)
        for i, facts in enumerate(self.facts):
            if self._maps[i]:
                longest = max(m.shape[1] for m in self._maps[i])
                padded = [nn.functional.pad(m, (0, longest - m.shape[1])) for m in self._maps[i]]
                facts.attention = torch.stack(padded).mean(0)
        return self.facts

    def _outputs(self, facts: BlockFacts, module: nn.Module, args: tuple) -> None:
        y = args[0].reshape(-1, args[0].shape[-1]).double()
        gram = y.T @ y
        facts.output_gram = gram if facts.output_gram is None else facts.output_gram + gram
        facts.rows += len(y)

    def _inputs(self, facts: BlockFacts, names: Sequence[str], module: nn.Module, args: tuple) -> None:
        x = args[0].reshape(-1, args[0].shape[-1]).double()
        gram = x.T @ x + facts.input_grams.get(names[0], 0)
        facts.input_grams |= dict.fromkeys(names, gram)

    def _attention(self, index: int, block: Block, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """Collect the normalised singular values of each head's map; maps of the query heads of a group are stacked."""
        kv_heads, n = key.shape[1], key.shape[2]
        q = query[0].float().reshape(kv_heads, -1, query.shape[2], query.shape[3]) * scaling
        weights = q @ key[0].float()[:, None].mT
        if getattr(block.attention, "is_causal", False):
            weights = weights.masked_fill(torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1), float("-inf"))
        values = torch.linalg.svdvals(weights.softmax(-1).flatten(1, 2)).double().cpu()
        self._maps[index].append(values / values.sum(-1, keepdim=True))


def _sharing(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of matrices that read the same input: all but the last, and the last."""
    return [tuple(names[:-1]), (names[-1],)]
