"""A model that encodes the picture twice: tokens that cover each other are never drawn on top of each other."""

from __future__ import annotations

import re

import pytest

from pruning.engine.run import run
from pruning.inputs.video import read_video
from pruning.records.archive import pack_run
from pruning.records.run import RunRequest
from support.families import FAMILIES
from support.media import film
from support.visitor import Server, Visitor, save

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
    page.keyboard.press("ArrowRight")  # token 0: the overview
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
    page.keyboard.press("ArrowRight")  # token 0
    assert "of tile 1 of picture 1" in tiled.text(".pc-card")
    assert strip.get_by_role("button", name="picture 1").get_attribute("aria-pressed") == "true"
    assert requests == [], "the browser turns from one picture to the other by itself"
    page.locator(".es button").first.click()
    tiled.wait_for_status("recorded run")
    assert not strip.is_visible()
    assert tiled.errors == []


def test_the_steps_of_a_video_are_shown_one_at_a_time(tiled, tmp_path):
    """A saved run of a model that reads videos, on the page of one that reads none."""
    page, path = tiled.page, tmp_path / "film.mp4"
    clip = read_video(film(path))
    tiled.page.locator("input[type=file]").first.set_input_files(path)
    assert "no video; Qwen2.5-VL and Qwen3-VL read both" in tiled.wait_for_status("still here")
    request = RunRequest("qwen3-vl-2b", "uniform_grid", 0.5, "What color is the star?", max_new_tokens=2)
    record = run(request, FAMILIES["qwen3_vl"].make(), clip)
    (tmp_path / "run.zip").write_bytes(pack_run(record, path.read_bytes()))
    page.locator("input[type=file]").first.set_input_files(tmp_path / "run.zip")
    tiled.wait_for_status("Nothing was computed")
    steps = page.get_by_role("group", name="Pictures of the prompt").get_by_role("button")
    each = record.layout.n_tokens // 3
    assert steps.all_inner_texts()[1:] == [
        f"frames 3 and 4, 1.0 and 1.5 s: {each // 2} of {each}",
        f"frame 5, 2.0 s: {each // 2} of {each}",
    ]
    steps.nth(1).click()
    page.locator(".pc-canvas").hover()
    assert "of frames 3 and 4, 1.0 and 1.5 s" in tiled.text(".pc-card")
    bright = "document.querySelector('.pc-canvas').getContext('2d').getImageData(4, 4, 1, 1).data[0]"
    page.get_by_role("radio", name="Picture", exact=True).click()
    earlier, later = page.evaluate(bright), page.get_by_label("second frame", exact=True)
    later.check()
    assert page.evaluate(bright) > earlier + 20
    tiled.look("video")
    steps.nth(2).click()
    assert not later.is_visible(), "the last frame stands alone"
    assert tiled.errors == []
