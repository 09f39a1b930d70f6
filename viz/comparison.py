"""Compare the answers of a run with the full one, once for everything that shows or exports the outcome."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.metrics.agreement import Verdict, verdict
from pruning.records.run import RunRecord


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How the pruned answer and the one with a caption (None without one) agree with the full answer."""

    pruned: Verdict
    compensated: Verdict | None


def verdicts_of(record: RunRecord) -> Verdicts:
    """Return the verdicts of a run: the only place of the page and the exports that works them out."""
    third = None if record.compensated is None else verdict(record.full.text, record.compensated.answer.text)
    return Verdicts(verdict(record.full.text, record.pruned.text), third)
