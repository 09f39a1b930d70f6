"""CoViPAL's training: the teacher really attends, really holds tokens back, and a stopped training goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pruning.demo_model.pruners.covipal import CoViPALRecipe, CoViPALTraining, Teacher
from pruning.demo_model.pruners.meteor import MeteorRecipe, MeteorTraining
from pruning.demo_model.pruners.training import learn
from pruning.demo_model.pruners.vistog import VisToGRecipe, VisToGTraining
from pruning.demo_model.training.language import (
    SHORT_KINDS,
    FeatureCache,
    Segment,
    cached_scene,
    encode_prefix,
    forward,
    pack,
)
from pruning.demo_model.training.token_subsets import N_PATCHES
from pruning.demo_model.world.questions import ask_many
from pruning.errors import PrunerUntrainedError
from pruning.methods import trained_modules as learned
from pruning.methods.meteor import TopDownScorer
from pruning.methods.vistog import members
from pruning.models import load

N_SCENES = 4


@pytest.fixture(scope="module")
def adapter():
    return load("demo", dtype="float32")


@pytest.fixture(scope="module")
def teacher(adapter) -> Teacher:
    return Teacher(adapter)


@pytest.fixture(scope="module")
def cache(adapter, tmp_path_factory) -> FeatureCache:
    found = FeatureCache(tmp_path_factory.mktemp("features"), N_SCENES)
    found.fill(adapter.model.model.vision_tower, adapter.device)
    return found


def lesson(adapter, cache, n_questions, kept=None):
    every = np.tile(np.arange(N_PATCHES) if kept is None else kept, (2, 1))
    segments = []
    for i in range(2):
        asked = ask_many(cached_scene(i)[0], np.random.default_rng(i), n_questions, SHORT_KINDS)
        segments.append([Segment(q, q.text) for q in asked])
    features = np.take_along_axis(cache.features[:2], every[..., None], 1).astype(np.float32)
    return torch.from_numpy(features), pack(adapter.tokenizer, every, segments)


def answer_loss(adapter, features, batch) -> torch.Tensor:
    with torch.no_grad():
        hidden, _ = forward(adapter.model, encode_prefix(adapter.tokenizer), features, batch, renumber=False)
        wanted = batch.target != -100
        return F.cross_entropy(adapter.model.lm_head(hidden[wanted]), batch.target[wanted])


def test_a_question_looks_at_the_objects_and_no_two_alike(adapter, teacher, cache):
    found = teacher.attention(*lesson(adapter, cache, 3))
    assert found.shape == (6, N_PATCHES)
    assert torch.equal(found.amax(1), torch.ones(6))
    assert len({tuple(row.tolist()) for row in found}) == 6
    for row, owner in zip(found[::3], cache.owner[:2], strict=True):
        of_objects = torch.from_numpy(owner > 0)
        assert row[of_objects].mean() > 3 * row[~of_objects].mean()


def test_a_token_whose_keep_probability_is_nothing_is_as_if_it_were_not_there(adapter, teacher, cache):
    kept = np.sort(np.random.default_rng(1).permutation(N_PATCHES)[:200])
    features, batch = lesson(adapter, cache, 1)
    log_keep = torch.full((2, N_PATCHES), -1e9)
    log_keep[:, kept] = 0.0
    without = answer_loss(adapter, *lesson(adapter, cache, 1, kept))
    assert teacher.loss(features, batch, log_keep).item() == pytest.approx(without.item(), abs=1e-4)
    full = answer_loss(adapter, features, batch)
    assert teacher.loss(features, batch, torch.zeros(2, N_PATCHES)).item() == pytest.approx(full.item(), abs=1e-4)
    assert abs(without - full) > 1e-3


TRAININGS = [
    (CoViPALTraining, CoViPALRecipe(guided_steps=1, guided_scenes=2, questions=2, answered_steps=1, answered_scenes=2)),
    (VisToGTraining, VisToGRecipe(steps=1, scenes=2, questions=2, groups=20)),
    (MeteorTraining, MeteorRecipe(steps=1, scenes=2)),
]


@pytest.mark.parametrize(("training", "recipe"), TRAININGS, ids=lambda one: type(one).__name__)
def test_a_training_writes_what_this_model_gets_and_does_nothing_twice(
    adapter, cache, tmp_path, monkeypatch, training, recipe
):
    monkeypatch.setattr(learned, "FOLDERS", [tmp_path])
    method = training.method(keep_ratio=0.02)
    with pytest.raises(PrunerUntrainedError):
        method.trained(adapter.info)
    weights = []
    for _ in range(2):  # the second time nothing is left to do
        torch.manual_seed(0)
        learn(training(adapter, cache, recipe), adapter, tmp_path / "work", tmp_path / "out")
        weights.append(method.trained(adapter.info).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    torch.manual_seed(0)
    untrained = training(adapter, cache, recipe).module.state_dict()
    assert any(not torch.equal(weights[0][name], untrained[name]) for name in untrained)
    assert "| 1 |" in (tmp_path / "out" / "README.md").read_text()
    assert learned.read(tmp_path / "out").made_for == adapter.identity()


def test_every_group_has_a_member_that_stands_for_it():
    affinity = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 0.5], [1.0, 4.0, 0.2]])  # nobody chooses the third
    group, first = members(affinity)
    assert group.tolist() == [0, 2, 1]
    assert first.tolist() == [0, 2, 1]


def test_the_scorer_reads_nothing_where_no_word_is():
    torch.manual_seed(3)
    module, visual, text = TopDownScorer(16), torch.randn(2, 36, 16), torch.randn(2, 5, 16)
    window, real = torch.arange(36) // 6, torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    both = module(visual, text, window, real)
    assert torch.allclose(both[0], module(visual[:1], text[:1], window)[0], atol=1e-5)
    assert torch.allclose(both[1], module(visual[1:], text[1:, 2:], window)[0], atol=1e-5)
    assert not torch.allclose(both[1], module(visual[1:], text[1:], window)[0], atol=1e-3)
