"""Training data of the captioner: sets of discarded tokens, and true descriptions of what they held.

The sets are drawn, never taken from a pruner: random ones, grids, whole objects, and complements of a few tokens on
objects, from a handful of kept tokens to most of them. So the captioner serves any method at any budget.

This module knows nothing of models.
"""

from __future__ import annotations

import numpy as np

from pruning.demo_model.training.architecture import COLS, ROWS
from pruning.demo_model.world.questions import Question, phrase
from pruning.demo_model.world.scene import ZONES, Scene

N_PATCHES = ROWS * COLS
MAX_PHRASES = 5  # the language model was taught to read at most so many; a longer list stays unsaid
ENOUGH = 2  # objects that prove an "is there?"
SMALL_BUDGETS = (12, 72)  # kept tokens, half of the sets: where compensation is wanted
LARGE_BUDGETS = (72, 460)


def draw_discarded(owner: np.ndarray, rng: np.random.Generator, small: float = 0.7) -> np.ndarray:
    """Which tokens of one picture are discarded, bool `[patches]`. `owner` `[patches]`: number of the object that owns
    each, 0 for background. `small`: chance of a kept set out of `SMALL_BUDGETS`, else it is out of `LARGE_BUDGETS`.
    """
    low, high = SMALL_BUDGETS if rng.random() < small else LARGE_BUDGETS
    n_keep = int(np.exp(rng.uniform(np.log(low), np.log(high))))
    noise = rng.random(N_PATCHES)
    how = rng.choice(("random", "grid", "objects first", "whole objects"), p=(0.3, 0.15, 0.35, 0.2))
    discarded = np.ones(N_PATCHES, bool)
    if how == "grid":
        step = N_PATCHES / n_keep
        discarded[(rng.random() * step + step * np.arange(n_keep)).astype(int) % N_PATCHES] = False
        return discarded
    if how == "whole objects":  # some objects vanish without a trace, the others stay with some background
        n_objects = int(owner.max())
        gone = np.isin(owner, 1 + rng.permutation(max(1, n_objects))[: int(rng.integers(1, max(2, n_objects + 1)))])
        noise = np.where(gone, 2.0, np.where(owner > 0, noise - 1, noise))
        n_keep = min(n_keep, int((~gone).sum()))
    elif how == "objects first":  # a pruner that finds objects keeps some tokens of them, rarely of all evenly
        favour = rng.random(int(owner.max()) + 1) * 0.9
        favour[0] = 0.0
        noise = noise - favour[owner]
    discarded[np.argsort(noise)[:n_keep]] = False
    return discarded


def objects_in(owner: np.ndarray, discarded: np.ndarray) -> set[int]:
    """Indices of the objects of which at least one token was discarded."""
    return {int(i) - 1 for i in np.unique(owner[discarded]) if i > 0}


def caption_of(scene: Scene, question: Question, discarded: set[int]) -> str:
    """True words about the discarded objects that the question is about, in reading order; empty where nothing that
    matters was discarded, and where there is too much to say (part of a list would be worse than none).
    """
    about = _about(scene, question)
    told = [i for i in about if i in discarded]
    if question.kind == "exists":
        told = told[:ENOUGH]
    if len(told) > MAX_PHRASES:
        return ""
    things = sorted((scene.objects[i] for i in told), key=lambda o: (ZONES.index(o.zone), o.x))
    return ", ".join(phrase(o) for o in things)


def _about(scene: Scene, question: Question) -> list[int]:
    """The evidence; where the answer is "none" and everything is evidence, the objects that come near."""
    if question.answer not in ("no", "zero") or question.kind not in ("exists", "count"):
        return list(question.evidence)
    words = set(question.text.lower().rstrip("?.").replace("crosses", "cross").split())
    words |= {w.removesuffix("s") for w in words if w != "cross"}
    return [i for i in question.evidence if {scene.objects[i].shape, scene.objects[i].color} & words]
