"""The page for those who use no mouse, see little or nothing, or want nothing to move."""

from __future__ import annotations

import pytest

from support.visitor import CONTRAST

pytestmark = pytest.mark.browser

STOP = """() => { const e = document.activeElement, s = getComputedStyle(e);
    return {name: `${e.tagName} ${e.id} ${e.className} ${e.textContent.slice(0, 30)}`, ring: s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth),
        color: s.outlineColor, size: Math.min(e.clientWidth, e.clientHeight), body: e === document.body}; }"""
RINGS = {"rgb(0, 114, 178)", "rgb(86, 180, 233)", "rgb(255, 255, 255)"}  # white: inside a button that is blue


def tab_to(visitor, selector: str, most: int = 120) -> None:
    """Press Tab until that element has the focus."""
    for _ in range(most):
        if visitor.page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
        visitor.page.keyboard.press("Tab")
    raise AssertionError(f"{most} tabs do not lead to {selector}")


def test_from_an_example_to_a_file_with_tab_enter_and_arrows_alone(visit, tmp_path):
    visitor = visit()
    page, keys = visitor.page, visitor.page.keyboard
    tab_to(visitor, ".es button:nth-child(2)")
    keys.press("Enter")
    page.wait_for_selector(".es button:nth-child(2)[aria-pressed=true]")
    visitor.settle()
    tab_to(visitor, "#method input")
    before = page.locator("#method input").input_value()
    page.wait_for_selector("[role=listbox] [role=option]")  # it opens a moment after the focus came
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        keys.press(key)
    page.wait_for_function("(before) => document.querySelector('#method input').value !== before", arg=before)
    chosen = page.locator("#method input").input_value()
    page.wait_for_function("(m) => document.querySelector('.pc-chips').textContent.includes(m)", arg=chosen)
    tab_to(visitor, "#count input[type=range]")
    keys.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#keep-ratio').innerText.includes('= 63 of 576')")
    tab_to(visitor, "#run")
    keys.press("Enter")
    visitor.wait_for_status("^Done")
    assert visitor.text(".pc-chip.live") == "Live run"
    bottom = "document.querySelector('.pc-stages').getBoundingClientRect().bottom + window.scrollY"
    assert page.evaluate(bottom) <= 720, "the main view fits, under a headline of two lines as well"
    tab_to(visitor, ".pc-canvas")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        keys.press(key)
    assert "row 1, column 3" in visitor.text(".pc-live")
    assert page.locator(".pc-card").is_visible()
    visitor.look("keyboard-token")
    keys.press("Escape")
    tab_to(visitor, ".pc-stops button")
    keys.press("ArrowLeft")
    assert page.locator(".pc-stops button[aria-selected=true] strong").inner_text() == "576"
    keys.press("ArrowRight")
    tab_to(visitor, "[data-kind=png]")
    with page.expect_download() as waiting:
        keys.press("Enter")
    waiting.value.save_as(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert waiting.value.suggested_filename.endswith("-63.png")
    assert visitor.errors == []


@pytest.mark.parametrize("query", ["", "?__theme=dark"], ids=["light", "dark"])
def test_what_has_the_focus_is_seen(visit, query):
    visitor = visit(query=query)
    visitor.settle()
    stops = []
    for _ in range(90):
        visitor.page.keyboard.press("Tab")
        stop = visitor.page.evaluate(STOP)
        if stops and stop == stops[0]:
            break
        if not stop["body"]:  # the end of the page, or a list that scrolls: Chromium stops there, and it closes
            stops.append(stop)
    assert len(stops) > 30
    assert [s for s in stops if s["ring"] < 2 or s["color"] not in RINGS] == []


def test_what_happens_is_said_to_a_screen_reader(visit):
    visitor = visit()
    visitor.page.evaluate(
        """() => { window.said = []; for (const region of document.querySelectorAll('[aria-live=polite]'))
        new MutationObserver(() => window.said.push(region.textContent)).observe(region, {childList: true, characterData: true, subtree: true}); }"""
    )
    visitor.ask("Where is the ring?")
    visitor.page.locator(".pc-canvas").focus()
    visitor.page.keyboard.press("ArrowRight")
    said = visitor.page.evaluate("window.said")
    assert any(s.startswith("Answering with the full picture") for s in said)
    assert any(s.startswith("Done in") for s in said)
    assert any(s.startswith("Visual token row 1, column 1") for s in said)


def test_the_canvas_is_a_grid_whose_cells_say_what_became_of_them(visit):
    """As Chromium's own accessibility tree has it."""
    visitor = visit()
    count = visitor.stops()[-1]
    session = visitor.context.new_cdp_session(visitor.page)

    def names(role: str) -> list[str]:
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        return [n["name"]["value"] for n in nodes if n.get("role", {}).get("value") == role and not n["ignored"]]

    assert any(name.startswith("Visual tokens") for name in names("grid"))
    cells = names("gridcell")
    assert len(cells) == 576
    assert sum(name.endswith(" kept") for name in cells) == count
    visitor.page.locator(".pc-canvas").focus()
    for key in ("ArrowRight", "ArrowDown"):
        visitor.page.keyboard.press(key)
    active = visitor.page.locator(".pc-canvas").get_attribute("aria-activedescendant")
    assert visitor.page.locator(f"#{active}").text_content().startswith("visual token 24 ")
    visitor.page.locator(".pc-stops button").first.click()
    assert sum(name.endswith(" kept") for name in names("gridcell")) == 576


def current_stop(visitor) -> str:
    return visitor.page.locator(".pc-stops button[aria-selected=true] small").inner_text()


def test_nothing_moves_for_whom_nothing_shall_move(visit, server):
    visitor = visit(still=True)
    visitor.choose("Method", "ViTCoP")
    visitor.ask()
    names = visitor.page.locator(".pc-stops small").all_inner_texts()
    assert len(names) == 4
    for number in range(5):
        visitor.page.locator(".pc-play").click()
        assert current_stop(visitor) == names[number % 4]
        if number == 1:
            visitor.page.wait_for_timeout(1000)
            assert current_stop(visitor) == names[1], "one stage a press"
    visitor.page.get_by_label("Question", exact=True).fill("Describe the picture.")
    moving = "[...document.querySelectorAll('*')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0 || getComputedStyle(e).animationName !== 'none').length"
    with server.holding():
        visitor.page.get_by_role("button", name="Run", exact=True).click()
        visitor.wait_for_status("…")
        assert visitor.page.evaluate(moving) == 0
        assert visitor.page.evaluate("document.getAnimations().length") == 0
    visitor.wait_for_status("^Done")


def test_stages_play_by_themselves_for_everybody_else(visit):
    visitor = visit()
    visitor.choose("Method", "ViTCoP")
    visitor.ask()
    visitor.page.locator(".pc-play").click()
    assert current_stop(visitor) == "picture"
    last = visitor.page.locator(".pc-stops small").all_inner_texts()[-1]
    visitor.page.wait_for_function(
        "(last) => document.querySelector('.pc-stops button[aria-selected=true] small').textContent === last", arg=last
    )


@pytest.mark.parametrize("query", ["", "?__theme=dark"], ids=["light", "dark"])
def test_a_phone_is_enough(visit, query):
    visitor = visit(width=390, height=844, query=query)
    visitor.settle()
    visitor.ask("Where is the ring?")
    box = visitor.page.locator(".pc-canvas").bounding_box()
    visitor.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    card = visitor.page.locator(".pc-card").bounding_box()
    assert card["x"] >= 0
    assert card["x"] + card["width"] <= 390
    small = visitor.page.evaluate(
        """[...document.querySelectorAll('button, summary, .pc-range input')].filter((e) => e.offsetParent && getComputedStyle(e).visibility === 'visible' && !e.closest('footer'))
        .map((e) => [e.className, e.textContent.slice(0, 20), e.offsetWidth, e.offsetHeight]).filter(([, , w, h]) => w < 24 || h < 24)"""
    )
    assert small == [], f"a finger needs 24 pixels: {small}"
    assert visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    visitor.look(f"phone-run-{'dark' if query else 'light'}", full_page=True)


@pytest.mark.parametrize("query", ["", "?__theme=dark"], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(visit, query):
    visitor = visit(query=query)
    visitor.page.get_by_text("Advanced").click()
    visitor.page.get_by_text("Table of visual tokens").click()
    visitor.wait_until_still()
    assert visitor.page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("query", ["", "?__theme=dark"], ids=["light", "dark"])
@pytest.mark.parametrize("tab", ["Weight pruning", "Benchmarks"])
def test_other_tabs_fit_a_phone_and_can_be_read(visit, tab, query):
    visitor = visit(width=390, height=844, query=query)
    visitor.settle()
    visitor.page.get_by_role("tab", name=tab).click()
    visitor.page.get_by_role("tab", name=tab, selected=True).wait_for()
    visitor.page.locator(".js-plotly-plot:visible, .weight-pruning:visible").first.wait_for()
    visitor.wait_until_still()
    assert visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    hard_to_read = [text for text in visitor.page.evaluate(CONTRAST) if "goes" not in text[0].split()]
    assert hard_to_read == [], "all but the numbers of removed heads, which are not drawn under their crosses"
