"""Effective rank, distances between spectra, rank rules and low-rank matrices: `core.md`-style identities, no model."""

from __future__ import annotations

import pytest
import torch

from pruning.ops.lowrank import output_directions, thin_pair
from pruning.ops.spectra import effective_rank, ks_mass, ks_two_sample, mass_curve, shares, singular_values
from pruning.shapes import MatrixShape
from pruning.structural.ranks import below_break_even, bottleneck_rule, budget_rule, erank_rule, mass_rule

SEEDS = range(5)


def random(*shape, seed=0, decay=0.0) -> torch.Tensor:
    """A random matrix; with decay its singular values fall."""
    a = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if decay:
        u, s, v = torch.linalg.svd(a, full_matrices=False)
        a = u * (s * torch.exp(-decay * torch.arange(len(s)))) @ v
    return a


def erank(a: torch.Tensor) -> float:
    return float(effective_rank(torch.linalg.svdvals(a)))


def orthogonal(n: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(random(n, n, seed=seed)).Q


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_lies_between_one_and_rank(seed, rank):
    a = random(20, rank, seed=seed) @ random(rank, 8, seed=seed + 50)
    assert 1 - 1e-6 <= erank(a) <= rank + 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_effective_rank_knows_no_scale_and_no_rotation(seed):
    a = random(12, 7, seed=seed, decay=0.2)
    assert erank(-37.5 * a) == pytest.approx(erank(a), rel=1e-9)
    assert erank(orthogonal(12, seed + 1) @ a @ orthogonal(7, seed + 2)) == pytest.approx(erank(a), rel=1e-9)
    assert erank(orthogonal(9, seed)) == pytest.approx(9, rel=1e-9)
    assert erank(torch.block_diag(a, a)) == pytest.approx(2 * erank(a), rel=1e-9)


def test_effective_rank_of_extremes():
    assert erank(torch.outer(random(6, 1)[:, 0], random(4, 1)[:, 0])) == pytest.approx(1, abs=1e-6)
    assert erank(torch.zeros(4, 4, dtype=torch.float64)) == 0
    values = torch.tensor([[1.0, 1.0, 1e-9], [2.0, 0.0, 0.0]])
    assert effective_rank(values).tolist() == pytest.approx([2, 1])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gram_matrix_streamed_in_pieces_gives_the_same_spectrum(seed):
    y = random(200, 16, seed=seed, decay=0.3)
    gram = sum(text.T @ text for text in y.split(37))
    torch.testing.assert_close(singular_values(gram), torch.linalg.svdvals(y), rtol=1e-6, atol=1e-7)
    assert float(effective_rank(singular_values(gram))) == pytest.approx(erank(y), rel=1e-6)


def spectrum(n: int, seed: int) -> torch.Tensor:
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    return values.sort(descending=True).values


@pytest.mark.parametrize("distance", [ks_mass, ks_two_sample])
@pytest.mark.parametrize("seed", SEEDS)
def test_distances_are_distances(distance, seed):
    a, b, c = (spectrum(9, 10 * seed + i) for i in range(3))
    ab, bc, ac = (float(distance(x, y)) for x, y in ((a, b), (b, c), (a, c)))
    assert 0 < ab <= 1
    assert ab == float(distance(b, a))
    assert float(distance(a, a)) == 0
    assert ac <= ab + bc + 1e-12


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("k", [1, 4, 11])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_pitfall_two_sample_says_nothing_about_a_cut_and_mass_says_what_was_cut(seed, k, power):
    """Core of InfoPrune's criterion: of two spectra as different as they can be, only the mass version sees it."""
    n = 12
    places = torch.arange(n, dtype=torch.float64)
    for s in (spectrum(n, seed), torch.exp(-0.8 * places), 1 - 1e-3 * places):  # between steep and flat
        padded = torch.cat([s[:k], torch.zeros(n - k)])
        assert float(ks_two_sample(s, s[:k])) == pytest.approx(1 - k / n)
        assert float(ks_two_sample(s, padded)) == pytest.approx(1 - k / n)
        discarded = 1 - float(shares(s, power)[:k].sum())
        assert float(ks_mass(s, s[:k], power)) == pytest.approx(discarded, abs=1e-6)


def test_a_flat_spectrum_cut_short_is_the_one_exception():
    """Values that tie across the cut: the two-sample distance does not see it, unless zeros take their place."""
    flat = torch.ones(8)
    assert float(ks_two_sample(flat, flat[:3])) == 0
    assert float(ks_two_sample(flat, torch.cat([flat[:3], torch.zeros(5)]))) == pytest.approx(5 / 8)
    assert float(ks_mass(flat, flat[:3])) == pytest.approx(5 / 8)


def test_mass_curves_rise_to_one():
    curve = mass_curve(torch.tensor([1.0, 3.0]), 4)
    assert curve.tolist() == pytest.approx([0.75, 1, 1, 1])


@pytest.mark.parametrize("seed", SEEDS)
def test_truncation_is_the_best_one_and_its_error_is_the_discarded_squares(seed):
    w = random(10, 24, seed=seed).float()
    values, directions = output_directions(w)
    errors = []
    for k in (1, 3, 6, 9, 10):
        first, second = thin_pair(w, directions[:, :k])
        assert first.shape == (k, 24)
        assert second.shape == (10, k)
        error = float((w - second @ first).square().sum())
        assert error == pytest.approx(float(values[k:].square().sum()), rel=1e-3, abs=1e-5)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert torch.allclose(second @ first, w, atol=1e-5)  # full rank


@pytest.mark.parametrize("seed", SEEDS)
def test_whitening_is_better_where_the_data_are_and_equals_the_cholesky_route(seed):
    w = random(10, 24, seed=seed).float()
    x = random(300, 24, seed=seed + 9, decay=0.3).float()
    gram = (x.T @ x).double()
    values, directions = output_directions(w, gram)
    _, plain = output_directions(w)
    for k in (1, 3, 6):
        first, second = thin_pair(w, directions[:, :k])
        error = float((x @ (second @ first - w).T).square().sum())
        assert error == pytest.approx(float(values[k:].square().sum()), rel=1e-2)
        first, second = thin_pair(w, plain[:, :k])
        assert error <= float((x @ (second @ first - w).T).square().sum())
    root = torch.linalg.cholesky(gram + 1e-9 * torch.eye(24))
    u, s, v = torch.linalg.svd(w.double() @ root)
    by_cholesky = (u[:, :3] * s[:3]) @ v[:3] @ torch.linalg.inv(root)
    first, second = thin_pair(w, directions[:, :3])
    torch.testing.assert_close((second @ first).double(), by_cholesky, atol=1e-3, rtol=1e-3)


def test_whitening_survives_inputs_that_fill_no_space():
    w, x = random(6, 9).float(), random(4, 9, seed=3).float()
    _, directions = output_directions(w, (x.T @ x).double())
    first, second = thin_pair(w, directions[:, :4])
    torch.testing.assert_close(x @ (second @ first).T, x @ w.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_rank_rules(seed):
    s = spectrum(20, seed)
    assert erank_rule(torch.ones(20), 1.0) == 20
    assert erank_rule(torch.tensor([1.0, 0, 0]), 2.0) == 2
    ranks = [mass_rule(s, tau) for tau in (0.0, 0.05, 0.3, 0.9, 1.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == 20
    assert ranks[-1] == 1
    k = mass_rule(s, 0.3)
    assert float(ks_mass(s, s[:k], 2)) <= 0.3 + 1e-9 < float(ks_mass(s, s[: k - 1], 2)) + 1e-9


def test_break_even_is_where_two_matrices_are_as_large_as_one():
    assert MatrixShape("w", 1024, 4096).break_even == pytest.approx(819.2)
    assert MatrixShape("w", 4096, 11008).break_even == pytest.approx(2985.2, abs=0.1)
    shape = MatrixShape("w", 6, 3)  # 18 numbers; two at rank 2 have 18 as well
    assert below_break_even(1, shape) == 1
    assert below_break_even(2, shape) is None
    for rank in (1, 2, 3):
        assert (MatrixShape("w", 6, 3, rank).weights < shape.weights) == (below_break_even(rank, shape) is not None)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_budget_is_kept_and_nearly_used_up(seed, share):
    shapes = [MatrixShape("a", 20, 40), MatrixShape("b", 40, 20), MatrixShape("c", 16, 16)]
    spectra = [spectrum(min(s.d_in, s.d_out), 3 * seed + i) ** (1 + i) for i, s in enumerate(shapes)]
    ranks = budget_rule(spectra, shapes, share)
    used = sum(MatrixShape(s.name, s.d_in, s.d_out, k).weights for s, k in zip(shapes, ranks, strict=True))
    dense = sum(s.weights for s in shapes)
    assert used <= share * dense + 1e-9
    assert used >= share * dense - 80  # one step of the widest, and what break-even leaves over
    assert all(k is None or k < s.break_even for s, k in zip(shapes, ranks, strict=True))


def test_the_budget_prefers_mass():
    shapes = [MatrixShape("a", 20, 20), MatrixShape("b", 20, 20)]
    ranks = budget_rule([torch.exp(-torch.arange(20.0)), torch.ones(20)], shapes, 0.4)
    assert ranks[0] < ranks[1]


def test_hidden_units_by_energy():
    assert bottleneck_rule(torch.tensor([0.0, 5.0, 1.0, 4.0]), 0.1).tolist() == [1, 3]
    assert bottleneck_rule(torch.tensor([0.0, 5.0, 1.0, 4.0]), 0.0).tolist() == [1, 2, 3]
    assert bottleneck_rule(torch.tensor([2.0, 2.0]), 0.6).tolist() == [0]
