"""A picture at any resolution, as LLaVA-NeXT and LLaVA-OneVision cut it: an overview, and a canvas of square tiles.

The picture is shown twice: whole and squeezed into one square, then as large as fits on the best of some canvases,
with padding around it. Tokens of the canvas that are padding are taken out again, in whole lines or columns, so the
outermost ones may reach a little beyond the picture, or leave a little of it to the overview. Every line ends with a
newline.

Where a tile's side is no whole number of patches, its last pixels are left out, so the tokens of a canvas of several
tiles are not spaced evenly. They are drawn as if they were, half of what is left out aside: LLaVA-OneVision leaves out
6 of 384 pixels, so a box lies at most 3 of 384, a fifth of a token, beside its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import unpad_image

from pruning.layout import Tile, TokenLayout
from pruning.models.families.tiling import in_patches


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
    whole = numbers.transpose(1, 2).reshape(down * cells, across * cells)
    shown = unpad_image(whole[None], (height, width))[0]  # the model's own function says which tokens it keeps

    resized_hw = get_patch_output_size(torch.empty(3, height, width), canvas_hw, ChannelDimension.FIRST)
    box = []  # of the tokens shown: along x, then along y, in pixels of the picture
    for axis in (1, 0):
        first = (whole.shape[axis] - shown.shape[axis]) // 2
        margin = (canvas_hw[axis] - resized_hw[axis]) // 2 + (side - cells * patch) / 2
        scale = picture_wh[1 - axis] / resized_hw[axis]
        edges = (first, first + shown.shape[axis])
        box.append([(edge * side / cells - margin) * scale for edge in edges])
    (x0, x1), (y0, y1) = box
    canvas = Tile(
        (x0, y0, x1, y1), tuple(shown.shape), (shown.shape[1] * side // cells, shown.shape[0] * side // cells)
    )
    whole_picture = in_patches((0.0, 0.0, float(width), float(height)), cells * patch / side)
    overview = Tile(whole_picture, (cells, cells), (side, side))
    return TokenLayout(picture_wh, (overview, canvas)), torch.cat([torch.arange(cells**2), shown.flatten()])


def line_ends(layout: TokenLayout) -> torch.Tensor:
    """Which placeholders are newlines, bool `[placeholders]`: one behind every line of the canvas."""
    overview, canvas = layout.tiles
    lines, length = canvas.grid_hw
    behind = torch.cat([torch.zeros(lines, length, dtype=torch.bool), torch.ones(lines, 1, dtype=torch.bool)], 1)
    return torch.cat([torch.zeros(overview.n_tokens, dtype=torch.bool), behind.flatten()])
