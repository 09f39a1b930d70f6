"""ACCM-style compensation with any captioning model of the hub, which was not trained for it.

Paper:      2508.01236 for the idea only; nothing here is the paper's model, and no number of it is claimed
Stage:      after any token pruner; text between picture and question
Needs:      the picture's pixels; a captioning model
Symbols:    paper M → candidates (three beams), C* → the beam with the best mean log-probability
Differs:    the captioner reads pixels, not discarded tokens: it is shown the picture with every kept patch painted
            over in the picture's mean colour, so it cannot describe what was kept; it has a vision tower of its own,
            which is counted; no training and no trained selector
Cost:       counted while it runs; a large captioner can cost more than the full picture would
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from pruning.compensation.base import Candidate, Compensator, Discarded, Proposal, clean_caption

BEAMS = 3


class UntrainedCaptioner(Compensator):
    """Args:
    captioner: `(picture, question, beams) -> (beams with text, log_prob and length, multiply-adds)`; best first.
    name: where it comes from. control_tokens: of the model that will read the caption.
    """

    key: ClassVar[str] = "accm_untrained"
    title: ClassVar[str] = "ACCM-style, untrained captioner"
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.01236"
    idea: ClassVar[str] = "a hub captioner sees only dropped patches"
    reads_features: ClassVar[bool] = False

    def __init__(
        self,
        captioner: Callable[[np.ndarray, str, int], tuple[Sequence[Any], int]],
        name: str,
        control_tokens: Iterable[str] = (),
    ) -> None:
        self.captioner, self.source, self.control_tokens = captioner, name, tuple(control_tokens)

    def propose(self, discarded: Discarded) -> Proposal:
        spoken, cost = self.captioner(without_kept(discarded), discarded.question, BEAMS)
        means = torch.tensor([s.log_prob / s.length for s in spoken])
        texts = [clean_caption(s.text, self.control_tokens) for s in spoken]
        means = torch.stack([max(m for m, u in zip(means, texts, strict=True) if u == t) for t in texts])
        candidates = tuple(
            Candidate(text, s.log_prob, s.length, float(p))
            for text, s, p in zip(texts, spoken, means.softmax(0), strict=True)
        )
        how = {"trained": "no", "chosen_by": "beam score"}
        return Proposal(candidates, int(means.argmax()), float(cost), 0.0, how)


def without_kept(discarded: Discarded) -> np.ndarray:
    """The picture with every kept patch in its mean colour, uint8 `[height, width, 3]`."""
    picture = discarded.picture.copy()
    colour = picture.reshape(-1, 3).mean(0).round().astype(np.uint8)
    height, width = picture.shape[:2]
    boxes = np.rint(discarded.layout.boxes()[discarded.kept]).astype(int)
    for x0, y0, x1, y1 in np.clip(boxes, 0, [width, height, width, height]):
        picture[y0:y1, x0:x1] = colour
    return picture
