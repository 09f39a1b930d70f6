"""Describe the kept set of a run in figures, each beside what random sets of the same size give.

Read off the frozen record, without torch. What only tensors can tell (`Traits`, by `pruning.metrics.token_statistics`)
and what other methods would keep (`Overlap`, by `pruning.engine.overlap`) was worked out while a model was at hand;
records without them open as well, and say so.

Everything is about the tokens that are left after the last stage, as they lie in the picture: a method that cuts late
has read all of them before. "Random" is `DRAWS` sets of as many tokens, drawn evenly without replacement, always the
same ones; where its mean has a formula, that is given, and the range (5th to 95th percentile) comes from the draws. For
the cosine and for effective ranks it is the mean of five other draws, without a range.

- *Coverage*: from every token that is not kept to the nearest kept one, in steps of its tile's grid (Euclidean); in a
  tile where nothing is kept, the tile's diagonal. And the cosine of the two most alike, by what the language model
  would read.
- *Overlap* of two kept sets A and B: |A n B| / |A|, for a random B |B| / all; Jaccard: |A n B| / |A u B|.
- *Top and bottom row*: share of what is kept that lies in the first or last row of its tile.
- *Effective rank*: exp of the entropy of the singular values taken as shares (Roy and Vetterli, "The effective rank",
  EUSIPCO 2007), of the matrix of visual tokens, rows neither centred nor scaled.
- *Attention entropy*: of the [CLS] row in the layer that feeds the projector, mean over its heads, as shares of what
  the picture gets; and of what the words of the full answer attend to (mean over words, heads and layers of the
  language model), which every family has. AgilePruner (arXiv 2603.01236) reads a picture by effective rank and
  attention entropy; its exact matrices were not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.records.diagnostics import Overlap

if TYPE_CHECKING:
    from pruning.layout import TokenLayout
    from pruning.records.run import RunRecord

DRAWS = 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of a run.

    Attributes:
        unit: steps, share, cosine, rank or nats. value: None where it is not known; `means` then says why.
        chance: what is expected of a random kept set; `low`, `high`: the range over the draws. None where chance has
            no say.
        most: the largest value possible, where there is one to compare with.
        means: one line for a person.
    """

    key: str
    name: str
    unit: str
    value: float | None
    means: str
    chance: float | None = None
    low: float | None = None
    high: float | None = None
    most: float | None = None

    @property
    def apart(self) -> bool:
        """Whether the value lies outside of what nine in ten random sets give."""
        if self.value is None or self.low is None or self.high is None:
            return False
        return not self.low <= self.value <= self.high


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings; the share kept in every row of the picture's finest view, from the top; and the overlaps."""

    findings: tuple[Finding, ...]
    rows: tuple[float, ...]
    overlaps: tuple[Overlap, ...]

    def figures(self) -> dict[str, Any]:
        """JSON-ready, for exports: findings by key without their words, to six digits, and overlaps."""
        numbers = ("value", "chance", "low", "high", "most")
        known = {}
        for f in self.findings:
            given = {name: getattr(f, name) for name in numbers}
            known[f.key] = {"unit": f.unit} | {name: round(v, 6) for name, v in given.items() if v is not None}
        return {"findings": known, "share_kept_by_row": list(self.rows), "overlaps": [asdict(o) for o in self.overlaps]}


def diagnose(record: RunRecord) -> Diagnosis:
    """Everything that a record can tell; some milliseconds."""
    layout, kept, n = record.layout, record.kept, record.layout.n_tokens
    drawn = random_sets(n, len(kept))
    away, random_away = uncovered(layout, kept), [uncovered(layout, np.flatnonzero(one)) for one in drawn]
    top, bottom = edge_rows(layout)
    found = [
        _beside(
            "coverage", "distance to the nearest kept visual token, mean", "steps",
            away.mean(), [a.mean() for a in random_away],
            "Distance of tokens that were not kept to the nearest kept one, in steps of the grid. Small: the kept "
            "visual tokens are spread over the full picture.",
        ),
        _beside(
            "coverage_worst", "the same, largest", "steps", away.max(), [a.max() for a in random_away],
            "The middle of the largest hole: details that lie there have no kept visual token near them.",
        ),
        _likeness(record),
        _beside(
            "top_row", "in the top row", "share", share(kept, top), shares(drawn[:, top], len(kept)),
            "Share of the kept visual tokens in the top row. Far from random on many pictures: the method goes by "
            "the place, not by what is there.", len(top) / n,
        ),
        _beside(
            "bottom_row", "in the bottom row", "share", share(kept, bottom), shares(drawn[:, bottom], len(kept)),
            "The same for the bottom row, which the language model reads last.", len(bottom) / n,
        ),
        _beside(
            "random_overlap", "shared with random kept sets, mean", "share",
            shares(drawn[:, kept], len(kept)).mean(), shares(drawn[:, kept], len(kept)),
            "Share of the kept visual tokens that a random set of the same size keeps too, beside what is expected. "
            "Any two methods share about this much by accident.", len(kept) / n,
        ),
    ]  # fmt: skip
    answer_region = record.answer_region
    if answer_region is not None and len(answer_region):
        means = "Share of the visual tokens of the answer region that are kept; merged ones do not count here."
        values = shares(drawn[:, answer_region], len(answer_region))
        found.append(
            _beside(
                "answer_region", "answer region kept", "share", share(answer_region, kept), values, means, len(kept) / n
            )
        )
    return Diagnosis((*found, *_spectra(record)), rows_kept(layout, kept), record.overlaps)


