"""Compare answers by one rule (`RULE`), for the page and for every count of equal answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pruning.metrics.token_fates import answer_region_kept
from pruning.records.run import RunRecord

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


def content(text: str) -> list[str]:
    """Words that carry the answer: lower case, numbers as digits, no punctuation, no articles."""
    words = re.findall(r"[\w']+", text.lower())
    return [_NUMBERS.get(w, w) for w in words if w not in _ARTICLES]


def telling_words(text: str) -> frozenset[str]:
    """The words of `content` that tell something: all but the small ones."""
    return frozenset(content(text)) - _SMALL


def verdict(full: str, pruned: str) -> Verdict:
    """The rule in `RULE`, as code."""
    a, b = content(full), content(pruned)
    if a == b:
        return Verdict.SAME
    if a[:1] == b[:1] and a[:1] in (["yes"], ["no"]):
        return Verdict.WORDING
    small, other = (sorted(w for w in words if w not in _SMALL) for words in (a, b))
    return Verdict.WORDING if small == other and small else Verdict.DIFFERS


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """How an answer relates to the full one: worked out once by `compare_answers` and handed on."""

    verdict: Verdict

    @property
    def same(self) -> bool:
        """Whether they say the same in the same words."""
        return self.verdict is Verdict.SAME

    @property
    def agrees(self) -> bool:
        """Whether they say the same, in whatever words."""
        return self.verdict is not Verdict.DIFFERS


@dataclass(frozen=True, slots=True)
class RunComparison:
    """How the pruned answer of a run, and the one with a caption if there is one, relate to its full answer."""

    pruned: AnswerComparison
    compensated: AnswerComparison | None = None


def compare_answers(full: str, other: str) -> AnswerComparison:
    """Compare an answer with the full one by `RULE`."""
    return AnswerComparison(verdict(full, other))


def compare_run(record: RunRecord) -> RunComparison:
    """Compare the answers of a run with its full one."""
    third = record.compensated
    return RunComparison(
        compare_answers(record.full.text, record.pruned.text),
        None if third is None else compare_answers(record.full.text, third.answer.text),
    )


def random_band(records: Sequence[RunRecord]) -> dict[str, object]:
    """Runs that differ in nothing but their seed, in short: how many answered as the full picture did, what they
    answered, how much of the answer region they kept (least, median, most, of; None where the truth is not known), and
    how many rows for the picture a layer reads on average.
    """
    answers = Counter(r.pruned.text for r in records)
    same = sum(compare_answers(r.full.text, r.pruned.text).same for r in records)
    answer_region = None
    if records[0].answer_region is not None and len(records[0].answer_region):
        kept = [held["kept"] for r in records if (held := answer_region_kept(r)) is not None]
        answer_region = [min(kept), int(np.median(kept)), max(kept), len(records[0].answer_region)]
    return {
        "seeds": len(records),
        "same": same,
        "answers": dict(answers.most_common()),
        "answer_region": answer_region,
        "average": records[0].counts["average"],
    }
