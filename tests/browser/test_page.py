# Long because every control of the one page is tried here, with one server.
"""The page as people use it: a real server, a real browser."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from pruning.methods import METHODS
from support.visitor import save

pytestmark = pytest.mark.browser


def test_opens_with_a_finished_comparison_and_asks_nobody_else(visit):
    visitor = visit(first=True)
    assert re.search(r"\d+ of 576 visual tokens", visitor.text(".pc-headline"))
    assert visitor.stops()[0] == 576
    assert visitor.text(".pc-chip.recorded") == "Recorded run"
    assert visitor.text(".ap-answer.full .ap-text")
    assert visitor.text(".ap-chip")
    assert visitor.page.locator(".cs-figures div").count() == 9
    assert visitor.page.locator(".lc-bar").count() == 8
    visitor.page.wait_for_timeout(1500)
    assert visitor.foreign == []
    assert visitor.errors == []
    visitor.look("first-screen")


def test_a_live_run_streams_and_finishes(visit):
    visitor = visit()
    visitor.ask("Where is the ring?")
    assert visitor.text(".pc-chip.live") == "Live run"
    assert visitor.text(".ap-question") == "Where is the ring?"
    assert "answer region kept" in visitor.text(".pc-chip.region")
    assert visitor.stops() == [576, 64]
    visitor.page.locator(".ap-answer.full .ap-word").last.hover()
    assert "heads below it" in visitor.text(".ap-only-text")
    assert re.search(
        r"nearest visual token \(signal of ReVisiT\): \d+, (kept|removed) by pruning", visitor.text(".pc-legend")
    )
    visitor.look("signals")
    assert visitor.errors == []
    assert visitor.foreign == []


def test_paper_budgets_say_what_they_mean_and_a_file_can_decide(visit, tmp_path):
    visitor = visit()
    published = visitor.page.get_by_role("group", name="Paper budgets")
    published.get_by_role("button", name="192", exact=True).click()
    visitor.page.wait_for_function("document.querySelector('#keep-ratio').innerText.includes('= 192 of 576')")
    assert visitor.text(".bp-meaning") == "192: 192 in every layer"
    visitor.choose("Method", "FastV")
    visitor.page.wait_for_function("document.querySelector('.bp-meaning').innerText.includes('average over layers')")
    assert visitor.text(".bp-meaning") == "192: average over layers 288.0: 576 in layers 0-1, 192 in layers 2-7"
    visitor.page.wait_for_function("document.querySelector('.ap-random-text').innerText.includes('not the same work')")
    visitor.look("budgets")
    (tmp_path / "mine.json").write_text(json.dumps({"groups": [i // 24 for i in range(576)]}))
    visitor.page.get_by_text("Advanced", exact=True).click()
    visitor.page.locator("input[type=file]:has(+ #decision)").set_input_files(tmp_path / "mine.json")
    visitor.wait_for_status("mine.json is taken as the method Imported: 24 groups of a file")
    visitor.page.wait_for_function("document.querySelector('.bp-meaning').innerText.includes('The file says')")
    visitor.look("imported-before")
    visitor.ask()
    assert visitor.stops() == [576, 24]
    assert "Imported, 24 groups of a file" in visitor.text(".pc-chips")
    assert "24 / 24 / 24" in visitor.text(".cs-figures")
    visitor.look("imported")
    assert visitor.errors == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_the_page(guest, method):
    visitor = guest
    visitor.choose("Method", METHODS[method].title)
    visitor.keep(48)
    visitor.page.wait_for_function("document.querySelector('#keep-ratio').innerText.includes('= 48 of 576')")
    visitor.ask()
    stops = visitor.stops()
    assert stops[0] == 576
    assert stops[-1] <= 64
    assert METHODS[method].title in visitor.text(".pc-chips")
    assert visitor.errors == []
    visitor.look(f"method-{method}")


def test_share_shows_ratio_and_count_without_asking_python(visit):
    visitor = visit()
    visitor.settle()
    visitor.wait_until_quiet()
    before = len(visitor.requests)
    slider = visitor.page.locator("#count input[type=range]")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    visitor.page.wait_for_function("document.querySelector('#keep-ratio').innerText.includes('67 of 576')")
    assert visitor.text("#keep-ratio") == "keep ratio 11.6 % = 67 of 576"
    assert len(visitor.requests) == before


def test_hover_scrub_and_switches_make_no_request(visit):
    visitor = visit()
    visitor.choose("Method", "ViTCoP")
    visitor.ask()
    assert len(visitor.stops()) == 4
    visitor.settle()
    visitor.wait_until_quiet()
    before = len(visitor.requests)
    box = visitor.page.locator(".pc-canvas").bounding_box()
    for i in range(30):
        visitor.page.mouse.move(
            box["x"] + 5 + i * (box["width"] - 10) / 30, box["y"] + 5 + i * (box["height"] - 10) / 30
        )
    card = visitor.text(".pc-card")
    assert re.search(r"Visual token \d+", card)
    assert "rank" in card
    for stop in visitor.page.locator(".pc-stops button").all():
        stop.click()
    for mode in ("Score", "Picture", "Kept", "Why"):
        visitor.page.get_by_role("radio", name=mode).click()
    assert visitor.text(".pc-legend") == "one reason for all here", "ViTCoP's last cut knows key norms only"
    visitor.page.locator(".pc-stops button").nth(2).click()
    assert [t.strip() for t in visitor.page.locator(".pc-legend > span").all_inner_texts()] == ["elite", "merged group"]
    visitor.look("why")
    visitor.page.get_by_text("grid", exact=True).click()
    visitor.page.locator(".pc-play").click()
    visitor.page.wait_for_timeout(300)
    assert len(visitor.requests) == before
    assert visitor.errors == []


def test_a_control_that_is_heard_late_takes_no_live_run_away(visit):
    """Run pressed right after a choice may be done before the page hears of the choice."""
    visitor = visit()
    visitor.choose("Method", "HoloV")
    visitor.ask()
    question = visitor.page.get_by_label("Question", exact=True).input_value()
    late = "([m, q]) => window.prunescope.choose(m, 64, q)"
    visitor.page.evaluate(late, ["holov", question])
    assert visitor.status().startswith("Done")
    assert "Live run" in visitor.text(".pc-chips")
    for method in ("fastv", "holov"):
        visitor.page.evaluate(late, [method, question])
        visitor.wait_for_status("^Recorded run with 64")
    assert "HoloV" in visitor.text(".pc-chips")


def test_recorded_runs_switch_without_a_request(visit):
    visitor = visit()
    visitor.settle()
    before = len([r for r in visitor.requests if "component_server" in r])
    for method, count in (("VisionZip", 36), ("Even grid", 128), ("ResPrune", 18)):
        visitor.choose("Method", method)
        visitor.keep(count)
        visitor.wait_for_status(f"Recorded run with {count} of 576 visual tokens")
        assert method in visitor.text(".pc-chips")
        assert visitor.stops()[-1] == count
        assert visitor.text(".pc-chip.recorded") == "Recorded run"
        assert "Random, 20 seeds" in visitor.text(".ap-random-text")
    visitor.keep(70)
    visitor.wait_for_status("Nearest to 70")
    assert len([r for r in visitor.requests if "component_server" in r]) == before
    visitor.ask()
    assert visitor.stops()[-1] == 70
    assert visitor.text(".pc-chip.live") == "Live run"


def test_a_word_shows_what_it_attends_to_and_a_token_its_word(visit):
    visitor = visit()
    before = visitor.page.evaluate("document.querySelector('.pc-canvas').toDataURL().length")
    visitor.page.locator(".ap-answer.pruned .ap-word").last.hover()
    assert re.search(r"\d+ % of the attention of “.+” goes to the picture", visitor.text(".pc-legend"))
    assert visitor.page.evaluate("document.querySelector('.pc-canvas').toDataURL().length") != before
    visitor.look("word-attention")


def test_tokens_as_a_table(visit):
    visitor = visit()
    rows = visitor.table(576)
    visitor.page.get_by_role("button", name="rank", exact=True).click()
    expect(rows.nth(1).locator("td").nth(6)).to_have_text("1")
    kept = visitor.page.locator(".pc-table td:text-is('kept')").count()
    assert kept == visitor.stops()[-1]


def test_random_band_for_a_live_run(visit):
    visitor = visit()
    visitor.ask("Where is the ring?")
    visitor.page.get_by_role("button", name="Random ×20").click()
    visitor.wait_for_status("Random pruning is shown")
    assert re.search(
        r"Random, 20 seeds: same answer in \d+ · answer region kept \d+–\d+", visitor.text(".ap-random-text")
    )
    visitor.page.get_by_text("Diagnostics: is what is kept").click()
    expect(visitor.page.locator(".dg-findings tbody tr")).to_have_count(11)
    visitor.page.get_by_role("button", name="Compare with the other methods").click()
    visitor.wait_for_status("What other methods would keep")
    expect(visitor.page.locator(".dg-overlaps tbody tr")).to_have_count(len(METHODS) - 2)
    visitor.look("diagnostics", full_page=True)
    assert visitor.errors == []


def test_model_resolution_and_explanations(visit):
    visitor = visit()
    visitor.page.get_by_label("at model resolution").click()
    visitor.page.locator(".pc-how summary").click()
    assert "Differs from the paper or its code" in visitor.text(".pc-how .ps-i-text")
    visitor.page.keyboard.press("Escape")
    assert not visitor.page.locator(".pc-how .ps-i-text").is_visible()
    visitor.page.locator(".ap-verdict summary").click()
    assert "Same: equal" in visitor.text(".ap-how .ps-i-text")


def test_benchmarks_tab_shows_curve_and_tables(visit):
    visitor = visit()
    visitor.page.get_by_role("tab", name="Benchmarks").click()
    visitor.page.wait_for_selector("#accuracy .js-plotly-plot .scatterlayer")
    assert visitor.page.get_by_text("full picture").filter(visible=True).count()
    visitor.look("benchmarks", full_page=True)
    assert visitor.errors == []


def test_canvas_shows_the_kept_set_of_the_record(visit):
    """Dark where dropped, bright where kept: read off the pixels of the canvas."""
    visitor = visit()
    visitor.choose("Method", "Even grid")
    visitor.keep(64)
    visitor.ask()
    bright = visitor.page.evaluate(
        """() => { const c = document.querySelector('.pc-canvas'), n = 24, w = c.width / n, g = c.getContext('2d'), out = [];
        for (let i = 0; i < n * n; i++) { const d = g.getImageData(Math.round((i % n + .4) * w), Math.round((Math.floor(i / n) + .4) * w), 3, 3).data;
        let s = 0; for (let k = 0; k < d.length; k += 4) s += d[k] + d[k + 1] + d[k + 2]; out.push(s / 27); } return out; }"""
    )
    said = visitor.page.locator(".pc-live")
    rows = visitor.table(576).all_inner_texts()[1:]
    kept = [int(r.split()[0]) for r in rows if "kept" in r.split()]
    assert len(kept) == 64
    assert sorted(i for i, b in enumerate(bright) if b > 90) == sorted(kept), said


def test_keyboard_alone(visit):
    """Example, share, run, a token and a stage, without a mouse."""
    visitor = visit()
    page = visitor.page
    page.locator(".es button").nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".es button:nth-child(2)[aria-pressed=true]")
    page.locator("#count input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    visitor.begin(by_keyboard=True)
    visitor.wait_for_status("^Done")
    count = page.locator("#count input[type=number]").input_value()
    expect(page.locator(".pc-stops strong").last).to_have_text(count)  # the run before kept another number
    page.locator(".pc-canvas").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert "row 3, column 1" in page.locator(".pc-live").inner_text()
    page.keyboard.press("Enter")
    assert page.locator(".pc-card").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(".pc-card").is_visible()
    page.locator(".pc-stops button[aria-selected=true]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".pc-stops button[aria-selected=true] strong").inner_text() == "576"


def test_examples_switch_to_their_recorded_runs(visit):
    visitor = visit()
    headlines = []
    for number in range(visitor.page.locator(".es button").count()):
        visitor.pick(number)
        visitor.page.wait_for_timeout(400)
        headlines.append((visitor.text(".ap-question"), visitor.text(".pc-headline")))
        assert visitor.text(".pc-chip.recorded") == "Recorded run"
    assert len({question for question, _ in headlines}) >= 5


def test_a_suggested_question_is_asked_at_once(visit):
    visitor = visit()
    chip = visitor.page.locator(".ac-list button").nth(1)
    question = chip.inner_text()
    chip.click()
    visitor.wait_for_status("^Done")
    assert visitor.text(".ap-question") == question


def test_my_own_picture_by_upload_drop_and_paste(visit, tmp_path):
    visitor = visit()
    page = visitor.page
    page.locator("input[type=file]").set_input_files(save(tmp_path / "mine.png"))
    visitor.wait_for_status("Your picture is in place")
    visitor.ask("What color is the star?")
    assert visitor.stops() == [576, 64]
    assert "drawn scene" in visitor.text(".ap-notes"), "noise is not a drawn scene, and the page says so"
    data = (tmp_path / "mine.png").read_bytes()
    for event in ("drop", "paste"):
        visitor.page.locator(".es button").first.click()
        visitor.wait_for_status("recorded run")
        page.evaluate(
            """([bytes, event]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], 'x.png', {type: 'image/png'}));
                const target = event === 'drop' ? document.querySelector('.pc-canvas') : document;
                const made = event === 'drop' ? new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})
                    : new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true});
                target.dispatchEvent(made);
            }""",
            [list(data), event],
        )
        visitor.wait_for_status("Your picture is in place")
    assert visitor.errors == []


def test_a_wide_picture_shows_what_the_model_does_not_receive(visit, tmp_path):
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(save(tmp_path / "wide.png", (900, 300)))
    visitor.wait_for_status("Your picture is in place")
    visitor.ask("What color is the star?")
    edge = visitor.page.evaluate(
        "() => { const c = document.querySelector('.pc-canvas'); return [...c.getContext('2d').getImageData(8, c.height >> 1, 1, 1).data]; }"
    )
    assert max(abs(v - 100) for v in edge[:3]) < 40, "the margin outside the square view is greyed out"


def test_two_visitors_at_once_see_only_their_own(visit, server):
    one, two = visit(first=True), visit(first=True)
    one.pick(2)
    one.choose("Method", "FastV")
    two.choose("Method", "VisionZip")
    two.keep(36)
    for visitor, question in ((one, "How many objects are there?"), (two, "Where is the ring?")):
        visitor.page.get_by_label("Question", exact=True).fill(question)
    with server.holding():
        for visitor in (one, two):
            visitor.page.get_by_role("button", name="Run", exact=True).click()
            visitor.wait_for_status("…")
    for visitor in (one, two):
        visitor.wait_for_status("^Done")
    assert one.text(".ap-question") == "How many objects are there?"
    assert two.text(".ap-question") == "Where is the ring?"
    assert "FastV" in one.text(".pc-chips")
    assert "VisionZip" in two.text(".pc-chips")
    assert (one.stops()[-1], two.stops()[-1]) == (64, 36)


def test_going_on_during_a_run_leaves_the_new_example_alone(visit, server):
    visitor = visit()
    visitor.page.get_by_label("Question", exact=True).fill("Describe the picture.")
    with server.holding():
        visitor.page.get_by_role("button", name="Run", exact=True).click()
        visitor.wait_for_status("…")
        server.wait_for_runs(1)
        visitor.page.locator(".es button").nth(2).click()
        visitor.wait_for_status("recorded run")
        asked, headline = visitor.text(".ap-question"), visitor.text(".pc-headline")
    server.wait_for_runs(0)
    visitor.wait_until_quiet()
    assert (visitor.text(".ap-question"), visitor.text(".pc-headline")) == (asked, headline)
    assert "recorded run" in visitor.status()
    assert visitor.page.locator(".es button").nth(2).get_attribute("aria-pressed") == "true"


def test_a_second_click_begins_anew_and_the_last_question_wins(visit, server):
    visitor = visit()
    visitor.page.get_by_label("Question", exact=True).fill("Describe the picture.")
    with server.holding():
        visitor.page.get_by_role("button", name="Run", exact=True).click()
        visitor.wait_for_status("…")
        server.wait_for_runs(1)
        asked = visitor.page.locator(".ac-list button").nth(1).inner_text()
        visitor.page.locator(".ac-list button").nth(1).click()
        expect(visitor.page.locator(".ap-question")).to_have_text(asked)
    visitor.wait_for_status("^Done")
    server.wait_for_runs(0)
    visitor.wait_until_quiet()
    assert visitor.text(".ap-question") == asked
    assert visitor.status().startswith("Done")


def test_stop_during_a_run_frees_the_page(visit, server):
    visitor = visit()
    before = visitor.text(".pc-headline"), visitor.text(".ap-question")
    visitor.page.get_by_label("Question", exact=True).fill("Describe the picture.")
    with server.holding():
        visitor.page.get_by_role("button", name="Run", exact=True).click()
        visitor.wait_for_status("…")
        server.wait_for_runs(1)
        visitor.page.get_by_role("button", name="Stop").click()
        visitor.wait_for_status("Stopped")
        server.wait_for_runs(0)
    assert (visitor.text(".pc-headline"), visitor.text(".ap-question")) == before
    visitor.ask("Where is the ring?")


def test_a_new_picture_takes_the_old_figures_off_the_page(visit, tmp_path):
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(save(tmp_path / "mine.png"))
    visitor.wait_for_status("Your picture is in place")
    assert not visitor.page.locator(".cs-figures").is_visible()
    assert not visitor.page.locator(".lc-plot").is_visible()
    assert visitor.page.locator(".es button[aria-pressed=true]").count() == 0
    assert not visitor.page.get_by_role("button", name="Random ×20").is_enabled()


def test_parameters_come_from_the_declaration_and_reach_the_run(visit):
    visitor = visit()
    visitor.page.get_by_text("Advanced").click()
    visitor.choose("Normalise tokens", "l2")
    visitor.ask()
    assert "normalise = l2" in visitor.text(".pc-chips")
    visitor.choose("Method", "FastV")
    visitor.page.get_by_label("Layer K").first.wait_for()
    assert not visitor.page.get_by_label("Normalise tokens").is_visible()


@pytest.mark.parametrize(
    ("name", "width", "height", "query"),
    [
        ("light-1280", 1280, 720, ""),
        ("dark-1366", 1366, 768, "?__theme=dark"),
        ("phone-390", 390, 844, ""),
        ("wide-1920", 1920, 1080, ""),
    ],
)
def test_looks(visit, name, width, height, query):
    visitor = visit(width=width, height=height, query=query)
    visitor.page.wait_for_timeout(2500)
    wider = visitor.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wider <= 0, "nothing sticks out sideways"
    visitor.look(name, full_page=width < 700)
    if width >= 1280:
        status = visitor.page.locator(".sl").bounding_box()
        assert status["y"] + status["height"] <= height, "what goes on is said on the first screen"
        bottom = visitor.page.locator(".pc-stages").bounding_box()
        assert bottom["y"] + bottom["height"] <= height, "picture, stages and answers fit without scrolling"
        run = visitor.page.get_by_role("button", name="Run", exact=True).bounding_box()
        assert run["y"] + run["height"] <= height
