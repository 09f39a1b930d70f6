"""Text put into a prompt right after a picture: after its placeholders and the newline that follows them.

Works on token ids, so that taking the inserted ids out again gives back the prompt as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from pruning.models.base import Prompt

_NEWLINE_WITHIN = 4  # tokens behind the picture in which its newline is looked for


def insertion_points(visual: Sequence[bool], words: Sequence[str]) -> list[int]:
    """For every picture of a prompt (a run of placeholders, `visual`), the index of the token before which text about
    it goes. Without a newline behind it: right behind the picture.
    """
    points = []
    for i, is_picture in enumerate(visual):
        if is_picture and (i + 1 == len(visual) or not visual[i + 1]):
            behind = range(i + 1, min(i + 1 + _NEWLINE_WITHIN, len(visual)))
            newline = next((j for j in behind if "\n" in words[j]), i)
            points.append(newline + 1)
    return points


def splice(prompt: Prompt, at: int, ids: Sequence[int], words: Sequence[str], whole: Sequence[str]) -> Prompt:
    """The prompt with tokens put in before index `at`; they are no part of the question."""
    n = len(ids)
    new = torch.tensor([list(ids)], dtype=prompt.input_ids.dtype, device=prompt.input_ids.device)
    nothing, separators = torch.zeros(n, dtype=torch.bool), prompt.separators
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids[:, :at], new, prompt.input_ids[:, at:]], 1),
        visual=torch.cat([prompt.visual[:at], nothing, prompt.visual[at:]]),
        in_question=torch.cat([prompt.in_question[:at], nothing, prompt.in_question[at:]]),
        words=[*prompt.words[:at], *words, *prompt.words[at:]],
        whole=[*prompt.whole[:at], *whole, *prompt.whole[at:]],
        inserted=(at, at + n),
        separators=None if separators is None else torch.cat([separators[:at], nothing, separators[at:]]),
    )
