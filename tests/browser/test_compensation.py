"""Compensation as people use it: switched on, with a captioner, and with a caption written or changed by hand."""

from __future__ import annotations

import re

import pytest

from pruning.compensation.checkpoint import save
from pruning.models import load
from support.tiny_models import tiny_parts
from support.visitor import CONTRAST, Server, Visitor

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=\"document.title='broken'\"> red ${1} {{1}}"


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A page with a captioner for the bundled model, of random weights."""
    folder = tmp_path_factory.mktemp("speaking")
    adapter = load("demo")
    parts = tiny_parts(adapter)
    parts.selector.head.weight.data *= 0.1  # never so sure of itself that no gate stops it
    save(folder / "captioner", parts)
    adapter.close()
    server = Server(folder, flags=["--captioner", str(folder / "captioner")])
    yield server
    server.stop()


@pytest.fixture
def meet(speaking, chromium, home):
    """`meet(...)` opens a new visitor of that page."""
    visitors = []

    def enter(**kwargs) -> Visitor:
        visitors.append(Visitor(chromium, speaking.url, home=home, **kwargs))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.close()


def switch_on(visitor) -> None:
    visitor.page.get_by_label("Compensate with a caption (ACCM)").check()
    visitor.page.get_by_label("Caption by hand").wait_for()
    if visitor.page.viewport_size["width"] > 700:
        run = visitor.page.get_by_role("button", name="Run", exact=True).bounding_box()
        assert run["y"] + run["height"] <= 720, "Run stays in reach"


def test_switched_off_nothing_of_it_is_on_the_page(meet):
    visitor = meet()
    bottom = visitor.page.locator(".pc-stages").bounding_box()
    run = visitor.page.get_by_role("button", name="Run", exact=True).bounding_box()
    assert max(bottom["y"] + bottom["height"], run["y"] + run["height"]) <= 720
    visitor.ask()
    assert not visitor.page.locator(".ch").is_visible()
    assert not visitor.page.locator(".ap-answer.compensated").is_visible()
    assert not visitor.page.get_by_label("Caption by hand").is_visible()
    assert visitor.page.locator(".cs-figures div").count() == 9


@pytest.mark.parametrize(
    ("name", "size", "query"),
    [("light", (1280, 720), ""), ("dark", (1280, 720), "?__theme=dark"), ("phone", (390, 844), "")],
)
def test_candidates_prompt_and_price(meet, name, size, query):
    visitor = meet(width=size[0], height=size[1], query=query)
    page = visitor.page
    switch_on(visitor)
    page.get_by_label("Measure KL").check()
    visitor.ask()
    assert page.locator(".ch-card").count() == 3
    assert page.locator(".ch-card.chosen .ch-badge").first.inner_text().startswith("✓ chosen")
    for facts in page.locator(".ch-facts").all_inner_texts():
        assert re.search(r"log-probability −?-?\d+\.\d+ .*selector \d+\.\d %.*KL \d+\.\d+", facts.replace("\n", " "))
    assert re.search(r"costs as much as .* visual tokens? \(estimated\)", visitor.text(".ch-price"))
    prompt = visitor.text(".ch-prompt")
    assert "[picture]" in prompt
    first = page.locator(".ch-next tbody tr").count()
    assert first >= 3, "the likeliest words of three runs"
    assert "KL to the full picture here: pruned" in visitor.text(".ch-kl")
    words = page.locator(".ch-places [role=radio]")
    if words.count() > 1:
        before = visitor.text(".ch-kl")
        words.first.focus()
        page.keyboard.press("ArrowRight")
        assert words.nth(1).get_attribute("aria-checked") == "true"
        assert visitor.text(".ch-kl") != before
    assert page.locator(".ch-attention .line").count() == 2
    before = visitor.text(".ch-parts")
    page.get_by_label("with the vision tower").check()
    assert "vision tower" not in before
    assert "vision tower" in visitor.text(".ch-parts")
    page.get_by_label("with the vision tower").uncheck()
    assert visitor.text(".ch-parts") == before
    assert visitor.text(".ch-prompt mark").startswith("Additional information:")
    assert page.locator(".ap-answer.compensated").is_visible()
    assert re.fullmatch(r"64 visual tokens \+ \d+ of the caption", visitor.text(".ap-answer.compensated .ap-count"))
    assert visitor.text(".ap-compensated-verdict").startswith("with caption: ")
    assert page.locator(".cs-figures div").count() == 10
    said = page.locator(".ch-live").text_content()
    assert "caption" in said, "a screen reader hears what it did"
    visitor.wait_until_still()
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    visitor.look(f"give-back-{name}", full_page=True)
    if name == "light":
        visitor.look("give-back-first-screen")
    assert visitor.errors == []
    assert visitor.foreign == []


def test_a_caption_is_changed_and_asked_again_by_keyboard(meet):
    visitor = meet()
    page = visitor.page
    switch_on(visitor)
    visitor.ask()
    box = page.get_by_label("Change the caption and ask again")
    box.fill(HOSTILE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Run with this caption"
    page.keyboard.press("Enter")
    page.locator(".ch-who", has_text="Written by hand").wait_for()
    visitor.wait_for_status("^Done")
    assert page.locator(".ch-card").count() == 1
    assert HOSTILE.rstrip("}") in visitor.text(".ch-text")
    assert HOSTILE in visitor.text(".ch-prompt mark")
    assert page.get_by_label("Caption by hand").input_value() == HOSTILE, "one place says what the next run will do"
    assert page.title() == "PruneScope"
    assert "not among the words" in visitor.text(".ap-notes")
    visitor.look("give-back-by-hand", full_page=True)
    page.get_by_label("Caption by hand").fill("")
    visitor.ask()
    page.locator(".ch-card").nth(2).wait_for()  # an empty box leaves it to the captioner
    assert visitor.errors == []


def test_cases_in_plain_sentences_and_back_to_the_recorded_run(meet):
    visitor = meet()
    page = visitor.page
    switch_on(visitor)
    gate = page.locator("#gate input[type=number]")
    gate.fill("0.99")
    gate.press("Enter")
    visitor.ask()
    assert "Rejected by the confidence gate" in visitor.text(".ch-said")
    assert page.locator(".ch-prompt mark").count() == 0
    assert visitor.text(".ap-answer.compensated .ap-text") == visitor.text(".ap-answer.pruned .ap-text")
    visitor.keep(576)
    visitor.ask()
    page.locator(".ch-said", has_text="Nothing was dropped").wait_for()  # "Done" alone may still be the first run's
    visitor.ask("", expect="The question is empty")
    assert "Nothing was dropped" in visitor.text(".ch-said"), "an error takes nothing off the page"
    page.locator(".es button").nth(1).click()
    visitor.wait_for_status("recorded run")
    assert not page.locator(".ch").is_visible()
    assert not page.locator(".ap-answer.compensated").is_visible()
    assert visitor.errors == []


def test_a_link_and_a_record_bring_it_back(meet, tmp_path):
    visitor = meet(query="?example=digit&method=random_baseline&keep=18&compensation=accm&caption=a+red+star&kl=1")
    page = visitor.page
    visitor.wait_for_status("^Done")
    assert page.get_by_label("Compensate with a caption (ACCM)").is_checked()
    assert page.get_by_label("Caption by hand").input_value() == "a red star"
    assert visitor.text(".ch-text") == "a red star"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Record").click()
    waiting.value.save_as(tmp_path / "mine.zip")
    page.locator(".es button").nth(1).click()
    visitor.wait_for_status("recorded run")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.zip")
    visitor.wait_for_status("saved run")
    assert visitor.text(".ch-text") == "a red star"
    page.get_by_role("button", name="Copy command").click()
    assert "'--caption=a red star'" in visitor.text(".ta-text")
    assert visitor.errors == []
