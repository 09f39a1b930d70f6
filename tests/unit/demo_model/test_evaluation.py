"""The figures of the bundled model: more scenes are added to those that were judged, nothing is judged twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from pruning.benchmarks.reports import accuracy_text, draws_joined
from pruning.checkpoints import digest_of
from pruning.demo_model.evaluation import evaluate
from pruning.demo_model.evaluation.evaluate import BUDGETS, Evaluation, _configurations, _curve, _judged, _together
from pruning.demo_model.evaluation.judge import Outcome

MODEL = Path(__file__).parents[3] / "assets" / "models" / "demo"


def outcomes(n: int, seed: int) -> list[list[Outcome]]:
    draw = random.Random(seed)
    return [
        [Outcome(draw.random() < 0.8, draw.randrange(11) / 10, draw.randrange(18, 192)) for _ in BUDGETS]
        for _ in range(n)
    ]


def test_scenes_that_come_later_count_like_those_that_were_there():
    asked, scenes = _configurations("fastv"), outcomes(1000, seed=1)
    full, first, rest = (_curve(asked, part) for part in (scenes, scenes[:300], scenes[300:]))
    for name, entry in full.items():
        found = _together(first[name], rest[name])
        assert found["accuracy"] == entry["accuracy"]
        assert found["answer_region_kept"] == pytest.approx(entry["answer_region_kept"], abs=1e-4)
        assert found["mean_tokens_per_layer"] == pytest.approx(entry["mean_tokens_per_layer"], abs=0.02)
        assert _judged(found) == 1000


def test_a_refusal_stays_one():
    refused = {"refused": "it cannot"}
    entry = _curve(_configurations("fastv"), outcomes(3, seed=2))["fastv@64"]
    assert _together(refused, entry) == refused
    assert _together(entry, refused) == refused, "or its scenes would be asked again without end"
    assert _together(None, entry) == entry
    assert _judged(refused) > _judged(entry) > _judged(None) == 0


def test_only_the_scenes_of_the_methods_may_grow(tmp_path):
    figures = tmp_path / "figures.json"
    sizes = {"scenes": 9, "described_scenes": 4, "pruned_scenes": 3}
    figures.write_text(json.dumps(sizes | {"weights": digest_of(MODEL)}))
    assert Evaluation(str(MODEL), figures, 9, 4, 8, 1).results["pruned_scenes"] == 8
    for others in ((10, 4, 8), (9, 5, 8), (9, 4, 2)):
        with pytest.raises(SystemExit, match="other numbers of scenes"):
            Evaluation(str(MODEL), figures, *others, 1)


def test_figures_of_other_weights_are_not_gone_on_with(tmp_path):
    figures = tmp_path / "figures.json"
    figures.write_text(json.dumps({"scenes": 9, "described_scenes": 4, "pruned_scenes": 3, "weights": "others"}))
    with pytest.raises(SystemExit, match="figures of other weights"):
        Evaluation(str(MODEL), figures, 9, 4, 3, 1)


def test_draws_of_the_same_questions_are_one_line_with_its_spread():
    asked, scenes = [("random_baseline", 64)], [[o[:1] for o in outcomes(100, seed)] for seed in (5, 6, 7)]
    first, second, third = (_curve(asked, part)["random_baseline@64"] for part in scenes)
    curve = {"random_baseline@64": first, "random_baseline#2@64": second, "random_baseline#3@64": third}
    curve |= _curve([("fastv", 64)], scenes[0])
    joined = draws_joined(curve)
    assert set(joined) == {"random_baseline@64", "fastv@64"}
    values = [e["accuracy"]["value"] for e in (first, second, third)]
    assert len(set(values)) > 1
    assert joined["random_baseline@64"]["accuracy"]["value"] == pytest.approx(sum(values) / 3)
    assert joined["random_baseline@64"]["answer_region_kept"] == pytest.approx(
        sum(e["answer_region_kept"] for e in (first, second, third)) / 3
    )
    assert accuracy_text(joined["random_baseline@64"]).endswith(f"{100 * min(values):.1f} to {100 * max(values):.1f}")
    assert accuracy_text(joined["fastv@64"]) == f"{100 * curve['fastv@64']['accuracy']['value']:.1f}"


def test_every_configuration_gets_all_scenes_whatever_was_judged_before(tmp_path, monkeypatch):
    """Scenes go on where the least judged ones are; none is asked of a method twice."""
    figures, asked = tmp_path / "figures.json", Counter()
    before = _curve(_configurations("fastv"), outcomes(3, seed=3))
    sizes = {"weights": digest_of(MODEL), "scenes": 9, "described_scenes": 4, "pruned_scenes": 3}
    figures.write_text(json.dumps(sizes | {"curve": before}))
    evaluation = Evaluation(str(MODEL), figures, 9, 4, 8, 1)

    def pruned(number, configurations):
        asked.update((number, one) for one in configurations)
        return outcomes(1, seed=number)[0] * (len(configurations) // len(BUDGETS)) + [Outcome(True, 1.0, 576.0)] * (
            len(configurations) % len(BUDGETS)
        )

    monkeypatch.setattr(evaluate, "_pruned", pruned)
    monkeypatch.setattr(evaluate, "PART", 4)
    evaluation._judge_methods(SimpleNamespace(map=map))
    assert all(_judged(entry) == 8 for entry in evaluation.results["curve"].values())
    assert set(asked.values()) == {1}
    assert {number for number, (method, _) in asked if method == "fastv"} == {3, 4, 5, 6, 7}
    assert {number for number, (method, _) in asked if method == "random_baseline#2"} == set(range(8))
    assert json.loads(figures.read_text())["curve"] == evaluation.results["curve"]
