"""Token <-> pixels in every family: coloured pictures through the family's own processor, tile by tile."""

from __future__ import annotations

import numpy as np
import pytest

from pruning.layout import Tile, TokenLayout
from support.families import FAMILIES
from support.media import COLORS, quadrants

SIZES = {
    "square": (400, 400),
    "wide": (900, 300),
    "tall": (300, 900),
    "long": (1000, 120),
    "odd": (431, 277),
    "tiny": (31, 23),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    tiny = FAMILIES[request.param]
    return tiny, tiny.make()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_token_sees_the_colour_at_its_box(family, size):
    """What the processor hands to the tower for each token, against the picture under the box that we draw for it."""
    tiny, adapter = family
    picture = quadrants(*size)
    prompt = adapter.prompt(picture, "what?")
    layout = prompt.layout
    encoded = (tiny.tokens_read(adapter, prompt).numpy() + 1) * 127.5
    assert len(encoded) == layout.n_tokens == int(prompt.visual.sum())
    width, height = size
    checked = dict.fromkeys(range(len(layout.tiles)), 0)
    for token, (x0, y0, x1, y1) in enumerate(layout.boxes()):
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        inner = encoded[token][
            encoded.shape[1] // 4 : -(encoded.shape[1] // 4), encoded.shape[2] // 4 : -(encoded.shape[2] // 4)
        ]
        got = inner.mean((0, 1))
        if layout.padding()[token]:
            assert np.ptp(got) < 60, "padding is black or grey"
            continue
        # Only the inner half is compared, and none whose inner half is crossed by a border (with a margin for blur).
        crossed = abs(x - width / 2) < tiny.reach * w or abs(y - height / 2) < tiny.reach * h
        outside = max(-x0 / w, -y0 / h, (x1 - width) / w, (y1 - height) / h) > 0.2
        if not crossed and not outside:
            assert np.abs(got - COLORS[(y >= height / 2) * 2 + (x >= width / 2)]).max() < 40, (token, got)
            checked[layout.tile_numbers()[token]] += 1
    assert sum(checked.values()) >= 4
    fewest, narrowest = min(t.n_tokens for t in layout.tiles), min(min(t.grid_hw) for t in layout.tiles)
    assert all(checked.values()) or fewest < 16 or narrowest < 2 * tiny.reach


@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_boxes_are_exact_along_a_ramp(family, size, axis):
    """Brightness rises steadily along one axis, so the mean of what a token sees says where its middle is."""
    tiny, adapter = family
    width, height = size
    along = (np.arange(size[axis]) + 0.5) / size[axis] * 255
    picture = np.broadcast_to((along[None, :] if axis == 0 else along[:, None])[..., None], (height, width, 3))
    prompt = adapter.prompt(picture.round().astype(np.uint8), "what?")
    encoded = (tiny.tokens_read(adapter, prompt).numpy() + 1) * 127.5
    boxes = prompt.layout.boxes()
    inside = (boxes[:, 0] >= 0) & (boxes[:, 1] >= 0) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
    middle = (boxes[:, axis] + boxes[:, axis + 2]) / 2
    cell = boxes[:, axis + 2] - boxes[:, axis]
    error = np.abs(encoded.mean((1, 2, 3)) / 255 * size[axis] - middle)[inside]
    assert inside.any()
    assert (error < 0.12 * cell[inside] + size[axis] / 255).all(), (error / cell[inside]).max()


def test_tiles_that_cover_each_other_are_drawn_apart():
    left, right = Tile((0, 0, 10, 10), (2, 2), (5, 5)), Tile((10, 0, 20, 10), (2, 2), (5, 5))
    full = Tile((0, 0, 20, 10), (2, 2), (5, 5))
    assert TokenLayout((20, 10), (left, right, full)).views() == [[0, 1], [2]]
    assert TokenLayout((20, 10), (full, left, right)).views() == [[1, 2], [0]]
    assert TokenLayout((20, 10), (full,)).views() == [[0]]


def test_positions_say_where_in_the_whole_view_a_token_is():
    tiles = (
        Tile((0, 0, 10, 10), (2, 2), (5, 5)),
        Tile((10, 0, 20, 10), (2, 2), (5, 5)),
        Tile((0, 0, 20, 10), (2, 2), (5, 5)),
    )
    layout = TokenLayout((20, 10), tiles)
    assert layout.positions()[:8].tolist() == [
        [0, 0], [0, 0.25], [0.5, 0], [0.5, 0.25], [0, 0.5], [0, 0.75], [0.5, 0.5], [0.5, 0.75],
    ]  # fmt: skip
    assert layout.positions()[8:].tolist() == [[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]]
    assert layout.tile_numbers().tolist() == [0] * 4 + [1] * 4 + [2] * 4
