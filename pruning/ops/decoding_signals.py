"""The signals of two decoding methods (ONLY and ReVisiT) for every decoded token. Neither prunes, and neither changes
an answer here: their decoding is not run, their signals are only written down.

Signal of ONLY: Wan et al., "ONLY: One-Layer Intervention Sufficiently Mitigates Hallucinations in Large Vision-Language
Models", ICCV 2025, https://arxiv.org/abs/2507.00898; reference code zifuwan/ONLY @ b1937493.
Signal of ReVisiT: Cho and Kim, "Revisit What You See: Disclose Language Prior in Vision Tokens for LVLM Decoding",
https://arxiv.org/abs/2506.09522; reference code bscho333/ReVisiT @ b3829673.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

ONLY_LAYER = 0  # of the language model
PLAUSIBLE = 1e-5  # least probability of a plausible word, relative to the likeliest one; the code's for captions
LEAST = 1e-6
AT_ONCE = 2**24  # numbers of a product that are held at one time


def entropy_ratio(row: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Entropy of each head's attention to the text over that to the picture, float32 `[heads]`; ONLY silences the heads
    below the mean of all heads.

    In either part, weights above their mean plus one standard deviation count as 0 and the rest is scaled to 1. The
    first token of the sequence, where attention rests, is not counted as text.

    Args:
        row: `[heads, keys]` weights of the row that produces the next word. image: `[keys]` True at the picture.
    """
    text = ~image
    text[0] = False
    of_text, of_image = _entropy(row[:, text]), _entropy(row[:, image])
    return torch.where(of_image > LEAST, of_text / of_image.clamp(min=LEAST), 0.0)  # no picture left: 0, as in the code


def _entropy(weights: torch.Tensor) -> torch.Tensor:
    weights = weights.float()
    spread = weights.std(-1, keepdim=True) if weights.shape[-1] > 1 else 0.0
    weights = torch.where(weights > weights.mean(-1, keepdim=True) + spread, 0.0, weights)
    share = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return -(share * (share + LEAST).log()).sum(-1)


def nearest_visual(logits: torch.Tensor, states: torch.Tensor, head: nn.Linear) -> int:
    """Row of the visual token whose own prediction is nearest to that of the next word, in ReVisiT's sense.

    A visual token predicts words as any other row does: its last state goes through the output head. Both predictions
    are taken over the words that are plausible now, and compared by the mean of the divergences of their middle from
    each of them, as the code does it.

    Args:
        logits: `[vocabulary]` behind the word. states: `[tokens, dim]` behind the last norm, at least one.
    """
    logits = logits.float()
    words = (logits >= logits.max() + math.log(PLAUSIBLE)).nonzero()[:, 0]
    said = logits[words].log_softmax(-1)
    bias = None if head.bias is None else head.bias[words]
    divergence = []
    for some in states.split(max(1, AT_ONCE // len(words))):
        by_visual = F.linear(some, head.weight[words], bias).float().log_softmax(-1)
        middle = (by_visual.exp() + said.exp()) / 2
        known = middle.clamp(min=torch.finfo(torch.float32).tiny).log()
        divergence.append((middle * (2 * known - by_visual - said)).sum(-1) / 2)
    return int(torch.cat(divergence).argmin())
