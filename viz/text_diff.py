"""Compare two answers word by word: removed and added words, and the first difference."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class DiffWord:
    """A word of one answer; `fate` is `same`, `gone` (only in the full answer) or `new` (only in the pruned one)."""

    text: str
    fate: str


def word_diff(full: str, pruned: str) -> list[DiffWord]:
    """Return the pruned answer with removed and added words in reading order. Punctuation belongs to its word."""
    a, b = full.split(), pruned.split()
    key = lambda words: [w.strip(".,;:!?\"'").lower() for w in words]  # noqa: E731
    diff: list[DiffWord] = []
    for op, i0, i1, j0, j1 in SequenceMatcher(None, key(a), key(b), autojunk=False).get_opcodes():
        if op == "equal":
            diff += [DiffWord(w, "same") for w in b[j0:j1]]
            continue
        diff += [DiffWord(w, "gone") for w in a[i0:i1]]
        diff += [DiffWord(w, "new") for w in b[j0:j1]]
    return diff


def first_difference(full: str, pruned: str) -> int | None:
    """Return the number (from 1) of the first word that differs, or None."""
    a, b = full.split(), pruned.split()
    for number, (x, y) in enumerate(zip(a, b, strict=False), start=1):
        if x.strip(".,;:!?").lower() != y.strip(".,;:!?").lower():
            return number
    return None if len(a) == len(b) else min(len(a), len(b)) + 1
