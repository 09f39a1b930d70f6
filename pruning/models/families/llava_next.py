"""The LLaVA-NeXT family (LLaVA-1.6): LLaVA with an overview and a canvas of tiles, in the order of `models.anyres`.

Conventions and where they are handled: newlines end the lines of the canvas; they are no visual tokens, methods do not
see them, they always stay and count as text (`_separators`). A method decides once over all tiles, where some papers
split the budget evenly between them; every tile has a [CLS] of its own, and the overview's is the one that a method can
keep. The tower reads the tiles side by side, so rows are not dropped between its layers.
"""

from __future__ import annotations

import torch
from transformers import LlavaNextForConditionalGeneration
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from pruning.layout import TokenLayout
from pruning.models.base import Prompt, Seen
from pruning.models.families.anyres import line_ends, overview_and_canvas
from pruning.models.families.llava import LlavaAdapter


class LlavaNextAdapter(LlavaAdapter):
    model_class = LlavaNextForConditionalGeneration
    vision_inputs = ("image_sizes",)
    no_tower_stages = "its tower reads several tiles side by side, which would come out in different lengths"

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        return self._packing(picture_wh)[0]

    def _packing(self, picture_wh: tuple[int, int]) -> tuple[TokenLayout, torch.Tensor]:
        return overview_and_canvas(picture_wh, self.model.config.image_grid_pinpoints, *self._side_and_cells)

    def _look(self, prompt: Prompt) -> object:
        counts = [self._tiles(wh) for wh in prompt.layout.pictures_wh]  # a picture with fewer is filled up with nothing
        return self.model.model.vision_tower(torch.cat([p[:n] for p, n in zip(prompt.pixels, counts, strict=True)]))

    def _tiles(self, picture_wh: tuple[int, int]) -> int:
        """Tiles of a picture that the tower reads, the overview among them."""
        side, *_ = self._side_and_cells
        return image_size_to_num_patches(picture_wh[::-1], self.model.config.image_grid_pinpoints, side)

    def _tokens(self, seen: Seen, prompt: Prompt) -> Seen:
        rows, first = [], 0
        for wh in prompt.layout.pictures_wh:
            rows.append(self._packing(wh)[1] + first)
            first += self._tiles(wh) * self._side_and_cells[1] ** 2
        return seen.made_of(torch.cat(rows).to(seen.ids.device)[:, None])

    def _separators(self, layout: TokenLayout) -> torch.Tensor:
        return line_ends(layout)

    def _separator(self) -> torch.Tensor:
        return self.model.model.image_newline
