"""Whatever somebody sends or types, the page answers in a sentence, loses nothing, and goes on."""

from __future__ import annotations

import pytest

from support.visitor import save

pytestmark = pytest.mark.browser


BAD_FILES = {
    "empty.png": b"",
    "text.png": b"I am text",
    "cut.png": None,
    "page.html": b"<html><script>alert(1)</script></html>",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_a_sentence_and_nothing_is_lost(visit, tmp_path, name):
    visitor = visit()
    before = visitor.text(".pc-headline"), visitor.text(".ap-text")
    data = BAD_FILES[name]
    if data is None:
        data = save(tmp_path / "whole.png").read_bytes()[:500]
    (tmp_path / name).write_bytes(data)
    visitor.page.locator("input[type=file]").set_input_files(tmp_path / name)
    sentence = visitor.wait_for_status("empty|not a picture|damaged")
    assert "The picture before it is still here." in sentence
    assert (visitor.text(".pc-headline"), visitor.text(".ap-text")) == before
    visitor.ask()
    assert visitor.errors == []


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("", "The question is empty"),
        ("a" * 4001, "4001 characters; the limit is 4000"),
        ("What is <image> here?", "reads as a command"),
    ],
    ids=["empty", "endless", "placeholder"],
)
def test_a_bad_question_gets_a_sentence_and_nothing_is_lost(visit, question, sentence):
    visitor = visit()
    before = visitor.text(".pc-headline"), visitor.text(".ap-answer.full .ap-text")
    assert sentence in visitor.ask(question, expect=sentence)
    assert (visitor.text(".pc-headline"), visitor.text(".ap-answer.full .ap-text")) == before
    visitor.ask("Where is the ring?")
    assert visitor.errors == []


HOSTILE = [
    "<img src=x onerror=\"document.title='broken'\">",
    "<script>document.title='broken'</script>",
    "${document.title='broken'}",
    "{{constructor.constructor('document.title=1')()}}",
    "'; DROP TABLE tokens; --",
    "javascript:document.title='broken'",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_is_text(guest, text):
    visitor = guest
    visitor.ask(text)
    assert visitor.text(".ap-question") == text
    assert visitor.page.title() == "PruneScope"
    assert visitor.dialogs == []
    assert "not among the words" in visitor.text(".ap-notes")


def test_what_is_dropped_beside_the_canvas_is_taken_or_refused(visit):
    visitor = visit()
    drop = """([text]) => { const data = new DataTransfer(); data.setData('text/plain', text);
        document.querySelector('.side').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); }"""
    visitor.page.evaluate(drop, ["not a file"])
    visitor.wait_for_status("That was no picture file")
    visitor.ask()


@pytest.mark.parametrize(("typed", "expected"), [("0", 1), ("9999", 576), ("", None)])
def test_odd_numbers_of_tokens(visit, typed, expected):
    visitor = visit()
    box = visitor.page.locator("#count input[type=number]")
    box.fill(typed)
    box.press("Enter")
    visitor.page.wait_for_timeout(300)
    visitor.page.get_by_role("button", name="Run", exact=True).click()
    sentence = visitor.wait_for_status("^Done|must be a whole number|allowed are")
    if expected is not None and sentence.startswith("Done"):
        assert visitor.stops()[-1] == expected
    visitor.keep(64)
    visitor.ask()


def test_stop_without_a_run_says_ready(visit):
    visitor = visit()
    visitor.page.get_by_role("button", name="Stop").click()
    visitor.wait_for_status("Ready")


def test_a_model_that_is_not_there_is_explained(visit):
    visitor = visit()
    visitor.page.get_by_text("Advanced").click()
    visitor.choose("Model", "LLaVA-1.5 7B (7.06 B)")
    sentence = visitor.ask(expect="not on this computer")
    assert "--allow-download" in sentence
    visitor.choose("Model", "Bundled small model (6.5 M)")
    visitor.ask()
