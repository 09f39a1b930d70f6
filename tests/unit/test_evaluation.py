"""The figures of the bundled model: more scenes are added to those that were judged, nothing is judged twice."""

from __future__ import annotations

import json
import random

import pytest

from pruning.demo_model.evaluate import BUDGETS, Evaluation, _configurations, _curve, _judged, _together
from pruning.demo_model.judge import Outcome


def outcomes(n: int, seed: int) -> list[list[Outcome]]:
    draw = random.Random(seed)
    return [
        [Outcome(draw.random() < 0.8, draw.randrange(11) / 10, draw.randrange(18, 192)) for _ in BUDGETS]
        for _ in range(n)
    ]


def test_scenes_that_come_later_count_like_those_that_were_there():
    asked, scenes = _configurations("fastv"), outcomes(1000, seed=1)
    whole, first, rest = (_curve(asked, part) for part in (scenes, scenes[:300], scenes[300:]))
    for name, entry in whole.items():
        found = _together(first[name], rest[name])
        assert found["accuracy"] == entry["accuracy"]
        assert found["evidence_kept"] == pytest.approx(entry["evidence_kept"], abs=1e-4)
        assert found["mean_tokens_per_layer"] == pytest.approx(entry["mean_tokens_per_layer"], abs=0.02)
        assert _judged(found) == 1000


def test_a_refusal_stays_one():
    refused = {"refused": "it cannot"}
    entry = _curve(_configurations("fastv"), outcomes(3, seed=2))["fastv@64"]
    assert _together(refused, entry) == refused
    assert _together(None, entry) == entry
    assert _judged(refused) > _judged(entry) > _judged(None) == 0


def test_only_the_scenes_of_the_methods_may_grow(tmp_path):
    figures = tmp_path / "figures.json"
    sizes = {"scenes": 9, "described_scenes": 4, "pruned_scenes": 3}
    figures.write_text(json.dumps(sizes))
    assert Evaluation("demo", figures, 9, 4, 8, 1).results["pruned_scenes"] == 8
    for others in ((10, 4, 8), (9, 5, 8), (9, 4, 2)):
        with pytest.raises(SystemExit, match="other numbers of scenes"):
            Evaluation("demo", figures, *others, 1)
