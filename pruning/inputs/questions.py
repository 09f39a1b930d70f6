"""What a person may ask: the door that every question passes."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruning.errors import ParameterError, QuestionRejectedError
from pruning.inputs.images import read_image

MAX_LENGTH = 500
FILE = "questions.json"


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
