"""The layout of a picture that is stretched over a grid of square tiles, followed by an overview of the full picture.

A tower whose side is no multiple of the patch size leaves out the remaining pixels at the right and at the bottom of
every tile.
"""

from __future__ import annotations

from pruning.layout import Tile, TokenLayout

Box = tuple[float, float, float, float]


def in_patches(box: Box, share: float) -> Box:
    """Return the part of a tile `x0, y0, x1, y1` that patches cover: `share` of its sides."""
    x0, y0, x1, y1 = box
    return x0, y0, x0 + (x1 - x0) * share, y0 + (y1 - y0) * share


def tiles_then_overview(
    picture_wh: tuple[int, int], grid_hw: tuple[int, int], side: int, cells: int, share: float = 1.0
) -> TokenLayout:
    """Return the layout of the visual tokens. For a grid of one tile, or none, it is the overview alone.

    Args:
        grid_hw: rows and columns of tiles.
        side: of a tile in pixels.
        cells: of a tile in visual tokens.
        share: of a tile's side that visual tokens cover.
    """
    (width, height), (rows, cols) = picture_wh, grid_hw
    overview = Tile(in_patches((0.0, 0.0, float(width), float(height)), share), (cells, cells), (side, side))
    if rows * cols <= 1:
        return TokenLayout(picture_wh, (overview,))
    x, y = [width * c / cols for c in range(cols + 1)], [height * r / rows for r in range(rows + 1)]
    boxes = [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(cols)]
    return TokenLayout(
        picture_wh, (*(Tile(in_patches(box, share), (cells, cells), (side, side)) for box in boxes), overview)
    )
