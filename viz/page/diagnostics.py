"""The diagnostics of a run as the page shows them: plain data, every figure in words beside what random gives."""

from __future__ import annotations

from typing import Any

from pruning.metrics.diagnostics import chance_words, diagnose, overlap_words, value_words
from pruning.records.run import RunRecord

OVERLAP_HOW = (
    "The other methods are asked with the same question, share and seed and with their parameters as they come; what "
    "they keep in the end is compared. The tower looks at the picture once for all of them; a method inside the "
    "language model reads up to its last cut, and nobody answers.",
    "Shared: kept by this run and by the other method. By chance: what two sets of these sizes share on average, ± one "
    "standard deviation. Jaccard: shared over kept by either, 1 for equal sets.",
    "Random sets: 100 of the same size, drawn evenly. “≠ random” stands where a figure lies outside of what nine "
    "in ten of them give. The cosine and effective ranks stand beside the mean of five draws, without a range. "
    "Everything is about what is left after the last stage.",
)


def diagnosis_view(record: RunRecord) -> dict[str, Any]:
    """What the panel of diagnostics needs."""
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
