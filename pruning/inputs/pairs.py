"""Pictures with questions, for calibration and training: from a folder that a person brings. No labels are needed.

The folder holds picture files and `questions.json`: an object that names for each file the questions to ask about it,
`{"kitchen.jpg": ["How many cups are there?", "What colour is the table?"]}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pruning.errors import ParameterError
from pruning.inputs.images import read_picture
from pruning.inputs.questions import clean_question

FILE = "questions.json"


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
        return Pair(read_picture(self._folder / Path(name).name), question)
