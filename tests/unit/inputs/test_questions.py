"""The door that every question passes."""

from __future__ import annotations

import pytest

from pruning.engine.run import run
from pruning.errors import QuestionRejectedError
from pruning.inputs.questions import MAX_LENGTH, clean_question, removed_characters
from pruning.records.run import RunRequest


@pytest.mark.parametrize("question", ["", "   ", "\n\t", "\u200b\u200b", "\x00\x01", "\u202e"])
def test_nothing_is_not_a_question(question):
    with pytest.raises(QuestionRejectedError, match="empty"):
        clean_question(question)


@pytest.mark.parametrize("question", [None, 5, b"bytes", ["list"], {"a": 1}])
def test_only_text_is_a_question(question):
    with pytest.raises(QuestionRejectedError, match="not text"):
        clean_question(question)


def test_an_endless_question_is_refused_with_both_numbers():
    assert clean_question("a" * MAX_LENGTH)
    with pytest.raises(QuestionRejectedError, match=f"{MAX_LENGTH + 1} characters; the limit is {MAX_LENGTH}"):
        clean_question("a" * (MAX_LENGTH + 1))


KEPT = [
    "  What\n color?\t",
    "Is it red?\nAnswer the question using a single word or phrase.",
    "windows\r\nlines",
    "a\u2028b\u2029c",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with the joiner that its spelling needs
    "\u0915\u094d\u200d\u0937",  # Hindi, with the joiner that shapes its letters
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # one emoji of three
    "hy\u00adphen",
    "\u202eevil\u202c text",
    "new: \U0001fae8 \U000323b0 \u0378",  # new, newer than this Python, and not assigned
    "\ue000 private",
    "日本語の質問は？",
    "ما لون النجمة؟",
    "<b>bold</b> & ${x} {{y}}",
]


@pytest.mark.parametrize("raw", KEPT)
def test_what_a_tokenizer_reads_is_kept(raw):
    assert clean_question(raw) == raw
    assert removed_characters(raw) == []


def test_control_characters_go_and_a_note_says_so():
    raw = "What\x07 is\x1b[31m it\x07?\ud800"
    assert clean_question(raw) == "What is[31m it?"
    [note] = removed_characters(raw)
    assert "U+0007 (2 times), U+001B, U+D800" in note


def test_the_record_tells_what_was_taken_out(tiny, noise):
    record = run(RunRequest("tiny", "divprune", 0.5, "What\x07 is it?", max_new_tokens=2), tiny, noise)
    assert record.request.question == "What is it?"
    assert any("U+0007" in note for note in record.notes)
    plain = run(RunRequest("tiny", "divprune", 0.5, "What is it?\nOne word.", max_new_tokens=2), tiny, noise)
    assert plain.request.question == "What is it?\nOne word."
    assert not any("taken out" in note for note in plain.notes)


@pytest.mark.parametrize("control", ["<image>", "</s>", "<s>", "<pad>", "<unk>"])
def test_control_tokens_of_the_model_are_refused_by_the_model(tiny, noise, control):
    with pytest.raises(QuestionRejectedError, match="reads as a command"):
        tiny.prompt(noise, f"What is {control} here?")
    assert tiny.prompt(noise, "What is image here?").visual.sum() == 36


def test_a_question_longer_than_the_model_reads_is_refused(tiny, noise):
    with pytest.raises(QuestionRejectedError, match="reads at most 512"):
        tiny.prompt(noise, "what " * 500)
