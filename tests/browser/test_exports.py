"""Taking a run away from the page, and bringing it back."""

from __future__ import annotations

import pytest

from support.visitor import save

pytestmark = pytest.mark.browser


def download(visitor, name: str):
    with visitor.page.expect_download() as waiting:
        visitor.page.locator("#export").get_by_role("button", name=name, exact=True).click()
    return waiting.value


@pytest.mark.parametrize(
    ("button", "suffix", "start"),
    [
        ("PNG", "png", b"\x89PNG"),
        ("SVG", "svg", b"<?xml"),
        ("PDF", "pdf", b"%PDF"),
        ("GIF", "gif", b"GIF89a"),
        ("MP4", "mp4", b"\x00\x00\x00"),
        ("Record", "zip", b"PK\x03\x04"),
    ],
)
def test_every_file_is_saved(visit, tmp_path, button, suffix, start):
    visitor = visit()
    file = download(visitor, button)
    assert file.suggested_filename == f"prunescope-resprune-64.{suffix}"
    file.save_as(tmp_path / "x")
    assert (tmp_path / "x").read_bytes().startswith(start)
    assert visitor.errors == []
    assert visitor.foreign == []


def test_a_live_run_goes_away_and_comes_back(visit, tmp_path):
    visitor = visit()
    visitor.choose("Method", "VisionZip")
    visitor.ask("Where is the ring?")
    before = visitor.text(".pc-headline"), visitor.text(".cs-figures"), visitor.stops()
    file = download(visitor, "Record")
    file.save_as(tmp_path / "mine.zip")
    other = visit()
    other.page.locator("input[type=file]").set_input_files(tmp_path / "mine.zip")
    other.wait_for_status("A saved run, opened: “Where is the ring\\?”")
    assert (other.text(".pc-headline"), other.text(".cs-figures"), other.stops()) == before
    assert other.text(".ap-question") == "Where is the ring?"
    assert other.text(".pc-chip.recorded") == "Recorded run"
    other.ask("How many yellow objects are there?")
    assert other.errors == []


def test_a_link_repeats_the_run(visit):
    visitor = visit()
    visitor.page.get_by_text("Advanced").click()
    visitor.page.get_by_label("Seed").fill("3")
    visitor.choose("Method", "Random")
    visitor.keep(70)
    visitor.ask("Where is the ring?")
    visitor.page.get_by_role("button", name="Copy link").click()
    link = visitor.text(".ta-text")
    before = visitor.text(".pc-headline"), visitor.stops(), visitor.text(".pc-chip.region")
    assert link.startswith(visitor.url)
    other = visit(query=link.removeprefix(visitor.url))
    other.wait_for_status("^Done")
    assert (other.text(".pc-headline"), other.stops(), other.text(".pc-chip.region")) == before
    assert other.text(".ap-question") == "Where is the ring?"
    assert other.errors == []


def test_a_bad_link_gets_a_sentence_and_the_page_works(visit):
    visitor = visit(query="?example=digit&method=<b>magic</b>")
    visitor.wait_for_status("There is no method '<b>magic</b>'")
    visitor.ask()


def test_my_own_picture_is_in_no_link(visit, tmp_path):
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(save(tmp_path / "mine.png"))
    visitor.wait_for_status("Your picture is in place")
    assert visitor.page.locator("#export button:enabled").count() == 0, "there is no run yet"
    visitor.ask("What color is the star?")
    assert not visitor.page.get_by_role("button", name="Copy link").is_enabled()
    assert download(visitor, "PDF").suggested_filename.endswith(".pdf")
