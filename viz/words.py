"""Two answers, compared: which words left, which came, and whether that changes what is said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

RULE = (
    "Same: equal after ignoring letter case, punctuation and articles, with numbers as digits. Wording differs: the "
    "same words in another order, or only small words (is, there, at, with, ...) differ, or both begin with the same "
    "yes or no. Differs: everything else."
)
_NUMBERS = {w: str(i) for i, w in enumerate("zero one two three four five six seven eight nine ten".split())}
_ARTICLES = frozenset(("a", "an", "the"))
_SMALL = frozenset("is are was were be there it its this that in on at of with and to you see can".split())


class Verdict(StrEnum):
    """How two answers relate. Nothing is said about which of them is right."""

    SAME = "Same"
    WORDING = "Wording differs"
    DIFFERS = "Differs"


@dataclass(frozen=True, slots=True)
class DiffWord:
    """A word of one answer; `fate` is `same`, `gone` (only in the full answer) or `new` (only in the pruned one)."""

    text: str
    fate: str


def content(text: str) -> list[str]:
    """Words that carry the answer: lower case, numbers as digits, no punctuation, no articles."""
    words = re.findall(r"[\w']+", text.lower())
    return [_NUMBERS.get(w, w) for w in words if w not in _ARTICLES]


def verdict(full: str, pruned: str) -> Verdict:
    """The rule in `RULE`, as code."""
    a, b = content(full), content(pruned)
    if a == b:
        return Verdict.SAME
    if a[:1] == b[:1] and a[:1] in (["yes"], ["no"]):
        return Verdict.WORDING
    small, other = (sorted(w for w in words if w not in _SMALL) for words in (a, b))
    return Verdict.WORDING if small == other and small else Verdict.DIFFERS


def word_diff(full: str, pruned: str) -> list[DiffWord]:
    """The pruned answer with the words it lost and gained, in reading order. Punctuation sticks to its word."""
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
    """Number (from 1) of the first word where the answers part, or None if they do not."""
    a, b = full.split(), pruned.split()
    for number, (x, y) in enumerate(zip(a, b, strict=False), start=1):
        if x.strip(".,;:!?").lower() != y.strip(".,;:!?").lower():
            return number
    return None if len(a) == len(b) else min(len(a), len(b)) + 1
