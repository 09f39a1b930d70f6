"""The Weight pruning tab as people use it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pruning.engine.plan import make_plan
from pruning.records.plan import PlanRequest, StructuralPlan, Trajectory
from support.tiny_models import make_tiny_adapter
from support.visitor import Visitor

pytestmark = pytest.mark.browser

GOING = "[...document.querySelectorAll('.hm-cell')].map((c) => c.classList.contains('goes'))"


def said(visitor: Visitor) -> str:
    return visitor.text("#plan-status .sl-text")


def wait_until_said(visitor: Visitor, pattern: str) -> str:
    words = "(p) => new RegExp(p).test(document.querySelector('#plan-status .sl-text').textContent)"
    visitor.page.wait_for_function(words, arg=pattern)
    return said(visitor)


def bring(visitor: Visitor, path) -> None:
    with visitor.page.expect_file_chooser() as waiting:
        visitor.page.get_by_role("button", name="Open plan").click()
    waiting.value.set_files(path)


def going(visitor: Visitor) -> int:
    return sum(visitor.page.evaluate(GOING))


@pytest.fixture
def enter(visit):
    """A visitor who stands before the plan that the tab opens with."""

    def visitor_with_a_plan(**kwargs) -> Visitor:
        visitor = visit(**kwargs)
        visitor.page.get_by_role("tab", name="Weight pruning").click()
        visitor.page.wait_for_selector(".ph-headline:not(:empty)")
        wait_until_said(visitor, "^The plan is made")
        return visitor

    return visitor_with_a_plan


def test_it_opens_with_maps_and_the_threshold_recolours_without_a_request(enter):
    visitor = enter()
    page = visitor.page
    assert "of 78 heads" in visitor.text(".ph-headline")
    assert page.locator(".hm-map").count() == 2
    assert page.locator(".hm-cell").count() == 78
    assert page.locator(".ps-sums tbody tr").count() == 3
    assert page.locator(".fb-bar").count() == 5 * 2 + 8 * 3
    assert "come with it" in visitor.text(".gc-none"), "gates that were trained are offered"
    planned = going(visitor)
    assert visitor.text(".hm-said").startswith(f"{planned} of 78 heads removed")
    page.wait_for_timeout(800)
    before = len(visitor.requests)
    slider = page.locator(".hm-slider")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    assert going(visitor) == planned + 3
    assert page.locator(".hm-cell.other").count() == 3
    assert visitor.text(".hm-said").startswith(f"{planned + 3} of 78 heads removed")
    slider.press("End")
    assert going(visitor) == 78 - 13, "every layer keeps a head"
    slider.press("Home")
    assert going(visitor) == 0
    for mode in ("Effective rank", "KS"):
        page.get_by_role("radio", name=mode, exact=True).click()
        slider.press("ArrowRight")
        assert mode.lower() in visitor.text(".hm-said").lower()
    page.get_by_role("button", name="Back to the plan").click()
    assert going(visitor) == planned
    assert page.locator(".hm-cell.other").count() == 0
    page.wait_for_timeout(300)
    assert len(visitor.requests) == before
    assert visitor.errors == []
    assert visitor.foreign == []
    visitor.look("structure", full_page=True)


def test_a_head_shows_its_curves_by_keyboard_alone(enter):
    visitor = enter()
    page, keys = visitor.page, visitor.page.keyboard
    page.locator("[role=gridcell][tabindex='0']").first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        keys.press(key)
    page.wait_for_selector(".hc:not([hidden])")
    assert visitor.text(".hc-title").startswith("vision tower, layer 1, head 1")
    assert "1 − k/n for every head" in visitor.text(".hc-says")
    assert page.locator(".hc-spectrum .bar").count() == 32
    assert page.locator(".hc-curves .line").count() == 2
    assert page.locator(".hc-curves .gap").count() == 1
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("layer 1, head 1, score"), "the focus stays where it was"
    assert page.locator(".hm-plane .dot").count() == 78
    assert page.locator(".hm-plane .dot.goes").count() == going(visitor)
    assert page.locator(".hm-plane .dot.chosen title").text_content().startswith("vision tower, layer 1, head 1")
    page.locator(".hc-attention").focus()
    keys.press("Enter")
    page.wait_for_selector(".hc-attentions figure:not([hidden])")
    assert "of its attention goes to the picture" in visitor.text(".hc-attentions figcaption")
    assert visitor.text(".hc-title").startswith("vision tower, layer 1, head 1")
    page.locator(".hm-plane .dot").nth(70).dispatch_event("click")
    page.wait_for_function("document.querySelector('.hc-title').textContent.startsWith('language model')")
    assert not page.locator(".hc-attentions figure").is_visible()
    visitor.look("structure-head", full_page=True)
    assert visitor.errors == []


def test_plan_and_token_pruner_act_in_one_run_and_both_are_visible(enter):
    visitor = enter()
    page = visitor.page
    visitor.choose("Score", "Magnitude of weights")
    visitor.choose("Feed-forward ranks", "keep full rank")
    page.get_by_label("τ: mass that may be given up").first.wait_for(state="hidden")
    page.get_by_role("button", name="Make a plan").click()
    page.wait_for_function("document.querySelector('.ph-headline').textContent.startsWith('Magnitude')")
    heads = re.search(r"\d+ of 78 heads", visitor.text(".ph-headline"))[0]
    page.get_by_role("button", name="Run with this plan").click()
    wait_until_said(visitor, "^Done")
    pruned = page.locator("#plan-answers .ap-answer.pruned .ap-count")
    assert pruned.inner_text() == f"64 visual tokens · {heads}"
    page.get_by_role("tab", name="Explore").click()
    chips = visitor.text(".pc-chips")
    assert "ResPrune" in chips
    assert f"Magnitude of weights: {heads}" in chips
    assert heads in visitor.text(".pc-headline")
    assert visitor.stops() == [576, 64]
    visitor.look("structure-in-explore")
    page.get_by_role("tab", name="Weight pruning").click()
    page.get_by_label("all, so that only the weights differ").check()
    page.get_by_role("button", name="Run with this plan").click()
    page.wait_for_function("document.querySelector('#plan-answers .ap-count').textContent === '576 visual tokens'")
    page.wait_for_function(
        "document.querySelectorAll('#plan-answers .ap-count')[1].textContent.startsWith('576 visual tokens ·')"
    )
    assert visitor.errors == []


def test_a_plan_is_saved_and_opened_and_what_is_none_is_refused(enter, tmp_path):
    visitor = enter()
    page = visitor.page
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save plan").click()
    waiting.value.save_as(tmp_path / "mine.zip")
    plan = StructuralPlan.load(tmp_path / "mine.zip")
    headline = visitor.text(".ph-headline")
    other = make_plan(make_tiny_adapter(), PlanRequest("<b>other</b>", score="magnitude", heads=0.5))
    other.save(tmp_path / "other.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 this is none")
    for name, sentence in (
        ("bad.zip", "not a structural plan"),
        ("other.zip", "made for other weights \\(<b>other</b>\\)"),
    ):
        bring(visitor, tmp_path / name)
        wait_until_said(visitor, sentence)
        assert page.locator("#plan-status .sl.error").count() == 1
        assert visitor.text(".ph-headline") == headline
    gates = np.linspace(1, 0.5, 20)[:, None] * np.ones(78)
    terms = {"loss": np.ones(20), "task": np.zeros(20), "target": np.linspace(0, 0.3, 20)}
    trained = replace(plan, training=Trajectory(np.arange(20), gates, terms, {"rate": 0.01}), title="Trained")
    trained.save(tmp_path / "mine.zip")
    bring(visitor, tmp_path / "mine.zip")
    wait_until_said(visitor, "^The plan was opened")
    assert visitor.text(".ph-headline").startswith("Trained: 55 of 78 heads")
    assert plan.digest[:12] in visitor.text(".ph-facts")
    assert page.locator(".gc-gates .line").count() == 79, "one for every gate, one for what was planned"
    assert page.locator(".gc-gates .line.gone").count() == 78 - 55
    assert visitor.text(".gc-none") == ""
    visitor.look("structure-trained", full_page=True)
    assert visitor.errors == []


def test_the_gates_that_come_with_the_model(enter):
    visitor = enter()
    visitor.choose("Score", "InfoPrune, trained gates")
    visitor.page.get_by_role("button", name="Make a plan").click()
    visitor.page.wait_for_function("document.querySelector('.ph-headline').textContent.includes('trained gates')")
    assert "21 of 30 heads" in visitor.text(".ph-headline")
    assert visitor.page.locator(".gc-gates .line.gone").count() == 9
    assert "sparsity 0.3" in visitor.text(".gc-recipe")
    assert visitor.errors == []


def test_two_visitors_keep_their_own_plans(enter, server):
    one, two = enter(first=True), enter(first=True)
    two.page.locator("#heads-out input[type=number]").fill("60")
    two.page.locator("#heads-out input[type=number]").press("Enter")
    two.page.get_by_role("button", name="Make a plan").click()
    two.page.wait_for_function("document.querySelector('.ph-headline').textContent.includes('31 of 78 heads')")
    with server.holding():
        for visitor in (one, two):
            visitor.page.get_by_role("button", name="Run with this plan").click()
            wait_until_said(visitor, "…")
    for visitor, heads in ((one, "55 of 78 heads"), (two, "31 of 78 heads")):
        wait_until_said(visitor, "^Done")
        assert heads in visitor.text("#plan-answers .ap-answer.pruned .ap-count")


def test_a_phone_in_the_dark_has_room(enter):
    visitor = enter(width=390, height=844)
    page = visitor.page
    page.get_by_role("button", name="Light or dark").click()
    page.locator(".hm-cell").nth(8).click()
    page.wait_for_selector(".hc:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('.hm-cell')].map((c) => Math.min(c.offsetWidth, c.offsetHeight))"
    )
    assert min(sizes) >= 24
    fill = "getComputedStyle(document.querySelector('.fb-bar i')).backgroundColor"
    assert page.evaluate(fill) == "rgb(86, 180, 233)", "the dark page has its own blue"
    visitor.look("structure-phone-dark", full_page=True)
    assert visitor.errors == []
