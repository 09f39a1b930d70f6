"""What the methods inside the language model publish, and the defects of their released codes that must not return."""

from __future__ import annotations

import pytest
import torch

from pruning.arrays.language_model import rotary
from pruning.errors import BudgetError, ParameterError
from pruning.methods import METHODS
from pruning.methods.dart import share_out, visited_as_coded
from pruning.methods.ivcprune import anchor_places
from pruning.methods.sparsevlm import LEAST_PROFILE, SHARES, density_peaks, distance_profile, text_raters
from pruning.methods.staged import cut_layers, interpolated, mean_share
from pruning.methods.v2drop import SCHEDULES
from support.world import World, drive, make_info

STAGED = ("sparsevlm", "pyramiddrop", "v2drop")
N = 24 * 24


def counts(key: str, ratio: float, layers: int = 32, **parameters) -> list[int]:
    """Rows for the picture in every layer, by the plan."""
    plan = METHODS[key](keep_ratio=ratio, **parameters).plan(make_info(layers), N)
    found, left = [], N
    cuts = {stage.layer: count for stage, count in plan.items()}
    for layer in range(layers):
        left = cuts.get(layer, left)
        found.append(left)
    return found


@pytest.mark.parametrize(
    ("parameters", "budget", "rows", "average"),
    [
        ({}, 192, (309, 204, 113), 206.5),
        ({}, 128, (312, 117, 39), 145.4),
        ({}, 64, (82, 32, 18), 82.3),
        ({"version": "2.0"}, 192, (300, 200, 118), None),
        ({"version": "2.0"}, 128, (238, 108, 60), None),
        ({"version": "2.0"}, 64, (66, 34, 20), None),
    ],
)
def test_sparsevlm_keeps_what_its_code_keeps(parameters, budget, rows, average):
    found = counts("sparsevlm", budget / N, **parameters)
    assert [found[i] for i in (2, 3, 7, 16)] == [N, *rows]
    assert average is None or sum(found) / 32 == pytest.approx(average, abs=0.06)


def test_pyramiddrop_and_v2drop_keep_what_they_publish():
    found = counts("pyramiddrop", 1 / 8)
    assert [found[i] for i in (7, 8, 16, 24)] == [576, 288, 144, 72]
    assert sum(found) / 32 == 270
    for budget, average in ((192, 193.5), (128, 130.9), (64, 66.8)):
        assert sum(counts("v2drop", budget / N)) / 32 == pytest.approx(average, abs=0.5)
    coded = counts("v2drop", next(iter(SCHEDULES["code"])), schedule="code")
    assert [coded[i] for i in (2, 3, 17, 22)] == [576, 288, 144, 1]
    assert sum(coded) / 32 == pytest.approx(202.8, abs=0.3)


@pytest.mark.parametrize(("requested", "kept"), [(192, 196), (128, 132), (64, 68)])
def test_dart_counts_as_coded_or_exactly(requested, kept):
    assert counts("dart", requested / N, count="as coded")[2] == kept
    assert counts("dart", requested / N)[1:3] == [N, requested]
    assert sum(counts("dart", requested / N, count="as coded")) / 32 == pytest.approx(kept + 2 * (N - kept) / 32)


def test_dart_survives_budgets_below_its_pivots_and_too_few_words():
    world = World.make((4, 6))  # five words
    for ratio, parameters in ((1 / 24, {}), (3 / 24, {"text_pivots": 60}), (5 / 24, {"text_pivots": 0}), (23 / 24, {})):
        for visit in ("by norm, image first", "as coded"):
            [step] = drive(METHODS["dart"](keep_ratio=ratio, visit=visit, **parameters), world)
            assert len(step.decision.keep) == round(24 * ratio)
    assert share_out(7, 3) == [3, 2, 2]
    assert sorted(visited_as_coded([40, 35, 8, 611])) == [8, 35, 40, 611]


@pytest.mark.parametrize("key", ["fastv", "dart", "ivcprune", *STAGED])
@pytest.mark.parametrize("layers", [8, 28, 32, 48])
def test_an_average_over_layers_is_met_or_refused(key, layers):
    met = 0
    for ratio in (0.05, 0.2, 0.4, 0.6, 0.8):
        try:
            found = counts(key, ratio, layers, budget="average over layers")
        except BudgetError:
            assert ratio < 0.6
            continue
        met += 1
        assert sum(found) / layers == pytest.approx(ratio * N, abs=3), "whole tokens and groups"
    assert met >= 2


@pytest.mark.parametrize("layers", [4, 5, 6, 8, 16, 24, 32, 40, 80])
def test_cuts_ascend_on_every_depth(layers):
    for published in ((3, 7, 16), (8, 16, 24), (3, 17, 22)):
        found = cut_layers("It", published, (0, 0, 0), make_info(layers))
        assert 1 <= found[0] < found[1] < found[2] < layers
        if layers == 32:
            assert found == published


