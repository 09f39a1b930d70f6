"""The keep ratio: which are allowed, and how many tokens it keeps."""

from __future__ import annotations

import math

import pytest

from pruning.budget import check_keep_ratio, n_keep
from pruning.errors import BudgetError


@pytest.mark.parametrize("ratio", [0, -0.1, 1.0001, math.nan, math.inf, "0.5", None, True])
def test_a_bad_ratio_is_named_with_what_is_allowed(ratio):
    with pytest.raises(BudgetError, match="above 0 and at most 1") as error:
        check_keep_ratio(ratio)
    assert error.value.hint


def test_rounding_is_to_the_nearest_never_to_nothing():
    assert [n_keep(k / 576, 576) for k in range(1, 577)] == list(range(1, 577))
    assert (n_keep(1e-9, 576), n_keep(1, 576), n_keep(0.5, 5)) == (1, 576, 3)
