"""What the methods in and behind the vision tower promise beyond the common properties: their rules told in other
mathematics, and guards where the published codes lose, repeat or invent tokens.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pruning.arrays.kinds import select
from pruning.errors import BudgetError
from pruning.methods import METHODS
from pruning.methods.accm_pruner import draw, n_text, picks_of
from pruning.methods.cdpruner import conditional_dpp, scaled_relevance
from pruning.methods.holov import holistic_score, quotas
from pruning.methods.prumerge import outliers, spread, stepped
from pruning.methods.tome import schedule
from pruning.methods.vscan import capped
from pruning.ops.merging import merge_by_size
from pruning.ops.scoring import cosine, farthest_first, products_among, rank_within, square_parts
from support.paths import ROOT
from support.world import World, drive


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def golden(name: str, case: str) -> tuple[dict, dict]:
    with np.load(ROOT / "tests" / "golden" / name, allow_pickle=False) as z:
        inputs = {k: z[k] for k in z.files if "__" not in k and k != "case_names"}
        return inputs, {k.removeprefix(f"{case}__"): z[k] for k in z.files if k.startswith(f"{case}__")}


def test_accm_splits_its_budget_as_published_and_scales_with_the_picture():
    assert [n_text(k, 576) for k in (18, 36, 72, 144, 288)] == [12, 20, 40, 70, 150]
    assert n_text(180, 2880) == 100, "the published share of a larger picture"
    assert all(0 <= n_text(k, 576) <= k for k in range(1, 577))


def test_accm_fills_up_evenly_and_chance_adds_the_rest():
    score, attention = rows(100, 1)[:, 0], torch.full((100,), 0.01)
    attention[[7, 8]] = 1.0
    picks = picks_of(score, attention, 30, 10)
    assert set(picks.outliers.tolist()) == {7, 8} - set(picks.text.tolist())
    step = -(-100 // (30 - len(picks.text) - len(picks.outliers)))
    assert set(picks.even.tolist()) <= set(range(0, 100, step))
    one, again, other = (draw(picks.kept, 100, 30, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert len(torch.cat([picks.kept, one]).unique()) == 30
    tight = picks_of(score, attention, 10, 9)
    assert tight.n_before_cut >= 10
    assert len(tight.kept) == 10, "the outliers with the least attention go"


def test_cdpruner_picks_the_largest_determinant():
    features, relevance = rows(14, 9), torch.rand(14, generator=torch.Generator().manual_seed(1)) + 0.05
    kernel = (relevance[:, None] * cosine(features, features) * relevance).double()
    picked: list[int] = []
    for _ in range(7):
        left = [i for i in range(14) if i not in picked]
        picked.append(max(left, key=lambda i: torch.det(kernel[[*picked, i]][:, [*picked, i]]).item()))
    assert conditional_dpp(features, relevance, 7).tolist() == picked


def test_cdpruner_beyond_the_rank_goes_by_relevance():
    inputs, _ = golden("cdpruner_b_lowrank.npz", "quirk_k24")
    got = select("cdpruner", inputs, {"n_keep": 24})
    assert len(set(got["kept"].tolist())) == 24
    rest = np.delete(got["relevance"], got["pick_order"][:12])
    np.testing.assert_array_equal(got["relevance"][got["pick_order"][12:]], np.sort(rest)[::-1][:12])


def test_cdpruner_shows_the_sign_of_relevance():
    image, text = rows(30, 8), rows(1, 8, seed=1)
    plus, minus = (scaled_relevance(image, text, minus=m) for m in (False, True))
    torch.testing.assert_close(plus + minus, torch.ones(30), atol=1e-4, rtol=0)
    assert plus.argmax() == cosine(image, text)[:, 0].argmax() == minus.argmin()
    world = World.make((7, 7), seed=2)
    kept = [drive(METHODS["cdpruner"](keep_ratio=0.2, sign=s), world)[0].decision.keep.tolist() for s in
            ("like the question counts", "unlike the question counts")]  # fmt: skip
    assert kept[0] != kept[1]


@pytest.mark.parametrize("scene", ["a", "b"])
def test_holov_hands_on_what_a_part_cannot_hold(scene):
    case = {"a": "quirk_pads_k32", "b": "quirk_pads_k72"}[scene]
    inputs, published = golden(f"holov_{scene}_pads.npz", case)
    n_keep = int(published["n_keep"])
    kept = select("holov", inputs, {"n_keep": n_keep, "num_runs": 8})["kept"]
    assert len(set(kept.tolist())) == n_keep > len(published["kept"])
    assert set(published["kept"].tolist()) <= set(kept.tolist())


def test_holov_counts_how_far_cosines_vary_whatever_the_lengths():
    """Against the definition, in float64: crops of any size and place, lengths far apart, a zero row."""
    features = rows(200, 24) * torch.logspace(-2, 2, 200)[torch.arange(200) * 77 % 200, None]
    features[5] = 0
    crop = (torch.arange(200) * 7 % 20).clamp(max=6).where(torch.arange(200) > 0, 7)
    attention = torch.rand(200, generator=torch.Generator().manual_seed(1))
    score, crop_score = holistic_score(features, attention, crop)
    for part in range(8):
        mine, paid = features[crop == part].double(), 1000 * attention[crop == part].double()
        others = max(1, len(mine) - 1)
        alike = torch.nn.functional.cosine_similarity(mine[:, None], mine, dim=2) * (1 - torch.eye(len(mine)))
        variance = (alike - alike.sum(1, keepdim=True) / others).square().sum(1) / others
        told = paid + 0.09 * variance * paid.mean() / (variance.mean() + 1e-6)
        torch.testing.assert_close(score[crop == part].double(), told, atol=0, rtol=1e-5)
        torch.testing.assert_close(crop_score[part].double(), told.mean(), atol=0, rtol=1e-5)


def test_quotas_meet_every_count_within_every_size():
    g = torch.Generator().manual_seed(0)
    for seed in range(8):
        size = torch.randint(1, 9, (6,), generator=g)
        score = torch.rand(6, generator=g) ** 8 if seed % 2 else torch.zeros(6)
        for count in range(int(size.sum()) + 1):
            quota = quotas(score, size, count)
            assert quota.sum() == count
            assert ((quota >= 0) & (quota <= size)).all()


def test_vscan_keeps_what_was_asked_where_windows_do_not_divide():
    inputs, published = golden("vscan_stage1_24x24.npz", "quirk_k100")
    got = select("vscan_stage1", inputs, {"n_keep": 100})
    assert len(got["kept"]) == 100 > len(published["kept"])
    assert set(published["local"].tolist()) <= set(got["local"].tolist())
    assert len(got["local"]) == 50


def test_vscan_meets_its_mean_over_the_layers():
    for ratio in (0.05, 1 / 9, 1 / 3, 0.5, 0.6, 0.9):
        first, second = (len(s.decision.keep) for s in drive(METHODS["vscan"](keep_ratio=ratio), World.make((24, 24))))
        assert abs((first + second) / 2 - ratio * 576) <= 1
        assert ratio > 2 / 3 or abs(first - 3 * second) <= 3


def test_a_capped_window_gives_no_more_than_its_share():
    attention = torch.rand(64, generator=torch.Generator().manual_seed(3))
    attention[:16] += 10  # one window has the best of all
    window = torch.arange(64) // 16
    assert torch.bincount(window[capped(attention, window, 24)]).max() == 6
    assert len(set(capped(attention, window, 64).tolist())) == 64


def test_prumerge_counts_outliers_and_has_a_step_for_every_ratio():
    attention = torch.full((100,), 0.01)
    assert outliers(attention) == 0
    attention[:20] = torch.linspace(0.011, 0.013, 20)
    attention[7] = 0.5
    low, high = np.percentile(attention.numpy(), [25, 75])
    assert outliers(attention) == int((attention.numpy() > high + 1.5 * (high - low)).sum()) > 0
    assert stepped(torch.arange(300), 576).tolist() == list(range(300, 575))
    steps = drive(METHODS["prumerge"](keep_ratio=0.1, budget="outliers"), World.make((24, 24)))
    assert steps[0].decision.merged_into is not None


def test_the_even_sample_repeats_nothing():
    for n, kept, count in ((36, [3, 4, 5], 33), (36, [0, 35], 7), (576, list(range(100)), 92), (10, [1], 0)):
        sample = spread(torch.tensor(kept), n, count)
        assert len(set(sample.tolist()) - set(kept)) == count
    gaps = spread(torch.tensor([], dtype=torch.long), 576, 32).diff()
    assert gaps.min() == gaps.max() == 18


def test_tome_merges_evenly_and_says_what_it_cannot_reach():
    counts = schedule(576, 64, 23, 0.0)
    merged = [a - b for a, b in pairwise([576, *counts])]
    assert counts[-1] == 64
    assert len(set(merged[:-1])) == 1
    assert merged[-1] <= merged[0]
    early = [a - b for a, b in pairwise([576, *schedule(576, 300, 23, -1.0)])]
    assert early[0] > early[11] > early[-1]
    with pytest.raises(BudgetError, match="cannot go below 18 of 576"):
        drive(METHODS["tome"](keep_ratio=1 / 576), World.make((24, 24)))


def test_merging_by_size_keeps_the_mean_of_everything():
    features, sizes = rows(30, 5), torch.randint(1, 5, (30,)).float()
    source, target = torch.tensor([0, 2, 4, 6]), torch.tensor([1, 1, 7, 9])
    new, size = merge_by_size(features, sizes, source, target)
    left = [i for i in range(30) if i not in source]
    assert size[left].sum() == sizes.sum()
    torch.testing.assert_close(size[left] @ new[left], sizes @ features, atol=1e-5, rtol=1e-4)


def test_tome_rows_are_the_means_of_all_they_stand_for():
    world = World.make((7, 7))
    steps = drive(METHODS["tome"](keep_ratio=0.3), world)
    owner = torch.arange(49)
    for step in steps:
        d = step.decision
        joined = d.merged_into >= 0
        moved = torch.arange(49)
        moved[step.ids[joined]] = step.ids[d.merged_into[joined]]
        owner = moved[owner]
    last = steps[-1]
    for row, token in enumerate(last.ids[last.decision.keep].tolist()):
        mean = world.features[owner == token].mean(0)
        torch.testing.assert_close(last.decision.features[row], mean, atol=1e-5, rtol=1e-4)
        assert last.decision.sizes[row] == (owner == token).sum()


def test_zspaprune_begins_with_the_question_and_ends_apart():
    world = World.make((7, 7), seed=4)
    likeness = cosine(world.features, world.text.mean(0, keepdim=True))[:, 0]
    full = drive(METHODS["zspaprune"](keep_ratio=0.2, core_share=1.0), world)[0].decision.keep
    assert set(full.tolist()) == set(likeness.topk(10).indices.tolist())
    order = drive(METHODS["zspaprune"](keep_ratio=0.2), world)[0].decision.extra["pick_order"]
    for k in range(6, 10):  # each pick is the farthest from all before
        nearest = cosine(world.features, world.features[order[:k]]).max(1).values
        nearest[order[:k]] = 2
        assert order[k] == nearest.argmin()
    assert farthest_first(world.features, 10, order[:6])[0].tolist() == order.tolist()


@pytest.mark.parametrize("n", [130, 514])
def test_equal_rows_have_equal_products_wherever_they_lie(n):
    features, kind = rows(5, 257), torch.arange(n) % 5
    found = products_among(features[kind])
    torch.testing.assert_close(found, (features @ features.T)[kind][:, kind])
    assert torch.equal(found, found.T)
    assert torch.equal(found, found[:5, :5][kind][:, kind])


def test_parts_and_ranks():
    place = World.make((5, 3)).positions()
    assert square_parts(place, 2).tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 2, 2, 3, 2, 2, 3]
    assert square_parts(place, 1).unique().tolist() == [0]
    group, score = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([0.1, 0.5, 0.3, 0.3, 0.9])
    assert rank_within(group, score).tolist() == [2, 1, 0, 1, 0]
