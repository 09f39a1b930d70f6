"""JSON view of a run's diagnostics: every figure as text beside what random sets give."""

from __future__ import annotations

from typing import Any

from pruning.metrics.diagnostics import chance_words, diagnose, overlap_words, value_words
from pruning.records.run import RunRecord

OVERLAP_HOW = (
    "The other methods get the same question, keep ratio and seed, and their default parameters; what they keep in the "
    "end is compared. The picture is encoded once for all of them; a method inside the language model prefills up to "
    "its last cut, and no answer is generated.",
    "Shared: kept by this run and by the other method. By chance: what two sets of these sizes share on average, ± one "
    "standard deviation. Jaccard: shared over kept by either, 1 for equal sets.",
    "Random sets: 100 of the same size, drawn evenly. “≠ random” stands where a figure lies outside of what nine "
    "in ten of them give. The cosine and effective ranks stand beside the mean of five draws, without a range. "
    "Everything is about what is left after the last stage.",
)


def diagnosis_view(record: RunRecord) -> dict[str, Any]:
    """Return what the diagnostics panel needs."""
    found, kept, total = diagnose(record), len(record.kept), record.layout.n_tokens
    lines = [
        {
            "name": f.name,
            "value": value_words(f),
            "chance": chance_words(f),
            "apart": f.apart,
            "means": f.means,
        }
        for f in found.findings
    ]
    overlaps = []
    for o in found.overlaps:
        shared, chance, jaccard = overlap_words(o, kept, total)
        both = {"title": o.title, "refused": o.refused, "kept": o.kept}
        overlaps.append(both | {"shared": shared, "chance": chance, "jaccard": jaccard})
    return {
        "lines": lines,
        "rows": list(found.rows),
        "chance": kept / total,
        "overlaps": overlaps,
        "how": list(OVERLAP_HOW),
    }
