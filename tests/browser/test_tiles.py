"""A model that looks at the picture twice: pieces that cover each other are never drawn on top of each other."""

from __future__ import annotations

import pytest
from families import FAMILIES
from visitor import Server, Visitor

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def tiled(tmp_path_factory, chromium):
    folder = tmp_path_factory.mktemp("tiled")
    made = FAMILIES["llava_next"].make()
    made.model.save_pretrained(folder / "model")
    made.processor.save_pretrained(folder / "model")
    server = Server(folder, flags=["--model", str(folder / "model")])
    visitor = Visitor(chromium, server.url)
    yield visitor
    visitor.close()
    server.stop()


def test_overview_and_tiles_are_shown_one_at_a_time(tiled):
    page = tiled.page
    tiled.settle()
    tiled.ask("What color is the large star?")
    assert tiled.text(".pc-chip.model") == "model"
    overview = page.get_by_label("overview", exact=True)
    canvas = page.locator(".pc-canvas")
    assert overview.is_visible()
    assert not overview.is_checked()
    canvas.hover(position={"x": 40, "y": 40})
    assert "of tile 2" in tiled.text(".pc-card")
    tiled.look("tiles")
    overview.check()
    canvas.hover(position={"x": 41, "y": 41})
    assert "of tile 1" in tiled.text(".pc-card")
    tiled.look("tiles-overview")
    canvas.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")  # piece 0: the overview
    for _ in range(6):
        page.keyboard.press("ArrowDown")  # its six rows, then the tiles
    assert "of tile 2" in tiled.text(".pc-card")
    assert not overview.is_checked()
    assert tiled.errors == []
