"""The identities of ResPrune: what the greedy selection is, told in other mathematics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from pruning.interface import PromptText
from pruning.methods.resprune import content_words, text_relevance
from pruning.ops.scoring import greedy_residual


def random_rows(n=40, d=24, seed=0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def ones(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(x))


def test_without_text_the_picks_are_the_pivots_of_a_pivoted_qr():
    v = random_rows()
    pivots = scipy.linalg.qr(v.double().numpy().T, pivoting=True, mode="r")[1][:20]
    assert greedy_residual(v, ones(v), 20).order.tolist() == pivots.tolist()


def test_weights_are_a_scaling_of_the_rows():
    v, w = random_rows(seed=1), torch.rand(40, generator=torch.Generator().manual_seed(1)) + 0.05
    weighted = greedy_residual(v, w, 15).order
    scaled = greedy_residual(v * w.sqrt()[:, None], ones(v), 15).order
    assert weighted.tolist() == scaled.tolist() == greedy_residual(v, 7.5 * w, 15).order.tolist()


def test_budgets_are_nested():
    v, w = random_rows(seed=2), torch.rand(40, generator=torch.Generator().manual_seed(2)) + 0.1
    longest = greedy_residual(v, w, 24).order.tolist()
    assert all(greedy_residual(v, w, k).order.tolist() == longest[:k] for k in (1, 5, 11, 23))


def test_residual_never_grows_is_above_the_svd_bound_and_ends_at_zero():
    v = random_rows(n=30, d=10, seed=3)
    picks = greedy_residual(v, torch.rand(30, generator=torch.Generator().manual_seed(3)) + 0.1, 14)
    sigma = np.linalg.svd(v.double().numpy(), compute_uv=False) ** 2
    bound = np.append(sigma[::-1].cumsum()[::-1][1:], np.zeros(5))
    residual = picks.residual.numpy()
    assert (np.diff(residual) <= 1e-9).all()
    assert (residual[:10] >= bound[:10] - 1e-6).all()
    assert residual[9] <= 1e-5 * float(picks.total)
    assert picks.gain[10:].isnan().all(), "beyond the rank there is no gain, only filling up"


def test_rotation_and_scale_change_nothing():
    v, t = random_rows(seed=4), random_rows(3, 24, seed=5)
    q = torch.linalg.qr(random_rows(24, 24, seed=6))[0]
    plain = greedy_residual(v, text_relevance(v, t), 12).order
    for other_v, other_t in ((v @ q, t @ q), (3.7 * v, t)):
        assert greedy_residual(other_v, text_relevance(other_v, other_t), 12).order.tolist() == plain.tolist()


def test_a_copy_is_never_picked_before_the_rank_is_exhausted():
    v = random_rows(n=20, d=16, seed=7)
    for copied in (0, 7, 19):
        doubled = torch.cat([v, v[copied : copied + 1]])
        assert (
            greedy_residual(doubled, ones(doubled), 16).order.tolist() == greedy_residual(v, ones(v), 16).order.tolist()
        )


def test_log_determinant_is_the_sum_of_the_gains():
    v = random_rows(seed=8)
    picks = greedy_residual(v, ones(v), 12)
    s = v[picks.order].double()
    assert torch.logdet(s @ s.T).item() == pytest.approx(picks.gain.log().sum().item(), rel=1e-4)


def test_a_large_alpha_ranks_by_relevance():
    v = torch.linalg.qr(random_rows(30, 30, seed=9))[0] + 0.01 * random_rows(30, 30, seed=10)
    v = torch.nn.functional.normalize(v, dim=1)
    relevance = torch.linspace(1, 0.2, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(11))]
    assert set(greedy_residual(v, relevance**50, 6).order.tolist()) == set(relevance.topk(6).indices.tolist())


def test_a_zero_token_and_duplicates_are_filled_last_by_weight():
    v = torch.eye(4, 8)
    v = torch.cat([v, torch.zeros(1, 8), v[:1]])
    order = greedy_residual(v, torch.tensor([1.0, 1, 1, 1, 0.5, 0.9]), 6).order.tolist()
    assert order[:4] == [0, 1, 2, 3]
    assert order[4:] == [5, 4]


def test_relevance_is_between_the_floor_and_one_and_opposite_tokens_sit_on_the_floor():
    t = torch.eye(3, 8)
    v = torch.cat([t, -t, torch.ones(1, 8)])
    for how in ("max over words", "mean over words", "pooled question"):
        r = text_relevance(v, t, how)
        assert float(r.max()) == pytest.approx(1)
        assert r[3:6].tolist() == pytest.approx([1e-3] * 3)
    assert (text_relevance(-t, t) >= 0).all()


def test_numbers_that_overflow_half_precision_do_not_matter():
    v = random_rows(seed=12) * 300
    assert torch.isfinite(v.half()).all()
    assert (
        greedy_residual(v.half(), ones(v), 10).order.tolist()
        == greedy_residual(v.half().float(), ones(v), 10).order.tolist()
    )


def test_pieces_of_a_word_stand_or_fall_together():
    """The pieces of "theatre" are content even where one of them looks like an article; those of "what's" are not."""
    token_texts = ["What", "'", "s", "the", "at", "re", "like", "?"]
    full = ["What's", "What's", "What's", "theatre", "theatre", "theatre", "like?", "like?"]
    states = torch.arange(8.0)[:, None]
    text = PromptText(states, token_texts, torch.ones(8, dtype=torch.bool), full)
    assert content_words(text)[:, 0].tolist() == [3, 4, 5, 6]
    text = PromptText(states, token_texts, torch.tensor([True, True, True] + [False] * 5), full)
    assert content_words(text) is None