def random_sets(n: int, count: int) -> np.ndarray:
    """Random kept sets of `count` tokens out of `n`, bool `[DRAWS, n]`; always the same ones."""
    drawn, rng = np.zeros((DRAWS, n), bool), np.random.default_rng(0)
    for one in drawn:
        one[rng.permutation(n)[:count]] = True
    return drawn


def share(ids: np.ndarray, among: np.ndarray) -> float:
    """Share of `ids` that is among others; 0 for no ids."""
    return float(np.isin(ids, among).mean()) if len(ids) else 0.0


def shares(hits: np.ndarray, of: int) -> np.ndarray:
    """How many of a row's entries are true, as a share of `of`."""
    return hits.sum(1) / max(1, of)


def _beside(
    key: str,
    name: str,
    unit: str,
    value: float,
    values: Sequence[float] | np.ndarray,
    means: str,
    expected: float | None = None,
) -> Finding:
    """A figure of the kept set and the same figure of every random one."""
    low, high = np.quantile(values, (0.05, 0.95))
    chance = np.mean(values) if expected is None else expected
    return Finding(key, name, unit, float(value), means, float(chance), float(low), float(high))


def distances(layout: TokenLayout, kept: np.ndarray) -> np.ndarray:
    """From every token to the nearest kept one of its tile, in steps of the grid, float64 `[tokens]`; the tile's
    diagonal where none is kept.
    """
    import cv2  # slow to import, and a record is read without it

    gone = np.ones(layout.n_tokens, np.uint8)
    gone[kept] = 0
    parts, start = [], 0
    for tile in layout.tiles:
        cells = gone[start : start + tile.n_tokens].reshape(tile.grid_hw)
        start += tile.n_tokens
        if cells.all():
            parts.append(np.full(tile.n_tokens, math.hypot(*tile.grid_hw)))
        else:
            away = cv2.distanceTransform(cells, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).ravel().astype(float)
            parts.append(np.sqrt(np.rint(away**2)))  # roots of whole numbers; as they come, the last digits vary
    return np.concatenate(parts)


def uncovered(layout: TokenLayout, kept: np.ndarray) -> np.ndarray:
    """`distances` of the tokens that are not kept; a single 0 where all are."""
    away = np.delete(distances(layout, kept), kept)
    return away if len(away) else np.zeros(1)


