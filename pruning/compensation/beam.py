"""Beam search that returns all its beams: the candidate captions of ACCM.

As in ClipCap's search, which the authors use: a beam's score is its log-probability divided by its length, a beam that
has ended stays as it is and competes with those that go on, and the search ends when all have ended. All beams come
back, best first. Batched over pictures and questions, with cached keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning.compensation.captioner import Captioner, Memory


@dataclass(slots=True)
class Beams:
    """Candidates of a batch, best first.

    Attributes:
        tokens: ids `[batch, beams, length]`; behind a caption's end mark stand more end marks.
        log_probs: `[batch, beams]` sums over the tokens of each caption, end mark included; natural logarithm.
        lengths: `[batch, beams]` tokens that were summed.
        steps: forward passes of one token that the search took.
    """

    tokens: torch.Tensor
    log_probs: torch.Tensor
    lengths: torch.Tensor
    steps: int

    def ids(self, row: int, beam: int, end: int) -> list[int]:
        """The tokens of one caption, without its end mark."""
        found = self.tokens[row, beam].tolist()
        return found[: found.index(end)] if end in found else found


@torch.no_grad()
def beam_search(
    captioner: Captioner, memory: Memory, question: torch.Tensor, n_pad: torch.Tensor, end: int, n_beams: int = 3
) -> Beams:
    """The `n_beams` best captions of every row of `question` (ids `[batch, length]`, padded on the left)."""
    batch, device = len(question), question.device
    logits, cache = captioner.start(memory, question, n_pad)
    first = logits.float().log_softmax(-1).topk(n_beams)
    score, tokens = first.values, first.indices[..., None]  # [batch, beams], [batch, beams, 1]
    length = torch.ones_like(score)
    ended = tokens[..., 0] == end
    rows = torch.arange(batch, device=device).repeat_interleave(n_beams)
    cache, n_pad = cache.choose(rows), n_pad[rows]  # beams of one question lie side by side and share its picture
    steps = 0
    while not bool(ended.all()) and tokens.shape[-1] < captioner.shape.max_caption:
        logits, cache = captioner.proceed(memory, tokens[..., -1].flatten(), n_pad, cache)
        steps += 1
        step = logits.float().log_softmax(-1).unflatten(0, (batch, n_beams))
        stay = torch.full_like(step, float("-inf"))
        stay[..., end] = 0  # an ended beam costs nothing more and stays what it is
        step = torch.where(ended[..., None], stay, step)
        longer = length + (~ended).float()
        mean = ((score[..., None] + step) / longer[..., None]).flatten(1)
        best = mean.topk(n_beams).indices
        beam, word = best // step.shape[-1], best % step.shape[-1]
        score = torch.gather(score, 1, beam) + step.flatten(1).gather(1, best)
        length, ended = longer.gather(1, beam), ended.gather(1, beam) | (word == end)
        tokens = torch.cat([tokens.gather(1, beam[..., None].expand_as(tokens)), word[..., None]], -1)
        cache = cache.choose((torch.arange(batch, device=device)[:, None] * n_beams + beam).flatten())
    order = (score / length).argsort(dim=1, descending=True, stable=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return Beams(tokens, score.gather(1, order), length.gather(1, order).long(), steps)


def pad_left(rows: list[list[int]], pad: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of unequal length as `[rows, longest]`, padded on the left, and how much padding each row has."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(r)) + r for r in rows], device=device)
    return ids, torch.tensor([longest - len(r) for r in rows], device=device)
