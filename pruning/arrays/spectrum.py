"""The kind of `arrays.select` that belongs to structural pruning: what a matrix's spectrum says; names as in
`tests/golden/README.md`.
"""

from __future__ import annotations

from typing import Any

import torch

from pruning.ops.spectra import effective_rank, ks_two_sample, mass_curve
from pruning.structural.ranks import erank_rule, mass_rule
from pruning.structure import MatrixShape

POWER = {"sigma": 1, "sigma2": 2}


def _infoprune_spectrum(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    matrix, power = inputs["matrix"].double(), POWER[params["mass"]]
    values = torch.linalg.svdvals(matrix)
    rank = mass_rule(values, float(params["tau"]), power)
    return {
        "singular_values": values,
        "erank": float(effective_rank(values)),
        "mass_ks": (1 - mass_curve(values, len(values), power)).clamp(min=0),
        "rank_by_mass_ks": rank,
        "rank_by_erank": erank_rule(values, float(params["c"])),
        "truncation_error": float(values[rank:].square().sum()),
        "two_sample_ks_of_truncation": float(ks_two_sample(values, values[:rank])),
        "break_even_rank": MatrixShape("matrix", *matrix.shape).break_even,
    }


SPECTRUM_KINDS = {"infoprune_spectrum": _infoprune_spectrum}