def edge_rows(layout: TokenLayout) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens in the first, and in the last, row of their tile."""
    rows, last = [], []
    for tile in layout.tiles:
        rows.append(np.repeat(np.arange(tile.grid_hw[0]), tile.grid_hw[1]))
        last.append(np.full(tile.n_tokens, tile.grid_hw[0] - 1))
    row = np.concatenate(rows)
    return np.flatnonzero(row == 0), np.flatnonzero(row == np.concatenate(last))


def rows_kept(layout: TokenLayout, kept: np.ndarray) -> tuple[float, ...]:
    """Share of every row that is kept, from the top of the picture, in the view with the most tokens; nothing for
    several pictures, which have no rows in common.
    """
    if layout.n_pictures > 1:
        return ()
    mine = np.isin(layout.tile_numbers(), layout.views()[0])
    _, row = np.unique(layout.positions()[mine, 0].round(6), return_inverse=True)
    stays = np.isin(np.arange(layout.n_tokens), kept)[mine]
    return tuple((np.bincount(row, stays) / np.bincount(row)).round(4).tolist())


def _likeness(record: RunRecord) -> Finding:
    key, name = "likeness", "cosine with the most similar kept visual token, mean"
    if record.nearest_cosine is None:
        return Finding(key, name, "cosine", None, "Not recorded in this run. Press Run, or use --diagnostics.")
    left = np.delete(record.nearest_cosine, record.kept)
    value = float(np.nan_to_num(left.astype(float)).mean()) if len(left) else 1.0
    means = "Cosine of each token that was not kept with its most similar kept one; 1 would be the same again."
    return Finding(key, name, "cosine", value, means, chance=record.traits.cosine_random if record.traits else None)


def _spectra(record: RunRecord) -> list[Finding]:
    """Effective ranks and entropies. Chance has a say only in what is about the kept set."""
    traits, n, kept = record.traits, record.layout.n_tokens, len(record.kept)
    unknown = "Not worked out in this run. Compare with the other methods does it too, or --diagnostics."

    def known(key: str, name: str, unit: str, value: float | None, means: str, **more: float | None) -> Finding:
        return Finding(key, name, unit, value, unknown if value is None else means, **more)

    found = [
        known(
            "effective_rank", "effective rank of the picture", "rank", traits.effective_rank if traits else None,
            "How many directions the visual tokens fill about evenly. Low: a simple picture, much of it repeats.",
            most=min(n, traits.width) if traits else None,
        ),
        known(
            "effective_rank_kept", "effective rank of what is kept", "rank",
            traits.effective_rank_kept if traits else None,
            "The same for the kept visual tokens alone. Above random: the method keeps unlike visual tokens.",
            chance=traits.effective_rank_random if traits else None,
            most=min(kept, traits.width) if traits else None,
        ),
    ]  # fmt: skip
    no_cls = "The vision tower has no [CLS]." if traits else unknown
    for key, who, entropy, means in (
        ("attention_entropy", "[CLS]", traits.attention_entropy if traits else None, no_cls),
        ("word_entropy", "the full answer", word_entropy(record.full.attention), "No word was recorded in this run."),
    ):
        if entropy is not None:
            means = (
                f"Spread of the attention: as if evenly over {math.exp(entropy):.0f} of {n} tokens. Low: few places."
            )
        found.append(Finding(key, f"attention entropy of {who}", "nats", entropy, means, most=math.log(n)))
    return found


def word_entropy(attention: np.ndarray | None) -> float | None:
    """Entropy in nats of what the words of an answer attend to `[words, tokens]`, their mean taken as shares; None
    where nothing of the picture was attended to.
    """
    total = np.zeros(1) if attention is None else attention.astype(float).sum(0)
    if total.sum() <= 0:
        return None
    p = total[total > 0] / total.sum()
    return float(-(p * np.log(p)).sum())


def amount(value: float, unit: str) -> str:
    """A figure as people read it; `steps` and `nats` are left to be said once."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.3f}" if unit == "cosine" else f"{value:.1f}" if unit == "rank" else f"{value:.2f}"


def value_words(found: Finding) -> str:
    """A finding's value with its unit."""
    if found.value is None:
        return "–"
    unit = f" {found.unit}" if found.unit in ("steps", "nats") else ""
    return f"{amount(found.value, found.unit)}{unit}"


def chance_words(found: Finding) -> str:
    """What random sets give, and the most possible; empty where neither is known."""
    parts = []
    if found.value is not None and found.chance is not None:
        spread = (
            ""
            if found.low is None or found.high is None
            else f" ({amount(found.low, found.unit)} to {amount(found.high, found.unit)})"
        )
        parts.append(f"{amount(found.chance, found.unit)}{spread}")
    if found.value is not None and found.most is not None:
        parts.append(f"at most {amount(found.most, found.unit)}")
    return ", ".join(parts)


def overlap_words(found: Overlap, kept: int, total: int) -> tuple[str, str, str]:
    """Shared tokens, what chance gives with its spread (hypergeometric), and Jaccard, for a run that keeps `kept`."""
    mean = kept * found.kept / total
    spread = math.sqrt(mean * (1 - kept / total) * (total - found.kept) / max(1, total - 1))
    union = kept + found.kept - found.shared
    return f"{found.shared} of {kept}", f"{mean:.1f} ± {spread:.1f}", f"{found.shared / max(1, union):.2f}"


def told(record: RunRecord) -> list[str]:
    """All of it as lines of text."""
    found, n = diagnose(record), record.layout.n_tokens
    lines = ["  diagnostics of what is kept at the end, beside random sets of the same size:"]
    for f in found.findings:
        others = chance_words(f) if f.chance is None else f"random {chance_words(f)}"
        value = value_words(f) if f.value is None else "; ".join(filter(None, (value_words(f), others)))
        lines.append(f"    {f.name}: {value}. {f.means}")
    if found.overlaps:
        lines.append("  kept by this run and by another method at the same keep ratio:")
    for o in found.overlaps:
        shared, chance, jaccard = overlap_words(o, len(record.kept), n)
        words = o.refused or f"keeps {o.kept}, shares {shared}; by chance {chance}; Jaccard {jaccard}"
        lines.append(f"    {o.title}: {words}")
    return lines
