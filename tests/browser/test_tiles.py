"""A model that looks at the picture twice: pieces that cover each other are never drawn on top of each other."""

from __future__ import annotations

import re

import pytest
from families import FAMILIES
from visitor import Server, Visitor, save

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


def test_two_pictures_of_one_prompt_are_shown_one_at_a_time(tiled, tmp_path):
    page = tiled.page
    page.locator("input[type=file]").set_input_files(
        [save(tmp_path / "a.png", (90, 30)), save(tmp_path / "b.png", (60, 60))]
    )
    tiled.wait_for_status("2 pictures are in place, as one prompt")
    tiled.ask("What color is the large star?")
    strip, canvas = page.get_by_role("group", name="Pictures of the prompt"), page.locator(".pc-canvas")
    counts = [re.fullmatch(r"picture \d: (\d+) of \d+", t) for t in strip.get_by_role("button").all_inner_texts()]
    assert sum(int(c[1]) for c in counts) == tiled.stops()[-1]
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    wide = canvas.bounding_box()
    strip.get_by_role("button", name="picture 2").click()
    other = canvas.bounding_box()
    assert wide["width"] / wide["height"] > 2 > other["width"] / other["height"]
    canvas.hover()
    assert "of tile 2 of picture 2" in tiled.text(".pc-card")
    page.get_by_label("overview", exact=True).check()
    tiled.look("two-pictures")
    canvas.focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")  # piece 0
    assert "of tile 1 of picture 1" in tiled.text(".pc-card")
    assert strip.get_by_role("button", name="picture 1").get_attribute("aria-pressed") == "true"
    assert requests == [], "the browser turns from one picture to the other by itself"
    page.locator(".es button").first.click()
    tiled.wait_for_status("recorded run")
    assert not strip.is_visible()
    assert tiled.errors == []
