"""Keep the tokens whose span best reconstructs all visual tokens, weighted by relevance to the question.

Paper:      Li et al., "ResPrune", 2026, https://arxiv.org/abs/2603.21105; no reference code is public
Stage:      once, between projector and language model, in the language model's embedding space
Needs:      visual tokens; embeddings of the question's words (none when alpha = 0)
Symbols:    k -> kept tokens; alpha -> `alpha`; r_i (text relevance) -> relevance; E_S(v) -> residual energy
Differs:    written from secondary sources of the paper. Inferred and therefore options or defaults of ours: the value
            of alpha, energies squared, cosines clamped at 0 and rescaled to a floor of 1e-3, unnormalised tokens. The
            paper takes the prompt's nouns; no tagger is bundled, so content words (everything but a closed list of
            function words and question verbs) stand for them
Cost:       O(k n dim) in k sequential steps (pivoted Cholesky on columns of the Gram matrix), O(n words dim) relevance
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.interface import Decision, PromptText, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_LANGUAGE_MODEL, TokenPruner
from pruning.ops.scoring import cosine, greedy_residual
from pruning.parameters import Choice, Param

RELEVANCE = ("max over words", "mean over words", "pooled question")
NORMALISE = ("off", "l2")
FLOOR = 1e-3

# Closed-class words and common verbs of questions; the remaining words are taken as content words.
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every no not none all both either neither other another such own same
    i you he she it we they me him her us them my your his its our their mine yours who whom whose which what where
    when why how there here is are was were be been being am do does did doing done have has had having can could will
    would shall should may might must and or but nor so yet if then else than as at by for from in into of off on onto
    out over to under up with without about above after again against before below between down during further once
    through too very just only also please tell describe show see seen look looks looking say says said read count
    find give answer question using single word phrase image picture photo much many more most few less least one
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class ResPrune(TokenPruner):
    key: ClassVar[str] = "resprune"
    title: ClassVar[str] = "ResPrune"
    paper: ClassVar[str] = "https://arxiv.org/abs/2603.21105"
    idea: ClassVar[str] = "tokens that reconstruct the rest, weighted by the question"
    stage: ClassVar[Stage] = BEFORE_LANGUAGE_MODEL
    acts: ClassVar[str] = "before the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING})
    nested: ClassVar[bool] = True
    defaults: ClassVar[str] = "as specified, alpha inferred"

    alpha: Annotated[float, Param(0.0, 8.0, 0.1, "alpha", "Weight of the question; 0 ignores it.")] = 0.5
    relevance: Annotated[
        str, Choice(RELEVANCE, "Relevance", "How the question's words are combined (the paper's settings 1, 2, 3).")
    ] = RELEVANCE[0]
    normalise: Annotated[
        str, Choice(NORMALISE, "Normalise tokens", "Whether token norms count in the residual energy.")
    ] = NORMALISE[0]

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        features = context.features.float()
        words = content_words(context.text) if self.alpha > 0 and context.text is not None else None
        relevance = torch.ones(context.n_rows, device=features.device)
        if words is not None:
            relevance = text_relevance(features, words, self.relevance)
        weight = relevance**self.alpha
        if self.normalise == "l2":
            features = torch.nn.functional.normalize(features, dim=-1)
        picks = greedy_residual(features, weight, n_keep)
        rank = torch.zeros(context.n_rows, device=features.device)
        rank[picks.order] = torch.arange(n_keep, 0, -1, device=features.device, dtype=rank.dtype)
        # Picks come first, in order of picking; the others by their remaining gain.
        left = picks.energy_left * weight.double()
        scores = torch.where(rank > 0, rank, (left / (left.max() + 1e-12)).float().clamp(max=0.999))
        extra = {
            "pick_order": picks.order,
            "gain": picks.gain,
            "residual_energy": picks.residual,
            "total_energy": picks.total[None],
            "relevance": relevance,
            "weight": weight,
        }
        explained = 1 - float(picks.residual[-1] / picks.total.clamp(min=1e-30))
        summary = f"{explained:.1%} of the energy of all tokens explained"
        return Decision(picks.order.sort().values, scores=scores, summary=summary, extra=extra)


def content_words(text: PromptText) -> torch.Tensor | None:
    """Return embeddings of the question's content words `[words, dim]`, or None if it has none."""
    asked = text.asked
    pairs = zip(asked.token_texts, asked.words, strict=True)
    chosen = [i for i, (token_text, word) in enumerate(pairs) if _is_word(token_text) and _names(word)]
    return asked.states[chosen].float() if chosen else None


def _is_word(token_text: str) -> bool:
    return token_text.strip().strip("\u2581").isalnum()


def _names(word: str) -> bool:
    """Return whether a word is not a function word; what follows an apostrophe is ignored."""
    letters = "".join(c for c in word.lower().replace("’", "'").split("'")[0] if c.isalnum())
    return bool(letters) and letters not in FUNCTION_WORDS


def text_relevance(features: torch.Tensor, words: torch.Tensor, how: str = RELEVANCE[0]) -> torch.Tensor:
    """Return the relevance of every token to the words, float32 `[tokens]` in `FLOOR` .. 1.

    Negative cosines count as 0; scaling by the largest keeps the argmax; the floor keeps every token selectable.
    """
    if how == RELEVANCE[2]:
        raw = cosine(features, words.mean(0, keepdim=True))[:, 0]
    else:
        each = cosine(features, words)
        raw = each.max(1).values if how == RELEVANCE[0] else each.mean(1)
    raw = raw.clamp(min=0)
    top = raw.max()
    return (raw / top).clamp(min=FLOOR) if float(top) > 0 else torch.ones_like(raw)
