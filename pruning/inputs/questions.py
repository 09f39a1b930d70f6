"""Check questions, and read pictures with questions from a folder (`questions.json`: file names to lists of questions)
for calibration and training.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruning.errors import ParameterError, QuestionRejectedError
from pruning.inputs.images import read_image

MAX_LENGTH = 100_000  # characters; a model's own context is usually shorter, and refuses by the count of tokens
FILE = "questions.json"
_KEPT_CONTROLS = "\n\t\r"


def clean_question(question: object, longest: int = MAX_LENGTH) -> str:
    """Return the question with everything that a tokenizer reads: line breaks, joiners, soft hyphens, marks of writing
    direction and characters that Unicode has not assigned stay. Control characters (other than line breaks and tabs)
    and lone surrogates, which no tokenizer reads, are taken out; `removed_characters` names them.

    Args:
        longest: characters that are allowed, at most `MAX_LENGTH`.

    Raises:
        QuestionRejectedError: if it is not text, empty, or longer than that.
    """
    if not isinstance(question, str):
        raise QuestionRejectedError("The question is not text.", "Type a question about the picture.")
    if len(question) > min(longest, MAX_LENGTH):
        raise QuestionRejectedError(
            f"The question has {len(question)} characters; the limit is {min(longest, MAX_LENGTH)}.", "Shorten it."
        )
    text = "".join(c for c in question if not _is_unreadable(c))
    if all(unicodedata.category(c) in ("Cc", "Cf") or c.isspace() for c in text):
        raise QuestionRejectedError("The question is empty.", "Ask something about the picture.")
    return text


def removed_characters(question: str) -> list[str]:
    """A note for the record on what `clean_question` takes out of a question; none where that is nothing."""
    removed = Counter(f"U+{ord(c):04X}" for c in question if _is_unreadable(c))
    if not removed:
        return []
    which = ", ".join(f"{name} ({n} times)" if n > 1 else name for name, n in sorted(removed.items())[:5])
    return [f"Control characters that no tokenizer reads were taken out of the question: {which}."]


def _is_unreadable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in _KEPT_CONTROLS


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A picture uint8 `[height, width, 3]` and a question; the true answer where it is known."""

    picture: np.ndarray
    question: str
    answer: str = ""


class FolderPairs:
    """The pairs of a folder, opened one at a time: number i is the i-th question, and after the last the first again.

    Raises:
        ParameterError: if there is no such folder or its `questions.json` names no question.
    """

    def __init__(self, folder: Path) -> None:
        self.title = f"{folder.name}/"
        self._folder = folder
        try:
            listed = json.loads((folder / FILE).read_text(encoding="utf-8"))
            self._questions = [(name, clean_question(q)) for name, asked in listed.items() for q in asked]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ParameterError(
                f"{folder} cannot be read as pictures with questions ({error}).",
                f'Put a {FILE} beside the pictures: {{"kitchen.jpg": ["How many cups are there?"]}}.',
            ) from error
        if not self._questions:
            raise ParameterError(f"{folder / FILE} names no question.", "Name at least one.")

    def __getitem__(self, number: int) -> Pair:
        name, question = self._questions[number % len(self._questions)]
        return Pair(read_image(self._folder / Path(name).name), question)
