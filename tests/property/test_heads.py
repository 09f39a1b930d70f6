"""Head scores on made-up layers, and the ranking that all of them share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pruning.errors import ParameterError, PlanError, UnknownMethodError
from pruning.interface import BlockFacts, Part
from pruning.shapes import LayerShape, MatrixShape
from pruning.structural import scorer_class
from pruning.structural.base import choose_heads, n_heads_kept
from pruning.structural.infoprune import InfoPrune

HEADS, D, DIM, TOKENS = 4, 8, 32, 400


def facts(outputs: torch.Tensor | None = None, seed: int = 0, groups: int = 1) -> BlockFacts:
    """A layer with random weights and given head outputs `[tokens, heads * d]`."""
    g = torch.Generator().manual_seed(seed)
    q_dim, kv_dim = HEADS * groups * D, HEADS * D

    def random(*shape):
        return torch.randn(*shape, generator=g)

    shape = LayerShape(DIM, q_dim, kv_dim, (MatrixShape("fc1", DIM, 64), MatrixShape("fc2", 64, DIM)))
    y = random(TOKENS, q_dim) if outputs is None else outputs
    attention = torch.rand(HEADS, 20, generator=g, dtype=torch.float64).sort(descending=True).values
    return BlockFacts(
        Part.TOWER, 0, shape, D, random(q_dim, DIM), random(kv_dim, DIM), random(kv_dim, DIM), random(DIM, q_dim), {},
        TOKENS, (y.T @ y).double(), attention / attention.sum(1, keepdim=True),
    )  # fmt: skip


def score(block: BlockFacts, **options):
    return InfoPrune(**options).score(block, torch.Generator())


@pytest.mark.parametrize("options", [{}, {"a": 0.0}, {"a": 1.0}, {"ks": "two-sample"}], ids=str)
def test_a_doubled_rank_one_head_is_worth_less_than_a_full_one(options):
    """Low rank, and not missed because its twin is still there."""
    g = torch.Generator().manual_seed(1)
    y = torch.randn(TOKENS, HEADS * D, generator=g)
    line = torch.outer(torch.randn(TOKENS, generator=g), torch.randn(D, generator=g))
    y[:, :D], y[:, D : 2 * D] = line, line
    found = score(facts(y), **options).score
    assert max(found[:2]) < min(found[2:])


def test_a_sink_head_has_low_rank_and_the_distance_saves_it():
    """Effective rank alone would take out a head that carries nearly all of the output along one direction."""
    g = torch.Generator().manual_seed(2)
    y = torch.randn(TOKENS, HEADS * D, generator=g)
    y[:, :D] = 30 * torch.outer(torch.ones(TOKENS), torch.randn(D, generator=g))
    assert int(score(facts(y), a=1.0).score.argmin()) == 0
    assert int(score(facts(y), a=0.0).score.argmax()) == 0


def test_a_silent_head_goes_first_and_has_no_distance():
    y = torch.randn(TOKENS, HEADS * D, generator=torch.Generator().manual_seed(3))
    y[:, 2 * D : 3 * D] = 0
    found = score(facts(y))
    assert int(found.score.argmin()) == 2
    assert float(found.score[2]) == 0
    assert float(found.erank[2]) == 0


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("matrix", ["head output", "attention map", "OV weight"])
def test_parts_of_the_score_are_shares(matrix, groups):
    found = score(facts(groups=groups), matrix=matrix)
    assert found.score.shape == (HEADS,)
    for value in (found.erank, found.ks):
        assert ((value >= 0) & (value <= 1 + 1e-9)).all()
    assert torch.allclose(found.score, 0.5 * found.erank + 0.5 * found.ks)
    assert torch.allclose(found.spectra.sum(1), torch.ones(HEADS).double())
    assert found.without.shape == (HEADS, len(found.full))


def test_ov_spectrum_equals_that_of_the_product():
    from pruning.structural.infoprune import ov_singular_values

    block = facts()
    for h in range(HEADS):
        rows = slice(h * D, (h + 1) * D)
        product = block.value[rows].double().T @ block.out[:, rows].double().T
        torch.testing.assert_close(
            ov_singular_values(block)[h], torch.linalg.svdvals(product)[:D], rtol=1e-6, atol=1e-9
        )


def test_magnitude_knows_no_layer_scale():
    block = facts()
    scaled = replace(block, query=7 * block.query)
    magnitude = scorer_class("magnitude")()
    first, second = (magnitude.score(b, torch.Generator()).score for b in (block, scaled))
    torch.testing.assert_close(first, second)
    assert float(first.mean()) == pytest.approx(1)


def test_random_follows_its_generator():
    scorer = scorer_class("random")()
    a, b, c = (scorer.score(facts(), torch.Generator().manual_seed(s)).score for s in (1, 1, 2))
    assert a.tolist() == b.tolist() != c.tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 1.0])
def test_the_count_is_met_and_no_layer_is_emptied(seed, share):
    g = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, generator=g) - layer for layer, n in enumerate((6, 2, 4, 6))]  # later layers score worse
    wanted = n_heads_kept(share, 18, 4)
    kept = choose_heads(scores, wanted)
    assert sum(len(k) for k in kept) == wanted
    assert all(len(k) >= 1 for k in kept)
    assert abs(wanted - share * 18) <= 0.5 or wanted == 4
    for s, k in zip(scores, kept, strict=True):
        assert k.tolist() == sorted(k.tolist())
        gone = [i for i in range(len(s)) if i not in k]
        assert not gone or max(s[gone]) <= min(s[k])


def test_ties_go_to_the_lower_layer_and_head():
    assert [k.tolist() for k in choose_heads([torch.ones(3), torch.ones(3)], 4)] == [[2], [0, 1, 2]]


def test_fewer_heads_than_layers_are_refused():
    with pytest.raises(PlanError, match="2 heads were asked for in 3 layers"):
        choose_heads([torch.ones(2)] * 3, 2)


def test_unknown_scores_and_options_are_refused_by_name():
    with pytest.raises(UnknownMethodError, match="Known scores: infoprune"):
        scorer_class("infoprun")
    with pytest.raises(ParameterError, match="no option 'b'; it has: matrix, ks, a"):
        InfoPrune.from_parameters({"b": 1})
    with pytest.raises(ParameterError, match="allows 0 to 1"):
        InfoPrune.from_parameters({"a": 2})
    with pytest.raises(ParameterError, match="allows: head output"):
        InfoPrune.from_parameters({"matrix": "key"})
