"""What a person may ask: the door that every question passes."""

from __future__ import annotations

import unicodedata

from pruning.errors import QuestionRejectedError

MAX_LENGTH = 500


def clean_question(question: object) -> str:
    """The question as one line without control characters.

    Raises:
        QuestionRejectedError: if it is not text, empty, or longer than `MAX_LENGTH` characters.
    """
    if not isinstance(question, str):
        raise QuestionRejectedError("The question is not text.", "Type a question about the picture.")
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in question)
    # Surrogates and invisible format characters (bidi overrides, zero-width spaces) carry no question.
    kept = "".join(c for c in kept if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn"))
    text = " ".join(kept.split())
    if not text:
        raise QuestionRejectedError("The question is empty.", "Ask something about the picture.")
    if len(text) > MAX_LENGTH:
        raise QuestionRejectedError(
            f"The question has {len(text)} characters; the limit is {MAX_LENGTH}.", "Shorten it."
        )
    return text
