"""How many visual tokens a keep ratio means; the only place where a share of a count becomes a count."""

from __future__ import annotations

import math

from pruning.errors import BudgetError


def check_keep_ratio(keep_ratio: float) -> float:
    """Return the ratio as a float if it is a number in (0, 1].

    Raises:
        BudgetError: otherwise.
    """
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, int | float) or not math.isfinite(keep_ratio):
        raise BudgetError(f"The keep ratio is {keep_ratio!r}; it must be a number above 0 and at most 1.", "Try 0.11.")
    if not 0 < keep_ratio <= 1:
        advice = "Keep at least one visual token; 1 keeps all of them."
        raise BudgetError(f"The keep ratio is {keep_ratio:g}; it must be above 0 and at most 1.", advice)
    return float(keep_ratio)


def rounded(share: float, total: int, least: int = 1) -> int:
    """A share of a count as a count: the nearest integer (halves upwards), at least `least`."""
    return max(least, math.floor(share * total + 0.5))


def n_keep(keep_ratio: float, n_tokens: int) -> int:
    """Number of tokens to keep: the nearest integer (halves upwards), at least one, at most all."""
    return min(n_tokens, rounded(check_keep_ratio(keep_ratio), n_tokens))


def mean_per_layer(counts: list[int]) -> float:
    """Average number of visual tokens that a layer works on; `counts` has one entry a layer."""
    return sum(counts) / len(counts)


def check_count(count: int, n_tokens: int) -> int:
    """Return the count if it is between 1 and `n_tokens`.

    Raises:
        BudgetError: otherwise; names the allowed range.
    """
    if not 1 <= count <= n_tokens:
        raise BudgetError(
            f"A budget of {count} was asked for; this picture has {n_tokens} visual tokens on this model.",
            f"Choose 1 to {n_tokens}.",
        )
    return count
