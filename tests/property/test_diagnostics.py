"""What diagnostics must say whatever the picture, the model and the method are."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pruning.engine.overlap import with_overlaps
from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.errors import PruningError, RecordFormatError, RunStopped
from pruning.layout import Tile, TokenLayout
from pruning.methods import METHODS
from pruning.metrics.diagnostics import DRAWS, diagnose, distances, edge_rows, random_sets, told, word_entropy
from pruning.metrics.token_statistics import entropy, likeness, rank_of, traits_of
from pruning.models.base import RunCallbacks
from pruning.records.diagnostics import Overlap, Traits
from pruning.records.run import RunRecord, RunRequest

TILES = (Tile((0, 0, 60, 40), (4, 6), (48, 32)), Tile((0, 40, 60, 90), (5, 3), (24, 40)))
LAYOUT = TokenLayout((60, 90), TILES)
UNMARKED = ("resprune", "fastv", "visionzip", "tome", "prumerge", "uniform_grid")  # one for each place of deciding


def answered(tiny, noise, method="resprune", ratio=0.25, **kwargs) -> RunRecord:
    request = RunRequest("tiny", method, ratio, "What color is the star?", max_new_tokens=1)
    return run(request, tiny, noise, RunContext(callbacks=RunCallbacks(trace=True), **kwargs))


@pytest.fixture(scope="module")
def record(tiny, noise) -> RunRecord:
    return answered(tiny, noise, answer_region=np.array([3, 4, 9]))


@pytest.fixture(scope="module")
def compared(tiny, noise, record) -> RunRecord:
    return with_overlaps(record, tiny, noise)


def by_key(record: RunRecord) -> dict:
    return {f.key: f for f in diagnose(record).findings}


@pytest.mark.parametrize("count", [1, 5, 20, 39])
def test_distance_is_that_to_the_nearest_kept_piece_of_the_tile(count):
    kept = np.sort(np.random.default_rng(count).permutation(LAYOUT.n_tokens)[:count])
    found, start = distances(LAYOUT, kept), 0
    for tile in TILES:
        cells = np.stack(np.divmod(np.arange(tile.n_tokens), tile.grid_hw[1]), 1)
        mine = kept[(kept >= start) & (kept < start + tile.n_tokens)] - start
        away = np.linalg.norm(cells[:, None] - cells[mine][None], axis=2)
        true = away.min(1) if len(mine) else math.hypot(*tile.grid_hw)
        assert np.allclose(found[start : start + tile.n_tokens], true, atol=1e-4)
        start += tile.n_tokens
    assert (found[kept] == 0).all()


def test_a_run_that_keeps_everything_has_no_holes(tiny, noise):
    found = by_key(answered(tiny, noise, ratio=1))
    assert found["coverage"].value == found["coverage_worst"].value == found["coverage"].chance == 0
    assert found["top_row"].value == found["bottom_row"].value == found["top_row"].chance == 1 / 6
    assert found["random_overlap"].value == found["random_overlap"].chance == 1
    assert found["effective_rank"].value == found["effective_rank_kept"].value
    assert set(diagnose(answered(tiny, noise, ratio=1)).rows) == {1.0}


def test_chance_is_what_counting_says(record):
    found, n, k = by_key(record), record.layout.n_tokens, len(record.kept)
    assert found["random_overlap"].chance == found["answer_region"].chance == k / n
    assert found["top_row"].chance == found["bottom_row"].chance == 1 / 6
    assert abs(found["random_overlap"].value - k / n) < 4 * 0.1 / math.sqrt(DRAWS)
    for f in found.values():
        assert f.low is None or f.low <= f.chance <= f.high
    drawn = random_sets(n, k)
    assert (drawn.sum(1) == k).all()
    assert np.array_equal(drawn, random_sets(n, k))
    assert abs(drawn.mean(0) - k / n).max() < 0.25, "no place is favoured"


def test_every_edge_row_is_counted_in_its_tile():
    top, bottom = edge_rows(LAYOUT)
    assert top.tolist() == [*range(6), *range(24, 27)]
    assert bottom.tolist() == [*range(18, 24), *range(36, 39)]


def test_evidence_and_rows_are_those_of_the_kept_set(record):
    found = by_key(record)
    assert found["answer_region"].value == np.isin([3, 4, 9], record.kept).mean()
    rows = diagnose(record).rows
    assert rows == tuple(np.round(np.bincount(record.kept // 6, minlength=6) / 6, 4))
    assert found["top_row"].value == pytest.approx(rows[0] * 6 / len(record.kept), abs=1e-3)


def test_effective_rank_and_entropy_at_their_ends():
    assert rank_of(torch.eye(7, 12)) == pytest.approx(7)
    assert rank_of(torch.eye(12, 7)) == pytest.approx(7)
    assert rank_of(torch.ones(9, 4)) == pytest.approx(1)
    assert entropy(torch.ones(3, 16)) == pytest.approx(math.log(16))
    assert entropy(torch.eye(16)[:1]) == 0
    assert word_entropy(np.full((2, 16), 0.01)) == pytest.approx(math.log(16))
    assert word_entropy(np.eye(16)[:1]) == 0
    assert word_entropy(np.zeros((0, 16))) is word_entropy(None) is None
    pairs = torch.eye(5).repeat_interleave(2, 0)
    assert likeness(pairs, torch.arange(0, 10, 2)) == pytest.approx(1)
    assert likeness(pairs, torch.tensor([0])) == pytest.approx(1 / 9)


def test_large_spectra_are_left_out_of_a_run_and_nothing_else(record):
    features, kept = torch.randn(12, 8), torch.tensor([1, 5])
    some = traits_of(features, kept, None, largest=4)
    assert some.effective_rank is None
    assert some.effective_rank_kept == traits_of(features, kept, None).effective_rank_kept
    assert traits_of(features, torch.arange(12), None).cosine_random is None
    found = by_key(replace(record, traits=some))
    assert "Compare" in found["effective_rank"].means
    assert "no [CLS]" in found["attention_entropy"].means


def test_overlaps_are_those_of_whole_runs(tiny, noise, record, compared):
    found = {o.method: o for o in compared.overlaps}
    assert set(found) == set(METHODS) - {"resprune", "random_baseline"}
    for method in UNMARKED[1:]:
        kept = answered(tiny, noise, method).kept
        assert (found[method].kept, found[method].shared) == (len(kept), np.isin(kept, record.kept).sum()), method
    again = pytest.approx(asdict(compared.traits), rel=1e-4)
    assert asdict(record.traits) == again, "what a run works out by the way is the same"
    itself = with_overlaps(replace(record, request=replace(record.request, method="fastv")), tiny, noise)
    mine = next(o for o in itself.overlaps if o.method == "resprune")
    assert mine.shared == mine.kept == len(record.kept), "the overlap with itself is 1"


def test_the_tower_looks_once_for_all_that_leave_it_whole(tiny, noise, record):
    calls, turns = [], []
    handle = tiny.model.model.vision_tower.register_forward_pre_hook(lambda m, a: calls.append(1))
    try:
        with_overlaps(record, tiny, noise, say=turns.append)
    finally:
        handle.remove()
    assert len(calls) == 2, "one for all, and one for ToMe, which drops tokens between layers"
    assert turns[1:] == [m.title for k, m in METHODS.items() if k not in ("resprune", "random_baseline")]


def test_who_cannot_be_asked_is_named_with_the_reason(tiny, noise):
    found = with_overlaps(answered(tiny, noise, ratio=35 / 36), tiny, noise).overlaps
    refused = {o.method: o.refused for o in found if o.refused}
    assert "ViTCoP keeps at most" in refused["vitcop"]
    with pytest.raises(RunStopped):
        with_overlaps(answered(tiny, noise), tiny, noise, stop=lambda: True)


def test_all_of_it_is_saved_and_old_records_say_what_they_lack(compared, tmp_path):
    compared.save(tmp_path / "r")
    back = RunRecord.load(tmp_path / "r")
    assert (back.traits, back.overlaps) == (compared.traits, compared.overlaps)
    assert json.dumps(diagnose(back).figures(), allow_nan=False)
    assert any("FastV: keeps 9, shares" in line for line in told(back))
    data, arrays = compared.to_parts()
    del data["traits"], data["overlaps"], arrays["nearest_kept"], arrays["nearest_cosine"]
    old = RunRecord.from_parts(data, arrays)
    assert old.traits is None
    assert by_key(old)["effective_rank"].value is None
    assert by_key(old)["coverage"].value > 0
    assert "effective rank of the picture: –" in "\n".join(told(old))


@pytest.mark.parametrize(
    "damage",
    [
        {"traits": {"width": 3, "attention_entropy": float("nan")}},
        {"traits": {"width": None}},
        {"traits": {"width": 3, "colour": 1}},
        {"overlaps": [{"method": "fastv", "title": "FastV", "kept": 4, "shared": 5}]},
        {"overlaps": [{"method": "fastv", "title": "FastV", "kept": 99, "shared": 1}]},
        {"overlaps": [{"method": "fastv", "title": ["x"]}]},
    ],
    ids=str,
)
def test_figures_that_cannot_be_are_refused(compared, damage):
    data, arrays = compared.to_parts()
    with pytest.raises(PruningError):
        RunRecord.from_parts(data | damage, arrays)
    with pytest.raises(RecordFormatError):
        Traits(float("inf"))
    with pytest.raises(RecordFormatError):
        Overlap("a", "b", 1, 2)
