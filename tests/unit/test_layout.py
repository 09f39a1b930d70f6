"""Token <-> pixels, checked with coloured pictures through the real processor."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.errors import GeometryError
from pruning.layout import Tile, TokenLayout, square_view
from support.media import COLORS, quadrants


@pytest.mark.parametrize("size", [(480, 480), (900, 480), (480, 900), (1000, 300), (31, 47), (48, 48)], ids=str)
@pytest.mark.parametrize("how", ["crop", "pad"])
def test_every_token_sees_the_colour_at_its_box(tiny, size, how):
    """The processor's pixels of each patch against the picture under the box that we draw for it."""
    images = tiny.processor.image_processor
    images.do_pad = how == "pad"
    try:
        picture = quadrants(*size)
        layout = tiny.layout(size)
        prompt = tiny.prompt(picture, "what?")
    finally:
        images.do_pad = False
    pixels = ((prompt.pixels[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    rows, cols = layout.tiles[0].grid_hw
    patch = pixels.shape[0] // rows
    checked = 0
    for token, (x0, y0, x1, y1) in enumerate(layout.boxes()):
        r, c = divmod(token, cols)
        got = pixels[r * patch + 2 : (r + 1) * patch - 2, c * patch + 2 : (c + 1) * patch - 2].mean((0, 1))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        if layout.padding()[token]:
            assert np.ptp(got) < 30, "padding has the mean colour, which is grey"
            continue
        # The inner half of a patch is compared, so a border of colours may touch a box but not cut it.
        crossed = min(abs(x - size[0] / 2), abs(y - size[1] / 2)) < 0.4 * (x1 - x0)
        outside = max(-x0, -y0, x1 - size[0], y1 - size[1]) > 0.2 * (x1 - x0)
        if not crossed and not outside:
            assert np.abs(got - COLORS[(y >= size[1] / 2) * 2 + (x >= size[0] / 2)]).max() < 25, (token, got)
            checked += 1
    assert checked >= 8


def test_views_of_a_wide_picture():
    assert square_view((300, 100), "crop") == (100, 0, 200, 100)
    assert square_view((300, 100), "pad") == (0, -100, 300, 200)
    assert square_view((300, 100), "stretch") == (0, 0, 300, 100)
    with pytest.raises(GeometryError, match="crop, pad or stretch"):
        square_view((1, 1), "fold")


def test_boxes_tile_the_view_row_by_row():
    layout = TokenLayout((60, 40), (Tile((0, 0, 60, 40), (2, 3), (30, 20)),))
    assert layout.boxes().tolist() == [
        [0, 0, 20, 20], [20, 0, 40, 20], [40, 0, 60, 20], [0, 20, 20, 40], [20, 20, 40, 40], [40, 20, 60, 40],
    ]  # fmt: skip
    assert layout.positions()[4].tolist() == [0.5, 1 / 3]


def test_coverage_is_the_share_of_the_box():
    layout = TokenLayout((60, 40), (Tile((0, 0, 60, 40), (2, 3), (30, 20)),))
    mask = np.zeros((40, 60), bool)
    mask[:20, 10:40] = True
    assert layout.coverage(mask).tolist() == [0.5, 1, 0, 0, 0, 0]
    assert layout.coverage(np.kron(mask, np.ones((3, 3), bool))).tolist() == [0.5, 1, 0, 0, 0, 0]


def test_coverage_outside_the_picture_is_nothing():
    padded = TokenLayout((40, 20), (Tile((0, -10, 40, 30), (4, 4), (32, 32)),))
    assert padded.coverage(np.ones((20, 40), bool)).reshape(4, 4)[:, 0].tolist() == [0, 1, 1, 0]
    assert padded.padding().reshape(4, 4)[:, 0].tolist() == [True, False, False, True]


def test_layout_survives_json():
    layout = TokenLayout((60, 40), (Tile((0.5, 0, 60, 40), (2, 3), (30, 20)), Tile((0, 0, 6, 4), (1, 1), (3, 2))))
    assert TokenLayout.from_dict(layout.to_dict()) == layout
    assert layout.n_tokens == 7


def test_impossible_layouts_are_refused():
    with pytest.raises(GeometryError, match="at least one cell"):
        Tile((0, 0, 0, 5), (1, 1), (1, 1))
    with pytest.raises(GeometryError, match="at least one tile"):
        TokenLayout((5, 5), ())
