"""Training objectives of captioner and selector: the frozen model's own answers are the target; no labels are used.

For one sample the frozen model is run with teacher forcing on an answer, once with all visual tokens and without a
caption (O_0), and once for every candidate with the kept tokens and that caption (O_j). D_j is the KL divergence of O_j
from O_0, mean over the answer's places. Lower is better.

`dpo` [paper, second hand]: direct preference on the pair (lowest D, highest D), for captioner and selector. The paper's
beta and reference are not known: beta = 0.1, the warm-started captioner and a uniform selector are inferred.
`bestof` [code]: the candidate with the lowest D is the target of both, weighted by the advantage
`4 * mean_batch(mean_j D_j - min_j D_j)`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

OBJECTIVES = ("dpo", "bestof")
TINY = 1e-10  # [code] added before every logarithm
BETA = 0.1  # [inferred]
ADVANTAGE = 4.0  # [code]


def kl_to_full(full: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(O_0 || O_j) in nats, mean over the places of an answer. Both are log-probabilities `[answer, vocabulary]`."""
    p, q = full.float().exp(), other.float().exp()
    return (p * ((p + TINY).log() - (q + TINY).log())).sum(-1).mean().clamp(min=0)


def best_and_worst(divergence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the lowest and the highest D of every sample, `[batch]` each; the first of equals.

    Args:
        divergence: `[batch, candidates]`.
    """
    return divergence.argmin(-1), divergence.argmax(-1)


def dpo_loss(
    better: torch.Tensor, worse: torch.Tensor, better_before: torch.Tensor, worse_before: torch.Tensor
) -> torch.Tensor:
    """`-log sigmoid(beta * ((log p+ - log ref+) - (log p- - log ref-)))` of every sample, from `[batch]` each."""
    return -F.logsigmoid(BETA * ((better - better_before) - (worse - worse_before)))


def bestof_weight(divergence: torch.Tensor) -> torch.Tensor:
    """The advantage of a batch, a scalar: 0 if and only if all candidates of every sample are equally good."""
    return ADVANTAGE * (divergence.mean(-1) - divergence.amin(-1)).mean()


def losses(
    objective: str,
    divergence: torch.Tensor,
    caption_log_probs: torch.Tensor,
    caption_before: torch.Tensor,
    lengths: torch.Tensor,
    log_pi: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(captioner's loss, selector's loss, weight) of a batch; gradients flow into the second and the last argument.

    Args:
        divergence: D `[batch, candidates]`.
        caption_log_probs, caption_before: log-probability of every candidate under the captioner and under its
            warm-started copy, `[batch, candidates]`; lengths: their tokens.
        log_pi: the selector's log-probabilities `[batch, candidates]`.
    """
    rows = torch.arange(len(divergence), device=divergence.device)
    best, worst = best_and_worst(divergence)
    if objective == "bestof":
        weight = bestof_weight(divergence)
        # Mean over the tokens of the batch, as a cross-entropy over its caption tokens.
        caption = -caption_log_probs[rows, best].sum() / lengths[rows, best].sum()
        return weight * caption, weight * -log_pi[rows, best].mean(), weight
    differ = (divergence[rows, best] < divergence[rows, worst]).float()  # nothing to learn from equals
    pairs = differ.sum().clamp(min=1)
    each = dpo_loss(
        caption_log_probs[rows, best], caption_log_probs[rows, worst], caption_before[rows, best],
        caption_before[rows, worst],
    )  # fmt: skip
    even = torch.zeros_like(each)  # a uniform selector gives both the same log-probability
    chosen = dpo_loss(log_pi[rows, best], log_pi[rows, worst], even, even)
    return (each * differ).sum() / pairs, (chosen * differ).sum() / pairs, differ.mean()
