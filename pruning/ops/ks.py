"""The two-sample Kolmogorov-Smirnov statistic on numpy arrays."""

from __future__ import annotations

import numpy as np


def ks_two_sample(one: np.ndarray, other: np.ndarray) -> float:
    """Largest gap between the two samples' cumulative distributions, 0 .. 1; samples are `[n]` and `[m]`.

    Between a spectrum and its own first k values it is 1 - k/n whatever the spectrum, unless values tie across the
    cut; see `pruning.ops.spectra` for what that means.
    """
    points = np.concatenate([one, other]).astype(np.float64)
    below = [np.searchsorted(np.sort(s.astype(np.float64)), points, side="right") / len(s) for s in (one, other)]
    return float(np.abs(below[0] - below[1]).max())