def test_impossible_cuts_are_named():
    with pytest.raises(BudgetError, match="3 layers behind the first; fake has 3 in all"):
        cut_layers("It", (8, 16, 24), (0, 0, 0), make_info(3))
    with pytest.raises(ParameterError, match="before layers 5, 4, 6"):
        cut_layers("It", (8, 16, 24), (5, 4, 6), make_info(8))


@pytest.mark.parametrize("table", [*SHARES.values(), *SCHEDULES.values()], ids=str)
def test_shares_pass_through_what_was_published_and_only_fall_with_depth(table):
    for ratio, shares in table.items():
        assert interpolated(table, ratio) == pytest.approx(shares)
    for percent in range(101):
        shares = interpolated(table, percent / 100)
        assert 1 >= shares[0] >= shares[1] >= shares[2] >= 0
    assert interpolated(table, 1.0) == (1, 1, 1)
    assert mean_share((0.5, 0.25, 0.125), (8, 16, 24), 32) == 0.46875


def test_clusters_do_not_depend_on_noise_norm_or_order():
    """The released code adds random noise to densities, which large features round to zero."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(5, 16, generator=g).repeat_interleave(8, 0) * 3 + torch.randn(40, 16, generator=g)
    labels, centres = density_peaks(features, 5)
    assert labels.tolist() == [i for i in labels[::8].tolist() for _ in range(8)], "the clumps that were drawn"
    assert len(set(labels.tolist())) == 5
    assert torch.equal(density_peaks(features + 50.0, 5)[0], labels)
    order = torch.randperm(40, generator=g)
    for scale in (1.0, 1e3):
        labels, centres = density_peaks(scale * features, 5)
        moved, moved_centres = density_peaks(scale * features[order], 5)
        assert labels[centres].tolist() == [0, 1, 2, 3, 4]
        assert torch.equal(order[moved_centres], centres)
        assert torch.equal(moved, labels[order])


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_clusters_of_equal_rows_are_still_clusters(groups):
    labels, centres = density_peaks(torch.ones(12, 4), groups)
    assert len(set(centres.tolist())) == groups
    assert labels.min() >= 0
    assert labels.max() < groups


def test_recycled_tokens_are_the_sum_or_the_mean_of_their_group_and_come_last():
    world = World.make((24, 24), seed=4)
    added, averaged = (drive(METHODS["sparsevlm"](keep_ratio=64 / N, merge=how), world)[1] for how in ("sum", "mean"))
    decision, plain = added.decision, averaged.decision
    assert torch.equal(decision.keep, plain.keep)
    into = decision.merged_into
    groups = into[into >= 0].unique()
    assert len(decision.order) - len(groups) == 66
    assert set(decision.keep[decision.order[66:]].tolist()) >= set(groups.tolist())
    for token in groups.tolist():
        members = [token, *(into == token).nonzero()[:, 0].tolist()]
        row = (decision.keep == token).nonzero()[0, 0]
        torch.testing.assert_close(decision.features[row], world.features[members].sum(0))
        torch.testing.assert_close(plain.features[row], world.features[members].mean(0))


def test_raters_are_the_words_above_the_mean_or_all():
    visual, text = torch.eye(4), torch.tensor([[4.0, 4, 4, 4], [0, 0, 0, 0], [1, 0, 0, 0]])
    raters, weight = text_raters(visual, text)
    assert raters.tolist() == [0]
    assert float(weight.sum()) == pytest.approx(1)
    assert text_raters(visual, text[:1])[0].tolist() == [0]
    assert text_raters(visual, text[:1].repeat(3, 1))[0].tolist() == [0, 1, 2]


def test_the_profile_falls_with_distance_and_is_never_negative():
    angles = rotary(torch.arange(3000), 128)
    profile = distance_profile(angles[:, -1:], angles)[0]
    assert float(profile[-1]) == pytest.approx(1, abs=1e-4)
    assert profile[-2] > profile[-20] > profile[-600]
    small = rotary(torch.arange(3000), 4)
    assert float(distance_profile(small[:, -1:], small).min()) == pytest.approx(LEAST_PROFILE)


def test_position_tokens_of_llava_are_its_first_row_whatever_the_picture():
    """With five tokens before the picture the cosine set is known; it holds nothing of the content."""
    by_cosine, by_sine = anchor_places(rotary(torch.arange(5, 5 + N), 128), 29)
    assert by_cosine.tolist() == [*range(28), 32]
    assert len(by_sine) == 29


def test_position_tokens_take_at_most_half():
    for ratio in (0.01, 0.05, 1 / 9, 0.28, 0.5):
        [step] = drive(METHODS["ivcprune"](keep_ratio=ratio), World.make((24, 24)))
        extra = step.decision.extra
        places = set(extra["by_cosine"].tolist()) | set(extra["by_sine"].tolist())
        assert len(places) <= len(step.decision.keep) / 2
        assert places <= set(step.decision.keep.tolist())
        assert ratio < 0.28 or len(extra["by_cosine"]) == 29
