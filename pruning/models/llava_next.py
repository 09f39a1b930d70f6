"""The LLaVA-NeXT family (LLaVA-1.6): LLaVA with an overview and a canvas of tiles, in the order of `models.anyres`.

Conventions and where they are handled: newlines end the lines of the canvas; they are no visual tokens, methods do not
see them, they always stay and count as text (`_separators`). A method decides once over all tiles, where some papers
split the budget evenly between them; every tile has a [CLS] of its own, and the overview's is the one that a method can
keep. The tower reads the tiles side by side, so rows are not dropped between its layers.
"""

from __future__ import annotations

import torch
from transformers import LlavaNextForConditionalGeneration

from pruning.geometry import TokenLayout
from pruning.models.anyres import line_ends, overview_and_canvas
from pruning.models.base import Prompt, Seen
from pruning.models.llava import LlavaAdapter


class LlavaNextAdapter(LlavaAdapter):
    model_class = LlavaNextForConditionalGeneration
    vision_inputs = ("image_sizes",)
    no_tower_stages = "its tower reads several tiles side by side, which would come out in different lengths"

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        return self._packing(picture_wh)[0]

    def _packing(self, picture_wh: tuple[int, int]) -> tuple[TokenLayout, torch.Tensor]:
        return overview_and_canvas(picture_wh, self.model.config.image_grid_pinpoints, *self._side_and_cells)

    def _look(self, prompt: Prompt) -> object:
        return self.model.model.vision_tower(prompt.pixels[0])

    def _tokens(self, seen: Seen, prompt: Prompt) -> Seen:
        return seen.made_of(self._packing(prompt.layout.picture_wh)[1].to(seen.ids.device)[:, None])

    def _separators(self, layout: TokenLayout) -> torch.Tensor:
        return line_ends(layout)

    def _separator(self) -> torch.Tensor:
        return self.model.model.image_newline
