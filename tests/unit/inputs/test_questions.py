"""The door that every question passes."""

from __future__ import annotations

import pytest

from pruning.errors import QuestionRejectedError
from pruning.inputs.questions import MAX_LENGTH, clean_question


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


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  What\n color?\t", "What color?"),
        ("a\u2028b", "a b"),
        ("What\x07 is\x1b[31m it?", "What is [31m it?"),
        ("\u202eevil\u202c text", "evil text"),
        ("日本語の質問は？", "日本語の質問は？"),
        ("ما لون النجمة؟", "ما لون النجمة؟"),
        ("<b>bold</b> & ${x} {{y}}", "<b>bold</b> & ${x} {{y}}"),
    ],
)
def test_one_line_without_controls_and_nothing_else_changes(raw, cleaned):
    assert clean_question(raw) == cleaned


@pytest.mark.parametrize("control", ["<image>", "</s>", "<s>", "<pad>", "<unk>"])
def test_control_tokens_of_the_model_are_refused_by_the_model(tiny, noise, control):
    with pytest.raises(QuestionRejectedError, match="reads as a command"):
        tiny.prompt(noise, f"What is {control} here?")
    assert tiny.prompt(noise, "What is image here?").visual.sum() == 36


def test_a_question_longer_than_the_model_reads_is_refused(tiny, noise):
    with pytest.raises(QuestionRejectedError, match="reads at most 512"):
        tiny.prompt(noise, "what " * 500)
