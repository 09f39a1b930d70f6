"""The LLaVA-NeXT family (LLaVA-1.6): an overview of the picture, and a canvas of tiles at higher resolution.

Conventions and where they are handled: newlines end the lines of the canvas; they are no visual tokens, methods do not
see them, they always stay and count as text (`_separators`). A method decides once over all tiles, where some papers
split the budget evenly between them; every tile has a [CLS] of its own, and the overview's is the one that a method can
keep. The tower reads the tiles side by side, so rows are not dropped between its layers.

Layout, shared with LLaVA-OneVision: the picture is encoded twice, squeezed into one square, then as large as fits on
the best of some canvases, padded. Canvas tokens that are padding are removed in whole lines or columns, so the
outermost ones may reach a little beyond the picture, or leave a little of it to the overview. Where a tile's side is no
whole number of patches, its last pixels are left out, so the tokens of a canvas of several tiles are not spaced evenly;
they are drawn as if they were. LLaVA-OneVision leaves out 6 of 384 pixels, so a box lies at most 3 of 384 (a fifth of a
token) beside its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlavaNextForConditionalGeneration
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches, unpad_image

from pruning.layout import Tile, TokenLayout
from pruning.models.base import VisionFeatures
from pruning.models.families.llava import LlavaAdapter
from pruning.models.families.tiling import in_patches
from pruning.models.prompt import Prompt


class LlavaNextAdapter(LlavaAdapter):
    model_class = LlavaNextForConditionalGeneration
    vision_inputs = ("image_sizes",)
    no_tower_stages = "its tower reads several tiles side by side, which would come out in different lengths"

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        return self._packing(picture_wh)[0]

    def _packing(self, picture_wh: tuple[int, int]) -> tuple[TokenLayout, torch.Tensor]:
        return overview_and_canvas(picture_wh, self.model.config.image_grid_pinpoints, *self._side_and_cells)

    def _forward_vision(self, prompt: Prompt) -> object:
        counts = [self._tiles(wh) for wh in prompt.layout.pictures_wh]  # a picture with fewer is filled up with nothing
        return self.model.model.vision_tower(torch.cat([p[:n] for p, n in zip(prompt.pixels, counts, strict=True)]))

    def _tiles(self, picture_wh: tuple[int, int]) -> int:
        """Tiles of a picture that the tower reads, the overview among them."""
        side, *_ = self._side_and_cells
        return image_size_to_num_patches(picture_wh[::-1], self.model.config.image_grid_pinpoints, side)

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        rows, first = [], 0
        for wh in prompt.layout.pictures_wh:
            rows.append(self._packing(wh)[1] + first)
            first += self._tiles(wh) * self._side_and_cells[1] ** 2
        return encoded.made_of(torch.cat(rows).to(encoded.ids.device)[:, None])

    def _separators(self, layout: TokenLayout) -> torch.Tensor:
        return line_ends(layout)

    def _separator(self) -> torch.Tensor:
        return self.model.model.image_newline


def overview_and_canvas(
    picture_wh: tuple[int, int], canvases: Sequence[Sequence[int]], side: int, cells: int, patch: int
) -> tuple[TokenLayout, torch.Tensor]:
    """Where the visual tokens are, and the tower row that each comes from, int64 `[tokens]`.

    Args:
        canvases: `[height, width]` of those that may be chosen; side: of a tile in pixels; cells: of a tile in tokens;
            patch: side of a token in pixels.
    """
    width, height = picture_wh
    canvas_hw = select_best_resolution((height, width), list(canvases))
    down, across = canvas_hw[0] // side, canvas_hw[1] // side
    numbers = torch.arange(cells**2, (1 + down * across) * cells**2).view(down, across, cells, cells)
    full = numbers.transpose(1, 2).reshape(down * cells, across * cells)
    unpadded = unpad_image(full[None], (height, width))[0]  # the model's own function says which tokens it keeps

    resized_hw = get_patch_output_size(torch.empty(3, height, width), canvas_hw, ChannelDimension.FIRST)
    box = []  # of the tokens shown: along x, then along y, in pixels of the picture
    for axis in (1, 0):
        first = (full.shape[axis] - unpadded.shape[axis]) // 2
        margin = (canvas_hw[axis] - resized_hw[axis]) // 2 + (side - cells * patch) / 2
        scale = picture_wh[1 - axis] / resized_hw[axis]
        edges = (first, first + unpadded.shape[axis])
        box.append([(edge * side / cells - margin) * scale for edge in edges])
    (x0, x1), (y0, y1) = box
    canvas = Tile(
        (x0, y0, x1, y1), tuple(unpadded.shape), (unpadded.shape[1] * side // cells, unpadded.shape[0] * side // cells)
    )
    full_picture = in_patches((0.0, 0.0, float(width), float(height)), cells * patch / side)
    overview = Tile(full_picture, (cells, cells), (side, side))
    return TokenLayout(picture_wh, (overview, canvas)), torch.cat([torch.arange(cells**2), unpadded.flatten()])


def line_ends(layout: TokenLayout) -> torch.Tensor:
    """Which placeholders are newlines, bool `[placeholders]`: one behind every line of the canvas."""
    overview, canvas = layout.tiles
    lines, length = canvas.grid_hw
    behind = torch.cat([torch.zeros(lines, length, dtype=torch.bool), torch.ones(lines, 1, dtype=torch.bool)], 1)
    return torch.cat([torch.zeros(overview.n_tokens, dtype=torch.bool), behind.flatten()])
