"""Drawn scenes with questions, for calibrating, training and judging the bundled model: endless, and never the same
ones for training and for judging.

The only file outside the recipe that opens it, and only when one of these is asked for: nothing that the page or a
run needs leads here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning.inputs.questions import Pair

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DrawnPairs:
    """Number i is one question, of any kind with a short answer, about training scene i. Of judging scenes see
    `judged`.
    """

    title: str = "drawn scenes"

    def __getitem__(self, number: int) -> Pair:
        from pruning.demo_model.evaluation.judge import SHORT_KINDS
        from pruning.demo_model.training.architecture import SIDE
        from pruning.demo_model.world.questions import ask_many
        from pruning.demo_model.world.scene import draw, sample_scene, scene_rng

        rng = scene_rng("train", 5_000_000 + number)  # apart from those that the model itself was trained on
        scene = sample_scene(rng)
        picture, _ = draw(scene, SIDE)
        [question] = ask_many(scene, rng, 1, SHORT_KINDS) or ask_many(scene, rng, 1, ("count_all",))
        return Pair(picture, question.text, question.answer)


def judged(number: int) -> tuple[Pair, np.ndarray]:
    """One question about evaluation scene `number`, with its true answer, and the ids of the tokens that hold it."""
    from pruning.demo_model.evaluation.judge import SHORT_KINDS, items

    picture, [item] = items(number, SHORT_KINDS, at_most=1)
    return Pair(picture, item.question.text, item.question.answer), item.evidence
