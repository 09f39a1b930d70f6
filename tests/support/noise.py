"""A calibration set of noise, for plans of models whose weights are random."""

from __future__ import annotations

import numpy as np

from pruning.inputs.questions import Pair

TWO_QUESTIONS = ("What color is the star?", "How many things are in the picture?")


class Noise:
    """Pairs of a picture of noise (60 x 90 pixels) and one of `questions`, in turn; pair `n` is drawn with seed `n`."""

    title = "noise"

    def __init__(self, *questions: str) -> None:
        self.questions = questions or ("What is it?",)

    def __getitem__(self, number: int) -> Pair:
        picture = np.random.default_rng(number).integers(0, 255, (60, 90, 3), dtype=np.uint8)
        return Pair(picture, self.questions[number % len(self.questions)])
