"""ACCM, Adaptive Content Compensation: a short caption of the discarded tokens, chosen among three.

Paper:      2508.01236 (ACM MM 2025); official code ASGO-MM/ACCM at c0a73f1 (MIT), read and not copied
Stage:      after any token pruner; text between picture and question
Needs:      the tower's features of discarded tokens; the model's tokenizer and its frozen first layers
Symbols:    paper M → candidates, C* → chosen, pi → probability, V_l → discarded features
Differs:    captioner reads discarded tokens by cross-attention instead of a 4-layer mapper and GPT-2; the selector's
            text encoder is the model's own first layers, not Long-CLIP, and also reads the beam scores (an option);
            discarded tokens are the complement of any pruner's kept set, not of the paper's own pruner
Cost:       counted: mapper, decoder with three cached beams, text encoder, selector; and the caption's own tokens
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

from pruning.compensation.base import Candidate, Compensator, Discarded, Proposal, clean_caption, inserted_text
from pruning.compensation.beam import Beams, beam_search, pad_left
from pruning.compensation.captioner import captioner_flops
from pruning.compensation.checkpoint import Parts, check_made_for, load
from pruning.compensation.selector import selector_flops

BEAMS = 3
DEFAULT_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "accm"


class Accm(Compensator):
    """A trained captioner and selector for one model.

    Args:
        parts: as `storage.load` gives them. source: their folder, unless it is the bundled one.
        tokenizer: the model's own. read_text: `texts -> ([texts, dim], multiply-adds)`, the frozen text encoder.
    """

    key: ClassVar[str] = "accm"
    title: ClassVar[str] = "ACCM"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.01236"
    idea: ClassVar[str] = "a chosen caption of what was dropped"

    def __init__(
        self, parts: Parts, tokenizer: Any, read_text: Callable[[list[str]], tuple[torch.Tensor, int]], source: str = ""
    ) -> None:
        self.parts, self.tokenizer, self.read_text, self.source = parts, tokenizer, read_text, source

    @classmethod
    def open(cls, adapter: Any, folder: Path | None = None) -> Accm:
        """Read the trained weights for a loaded model (`models.base.VLMAdapter`).

        Raises:
            CompensatorUnavailableError: if the folder is not a captioner, or is one for another model.
        """
        folder = Path(folder) if folder else DEFAULT_FOLDER
        parts = load(folder, adapter.device)
        check_made_for(parts, adapter.info.name, adapter.identity())
        source = "" if folder.resolve() == DEFAULT_FOLDER.resolve() else str(folder)
        return cls(parts, adapter.tokenizer, adapter.encode_text, source)

    @torch.inference_mode()
    def propose(self, discarded: Discarded) -> Proposal:
        beams, n_question = self._search(discarded)
        end = self.tokenizer.eos_token_id
        texts = [self.caption(beams.ids(0, j, end)) for j in range(BEAMS)]
        probabilities, selector_cost = self.choose(discarded.question, texts, beams.log_probs[0], beams.lengths[0])
        candidates = tuple(
            Candidate(text, float(beams.log_probs[0, j]), int(beams.lengths[0, j]), float(probabilities[j]))
            for j, text in enumerate(texts)
        )
        cost = captioner_flops(self.parts.captioner.shape, len(discarded.ids), n_question, beams.steps, BEAMS)
        how = "beam score, no trained selector" if self.parts.selector is None else "selector"
        return Proposal(
            candidates,
            int(probabilities.argmax()),  # the first of equals
            float(cost),
            float(selector_cost),
            {"beams": BEAMS, "chosen_by": how, "trained": self.parts.facts.get("stages", ["warm start"])},
        )

    def caption(self, ids: list[int]) -> str:
        """A caption's text from its tokens."""
        return clean_caption(self.tokenizer.decode(ids), self.tokenizer.all_special_tokens)

    def choose(
        self, question: str, texts: list[str], log_probs: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        """Probabilities of candidates `[n]`, and the multiply-adds spent. Equal texts get equal probabilities, so if
        all are equal each has 1 / n. Without a trained selector the mean beam log-probabilities decide.
        """
        means = log_probs / lengths
        means = torch.stack([max(m for m, u in zip(means, texts, strict=True) if u == t) for t in texts])
        selector = self.parts.selector
        if selector is None or len(set(texts)) == 1:
            return means.softmax(-1), 0
        vectors, cost = self.read_text([selector_text(question, t) for t in texts])
        log_pi = selector(vectors[None].to(means.device), means[None])[0]
        return log_pi.exp(), cost + selector_flops(selector.shape, len(texts))

    def _search(self, discarded: Discarded) -> tuple[Beams, int]:
        captioner = self.parts.captioner
        device = captioner.prefix.device
        ids = self.tokenizer(discarded.question, add_special_tokens=False)["input_ids"]
        question, n_pad = pad_left([ids], self.tokenizer.pad_token_id or 0, device)
        memory = captioner.look(discarded.features[None].to(device))
        return beam_search(captioner, memory, question, n_pad, self.tokenizer.eos_token_id, BEAMS), len(ids)


def selector_text(question: str, caption: str) -> str:
    """The string that the text encoder reads: `{question} Additional information: {caption}.` ([code] writes
    "Question: ... Supplemental information for questions: ...", words that the bundled model does not have).
    """
    return f"{question} {inserted_text(caption)}".strip()
