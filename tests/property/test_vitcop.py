"""ViTCoP: budgets, conservation of tokens, and the clusters' own rules."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pruning.budget import mean_per_layer
from pruning.errors import BudgetError, ParameterError
from pruning.interface import Part
from pruning.methods.vitcop import ViTCoP, cluster, elites_and_groups, key_norm, merge_groups, solve_budget
from support.world import World, drive, make_info


def paper_info():
    return dataclasses.replace(make_info(32), feature_layer=22)


@pytest.mark.parametrize(("target", "expected"), [(192, (288, 253, 51)), (128, (230, 165, 33)), (64, (172, 77, 15))])
def test_the_papers_budgets(target, expected):
    method = ViTCoP(keep_ratio=target / 576)
    counts = tuple(method.plan(paper_info(), 576).values())
    assert counts == expected
    per_layer = [counts[0]] * 2 + [counts[1]] * 20 + [counts[2]] * 10
    assert abs(mean_per_layer(per_layer) - target) <= 1
    assert [s.layer for s in method.plan(paper_info(), 576)] == [0, 2, 22]
    centres = {192: 51, 128: 34, 64: 20}
    assert int(method.shares(paper_info())[1] * counts[0]) == centres[target]


@pytest.mark.parametrize("layers", [4, 8, 24, 32, 40])
@pytest.mark.parametrize("ratio", [0.05, 1 / 9, 0.2, 1 / 3, 0.5, 0.7])
def test_the_mean_over_the_layers_meets_the_budget_at_any_depth(layers, ratio):
    method, info = ViTCoP(keep_ratio=ratio), make_info(layers)
    try:
        plan = method.plan(info, 576)
    except BudgetError as error:
        assert "ViTCoP" in str(error)  # noqa: PT017
        return
    counts, cuts = list(plan.values()), [s.layer for s in plan if s.part is Part.LANGUAGE_MODEL]
    per_layer = [counts[0]] * cuts[0] + [counts[1]] * (cuts[1] - cuts[0]) + [counts[2]] * (layers - cuts[1])
    assert len(per_layer) == layers
    assert abs(mean_per_layer(per_layer) - ratio * 576) <= 2.5
    assert counts[0] >= counts[1] >= counts[2] >= 1


def test_impossible_budgets_and_layers_are_named():
    with pytest.raises(BudgetError, match="at most"):
        ViTCoP(keep_ratio=0.95).plan(make_info(), 576)
    with pytest.raises(BudgetError, match="shallow cut"):
        ViTCoP(keep_ratio=0.5, vision_keep=0.1).plan(make_info(), 576)
    with pytest.raises(ParameterError, match="second must come first"):
        ViTCoP(shallow_layer=6, deep_layer=3).plan(make_info(), 576)


@pytest.mark.parametrize("n_keep", [1, 2, 5, 9, 10, 11, 30, 71])
def test_elites_and_groups_partition_the_tokens(n_keep):
    g = torch.Generator().manual_seed(n_keep)
    labels, norm = torch.randint(0, 10, (72,), generator=g), torch.rand(72, generator=g)
    parts = elites_and_groups(labels, norm, n_keep)
    assert len(parts.elites) + len(parts.representatives) == n_keep
    members = (parts.group >= 0).nonzero()[:, 0]
    assert sorted(parts.elites.tolist() + members.tolist()) == list(range(72))
    for number, representative in enumerate(parts.representatives.tolist()):
        group = (parts.group == number).nonzero()[:, 0].tolist()
        assert group[len(group) // 2] == representative
    if n_keep >= 10:
        for c in range(10):
            inside = labels == c
            elite = torch.isin(torch.arange(72), parts.elites) & inside
            rest = inside & ~elite
            if elite.any() and rest.any():
                assert norm[elite].max() <= norm[rest].min(), "elites have the smallest key norms of their cluster"


def test_one_cluster_per_token_keeps_everything_as_it_is():
    parts = elites_and_groups(torch.arange(12), torch.rand(12), 12)
    merged = merge_groups(torch.arange(24.0).view(12, 2), parts, as_coded=False)
    assert len(parts.elites) == 0
    assert torch.equal(merged, torch.arange(24.0).view(12, 2)[parts.representatives])


def test_merging_equal_tokens_keeps_their_value_and_the_released_code_doubles_it():
    features = torch.ones(9, 4) * 2.5
    parts = elites_and_groups(torch.tensor([0] * 5 + [1] * 4), torch.rand(9), 2)
    assert torch.allclose(merge_groups(features, parts, as_coded=False), torch.full((2, 4), 2.5))
    assert torch.allclose(merge_groups(features, parts, as_coded=True), torch.full((2, 4), 5.0))


def test_key_norm_does_not_depend_on_a_rotation_common_to_all_heads():
    keys = torch.randn(4, 10, 6, generator=torch.Generator().manual_seed(0))
    turned = keys @ torch.linalg.qr(torch.randn(6, 6))[0]
    assert torch.allclose(key_norm(keys), key_norm(turned), atol=1e-5)


class TestClusters:
    def setup_method(self):
        g = torch.Generator().manual_seed(4)
        self.x = torch.randn(48, 6, generator=g) * 5
        index = torch.arange(48)
        self.places = torch.stack([index // 8 / 6, index % 8 / 8], 1)

    def run(self, x=None, places=None, share=0.2, tau=0.6):
        return cluster(self.x if x is None else x, self.places if places is None else places, share, 8.0, tau)

    def test_every_token_has_a_label_and_centres_keep_their_own(self):
        found = self.run()
        assert found.labels.min() >= 0
        assert found.labels[found.centres].tolist() == list(range(len(found.centres)))
        assert len(found.centres) == int(0.2 * 48)

    def test_the_label_is_that_of_the_nearest_admissible_denser_token(self):
        found = self.run()
        centres = set(found.centres.tolist())
        for i in range(48):
            if i not in centres and found.parent[i] >= 0:
                assert found.labels[i] == found.labels[found.parent[i]]
                assert (self.places[i] - self.places[found.parent[i]]).norm() <= 0.6 + 1e-6

    def test_lonely_peaks_become_centres_first(self):
        found = self.run(tau=0.15, share=0.5)
        peaks = found.delta.isinf().nonzero()[:, 0]
        assert len(peaks) > 1
        assert set(peaks.tolist()[: len(found.centres)]) <= set(found.centres.tolist())

    def test_a_shift_of_all_keys_and_a_permutation_change_nothing(self):
        plain = self.run()
        assert torch.equal(self.run(x=self.x + 3.0).labels, plain.labels)
        order = torch.randperm(48, generator=torch.Generator().manual_seed(9))
        moved = self.run(x=self.x[order], places=self.places[order])
        groups = {frozenset((plain.labels == c).nonzero()[:, 0].tolist()) for c in plain.labels.unique()}
        assert {frozenset(order[moved.labels == c].tolist()) for c in moved.labels.unique()} == groups

    def test_identical_tokens_are_not_lost(self):
        found = self.run(x=torch.ones(48, 6))
        assert found.labels.min() >= 0


def test_a_tower_that_keeps_everything_still_finds_clusters():
    steps = drive(ViTCoP(keep_ratio=0.3, vision_keep=1.0), World.make((24, 24)))
    assert len(steps[0].decision.keep) == 576
    assert "clusters" in steps[0].decision.summary
    assert int(steps[1].decision.summary.split()[0]) > 0, "some tokens go on as they are"
    sizes = torch.bincount(steps[1].decision.merged_into[steps[1].decision.merged_into >= 0])
    assert sizes.max() < 400, "no group swallows the picture"


@pytest.mark.parametrize("layers", [8, 32, 40])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.6, 0.65])
def test_clusters_have_work_at_every_budget(layers, ratio):
    plan = list(ViTCoP(keep_ratio=ratio).plan(make_info(layers), 576).values())
    assert plan[0] > plan[1] > plan[2]


def test_the_cuts_scale_with_the_depth():
    found = {layers: ViTCoP().depths(make_info(layers)) for layers in (8, 32, 40)}
    assert found == {8: (1, 6), 32: (2, 22), 40: (2, 28)}


def test_the_three_stages_follow_each_other():
    steps = drive(ViTCoP(keep_ratio=1 / 9), World.make((24, 24)))
    assert [s.stage.part for s in steps] == [Part.PROJECTOR, Part.LANGUAGE_MODEL, Part.LANGUAGE_MODEL]
    assert [len(s.decision.keep) for s in steps] == [s.wanted for s in steps]
    n_vision = steps[0].wanted
    assert (steps[1].wanted, steps[2].wanted) == solve_budget(1 / 9, method_share(), n_vision, 8, 1, 6)


def method_share() -> float:
    return ViTCoP(keep_ratio=1 / 9).shares(make_info())[0]
