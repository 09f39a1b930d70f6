"""`Prompt`, and the insertion of text into it behind a picture: after its placeholders and the newline that follows
them.

Works on token ids, so that taking the inserted ids out again gives the prompt as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from pruning.layout import TokenLayout

if TYPE_CHECKING:
    import torch


_NEWLINE_WITHIN = 4  # tokens behind the picture in which its newline is looked for


def insertion_points(visual: Sequence[bool], token_texts: Sequence[str]) -> list[int]:
    """For every picture of a prompt (a run of placeholders, `visual`), the index of the token before which text about
    it goes. Without a newline behind it: right behind the picture.
    """
    points = []
    for i, is_picture in enumerate(visual):
        if is_picture and (i + 1 == len(visual) or not visual[i + 1]):
            behind = range(i + 1, min(i + 1 + _NEWLINE_WITHIN, len(visual)))
            newline = next((j for j in behind if "\n" in token_texts[j]), i)
            points.append(newline + 1)
    return points


def splice(prompt: Prompt, at: int, ids: Sequence[int], token_texts: Sequence[str], words: Sequence[str]) -> Prompt:
    """The prompt with tokens put in before index `at`; they are no part of the question."""
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
    """Pictures, or a video, and a question, ready for the model.

    Attributes:
        input_ids: `[1, tokens]` with one placeholder per visual token.
        visual: `[tokens]` True at the placeholders.
        words: text of every token; `in_question`: which of them the person wrote; `whole`: the word that each is part
            of, between white space.
        inserted: first and one past the last of the tokens that were put in between picture and question, if any.
        layout: of all visual tokens; it has seconds where they are a video's.
        separators: `[tokens]` True at placeholders that end a line of the picture and show no part of it; methods never
            see them, they always stay, and they are counted as text.
        positions: `[axes, tokens]` where they are not those of plain text.
        extra: what the family's model takes beside ids and pixels.
        notes: what was added to what the checkpoint says of its chat, for the record.
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
        """What the library calls that which is shown: `image` or `video`."""
        return "video" if self.layout.seconds else "image"

    @property
    def kinds(self) -> torch.Tensor:
        """What each token is, for models with several axes of positions, `[1, tokens]`: 0 text, 1 picture, 2 video."""
        return (self.visual.long() * (2 if self.layout.seconds else 1))[None].to(self.input_ids.device)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of the model's own forward."""
        name = "pixel_values_videos" if self.layout.seconds else "pixel_values"
        given = {"input_ids": self.input_ids, name: self.pixels, **self.extra}
        return given if self.positions is None else {**given, "mm_token_type_ids": self.kinds}
