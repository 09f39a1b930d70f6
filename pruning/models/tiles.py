"""A picture stretched over a grid of square tiles, read one after the other, and then once more as a whole."""

from __future__ import annotations

from pruning.geometry import Tile, TokenLayout


def tiles_then_overview(picture_wh: tuple[int, int], grid_hw: tuple[int, int], side: int, cells: int) -> TokenLayout:
    """Where the visual tokens are. A grid of one tile, or none, is the overview alone.

    Args:
        grid_hw: rows and columns of tiles; side: of a tile in pixels; cells: of a tile in tokens.
    """
    (width, height), (rows, cols) = picture_wh, grid_hw
    overview = Tile((0.0, 0.0, float(width), float(height)), (cells, cells), (side, side))
    if rows * cols <= 1:
        return TokenLayout(picture_wh, (overview,))
    x, y = [width * c / cols for c in range(cols + 1)], [height * r / rows for r in range(rows + 1)]
    boxes = [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(cols)]
    return TokenLayout(picture_wh, (*(Tile(box, (cells, cells), (side, side)) for box in boxes), overview))
