"""The prompt as token ids with a placeholder for every visual token, and the insertion of text after a picture.

Inserted text goes after the picture's placeholders and the newline that follows them. It is inserted as token ids, so
removing these ids gives the original prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from pruning.layout import TokenLayout

_NEWLINE_WITHIN = 4  # tokens after the picture among which its newline is searched


def insertion_points(visual: Sequence[bool], token_texts: Sequence[str]) -> list[int]:
    """Return, for every picture of a prompt (a run of placeholders in `visual`), the index of the token before which
    text about it is inserted: after the newline that follows the picture, or directly after the picture.
    """
    points = []
    for i, is_picture in enumerate(visual):
        if is_picture and (i + 1 == len(visual) or not visual[i + 1]):
            behind = range(i + 1, min(i + 1 + _NEWLINE_WITHIN, len(visual)))
            newline = next((j for j in behind if "\n" in token_texts[j]), i)
            points.append(newline + 1)
    return points


def splice(prompt: Prompt, at: int, ids: Sequence[int], token_texts: Sequence[str], words: Sequence[str]) -> Prompt:
    """Return the prompt with tokens inserted before index `at`; they are no part of the question."""
    n = len(ids)
    new = torch.tensor([list(ids)], dtype=prompt.input_ids.dtype, device=prompt.input_ids.device)
    nothing, separators = torch.zeros(n, dtype=torch.bool), prompt.separators
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids[:, :at], new, prompt.input_ids[:, at:]], 1),
        visual=torch.cat([prompt.visual[:at], nothing, prompt.visual[at:]]),
        in_question=torch.cat([prompt.in_question[:at], nothing, prompt.in_question[at:]]),
        token_texts=[*prompt.token_texts[:at], *token_texts, *prompt.token_texts[at:]],
        words=[*prompt.words[:at], *words, *prompt.words[at:]],
        inserted=(at, at + n),
        separators=None if separators is None else torch.cat([separators[:at], nothing, separators[at:]]),
    )


@dataclass(frozen=True, slots=True)
class Prompt:
    """Pictures or a video and a question, prepared for the model.

    Attributes:
        input_ids: `[1, tokens]` with one placeholder per visual token.
        visual: `[tokens]` True at the placeholders.
        token_texts: text of every token.
        in_question: `[tokens]` True at the tokens of the question.
        words: for every token of the question, the word between white space that it is part of; else empty.
        inserted: index of the first inserted token and one past the last, if text was inserted.
        layout: of all visual tokens; with seconds for those of a video.
        separators: `[tokens]` True at placeholders that end a line of the picture and show no part of it. Methods do
            not get them, they are always kept, and they are counted as text.
        positions: `[axes, tokens]` where they are not those of plain text.
        extra: inputs of the family's model beside ids and pixels.
        notes: what was added to the checkpoint's chat template or left out of its settings, for the record.
    """

    input_ids: torch.Tensor
    visual: torch.Tensor
    token_texts: list[str]
    in_question: torch.Tensor
    words: list[str]
    pixels: torch.Tensor
    layout: TokenLayout
    inserted: tuple[int, int] | None = None
    separators: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def placeholders(self) -> torch.Tensor:
        """`[tokens]` True at every placeholder."""
        return self.visual if self.separators is None else self.visual | self.separators

    @property
    def modality(self) -> str:
        """The kind of visual input, as the transformers library names it: `image` or `video`."""
        return "video" if self.layout.seconds else "image"

    @property
    def kinds(self) -> torch.Tensor:
        """Kind of each token `[1, tokens]`, for models with several axes of positions: 0 text, 1 image, 2 video."""
        return (self.visual.long() * (2 if self.layout.seconds else 1))[None].to(self.input_ids.device)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return the keyword arguments of the model's own forward."""
        name = "pixel_values_videos" if self.layout.seconds else "pixel_values"
        given = {"input_ids": self.input_ids, name: self.pixels, **self.extra}
        return given if self.positions is None else {**given, "mm_token_type_ids": self.kinds}
