"""Choose which visual tokens a training batch contains; never by a pruner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.demo_model.training.architecture import COLS, ROWS

N_PATCHES = ROWS * COLS
SHORT_UNTIL = 0.75  # of the phase: few tokens first, they are cheap and the objects are in them
WHOLE_FROM = 0.8  # of the phase: counting lags behind on full pictures, so the last drills show them


@dataclass(frozen=True, slots=True)
class View:
    """What a batch lets the language model see: `mode` is full, share, objects, thin or some."""

    mode: str
    amount: float

    @property
    def is_long(self) -> bool:
        """Does it show so many tokens that the picture costs more than its questions?"""
        return self.mode == "full" or (self.mode == "share" and self.amount > 0.4)

    @staticmethod
    def draw(rng: np.random.Generator, progress: float, *, drills: bool = False) -> View:
        """Short sequences first, the whole mixture later; in the end drills show (nearly) full pictures only."""
        if drills and progress > WHOLE_FROM:
            return View("full", 0.0) if rng.random() < 0.7 else View("share", float(rng.uniform(0.3, 1.0)))
        short = progress < SHORT_UNTIL
        chances = (0.0, 0.12, 0.55, 0.25, 0.08) if short else (0.3, 0.2, 0.2, 0.15, 0.15)
        mode = ("full", "share", "objects", "thin", "some")[rng.choice(5, p=chances)]
        if mode == "share":
            return View(mode, float(np.exp(rng.uniform(np.log(0.03), np.log(0.3 if short else 1.0)))))
        return View(mode, float(rng.integers(18, 128) if mode == "thin" else rng.integers(4, 64)))

    def keep(self, owner: np.ndarray, shown: list[set[int]], rng: np.random.Generator) -> np.ndarray:
        """Indices `[batch, k]`, ascending. `owner` `[batch, patches]`; `shown` names the visible objects per scene."""
        if self.mode == "full":
            return np.tile(np.arange(N_PATCHES), (len(owner), 1))
        noise = rng.random(owner.shape)
        if self.mode == "share":
            count = max(1, round(self.amount * N_PATCHES))
            return np.sort(np.argsort(noise, 1)[:, :count], 1)
        visible = np.stack([np.isin(row, [i + 1 for i in objects]) for row, objects in zip(owner, shown, strict=True)])
        hidden = (owner > 0) & ~visible
        count = int(self.amount) if self.mode == "thin" else min(N_PATCHES, int(visible.sum(1).max() + self.amount))
        count = min(count, int((~hidden).sum(1).min()))
        order = np.where(visible, _turn(owner, noise) / N_PATCHES - 2.0, noise + 2.0 * hidden)
        return np.sort(np.argsort(order, 1)[:, :count], 1)


def _turn(owner: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Place of every patch among those of its owner, in the order of `noise`, `[batch, patches]` from 0: whoever
    takes patches by it takes from every object in turn, so that a thinned picture loses no object.
    """
    first = np.lexsort((noise, owner))  # by owner, then by noise
    sorted_owner = np.take_along_axis(owner, first, 1)
    columns = np.arange(owner.shape[1])
    starts = np.diff(sorted_owner, axis=1, prepend=-1) != 0
    begun = np.maximum.accumulate(np.where(starts, columns, 0), 1)
    turn = np.empty(owner.shape, np.int64)
    np.put_along_axis(turn, first, columns - begun, 1)
    return turn
