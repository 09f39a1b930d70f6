"""Trained gates: the loss falls, the planned share goes, a stopped training goes on exactly, nobody else notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine.train_gates import HeadRecipe, HeadTraining
from pruning.errors import ParameterError, RunStopped
from pruning.interface import Part
from pruning.ops.spectra import ks_mass, singular_values
from pruning.records.plan import PlanRequest, StructuralPlan
from pruning.structural.base import choose_heads
from pruning.structural.gates import gate_values, ramp, soft_ks, temperature
from pruning.structural.infoprune import _leave_out
from support.following import fingerprint
from support.noise import TWO_QUESTIONS, Noise
from support.tiny_models import make_tiny_adapter

REQUEST = PlanRequest("tiny", parts=[Part.TOWER.value, Part.LANGUAGE_MODEL.value], n_pairs=2)
QUICK = {"pool": 3, "batch": 1, "answer_tokens": 3, "rate": 0.05}


@pytest.fixture(scope="module")
def adapter():
    return make_tiny_adapter()


def train(adapter, recipe, checkpoint=None, **kwargs) -> HeadTraining:
    return HeadTraining(adapter, Noise(*TWO_QUESTIONS), recipe, REQUEST, checkpoint, **kwargs)


@pytest.mark.parametrize("task", ["kl", "ce"])
def test_the_target_is_hit_within_one_head_and_the_way_there_is_noted(adapter, task):
    recipe = HeadRecipe(sparsity=0.4, steps=40, task=task, **(QUICK | {"rate": 0.4}))
    plan = train(adapter, recipe).run()
    kept, total = (sum(v) for v in zip(*plan.summary().heads.values(), strict=True))
    assert abs((total - kept) - 0.4 * total) <= 1
    assert all(len(p.heads) >= 1 for p in plan.layers)
    noted = plan.training
    assert noted.gates.shape == (40, total)
    assert noted.terms["target"][-1] == pytest.approx(0.4)
    assert noted.gates[-1].mean() < noted.gates[0].mean()
    assert noted.recipe["task"] == task
    gone = [h for p in plan.layers for h in range(p.n_heads) if h not in p.heads]
    assert gone
    again = StructuralPlan.from_bytes(plan.to_bytes())
    assert np.array_equal(again.training.gates, noted.gates)
    assert again.digest == plan.digest


def test_the_loss_falls_once_the_plan_is_fixed(adapter):
    """Without a ramp the same loss is walked down: the task and the missed sparsity together."""
    recipe = HeadRecipe(sparsity=0.4, steps=40, ramp_share=0.01, heat=1.0, **QUICK)
    noted = train(adapter, recipe).run().training
    assert noted.terms["loss"][-5:].mean() < 0.5 * noted.terms["loss"][:5].mean()
    assert noted.terms["sparse"][-1] < 0.25 * noted.terms["sparse"][0]


def test_gates_that_matter_stay_open(adapter):
    """Heads ranked by training lose less of the dense answer than the heads it chose to give up."""
    training = train(adapter, HeadRecipe(sparsity=0.5, steps=60, heat=0.5, rank=0.0, distance=0.0, **QUICK))
    training.run()
    z = training.z.detach()

    def missed(order) -> float:
        kept = choose_heads(order.split(training.sizes), len(z) // 2)
        training.model.gates = [torch.zeros(n).index_fill(0, k, 1.0) for n, k in zip(training.sizes, kept, strict=True)]
        with torch.no_grad():
            return float(torch.stack([training._task(n) for n in range(QUICK["pool"])]).mean())

    assert missed(z) < missed(-z)


def test_a_stopped_training_goes_on_exactly(adapter, tmp_path):
    recipe = HeadRecipe(sparsity=0.3, steps=12, **QUICK)
    full = train(adapter, recipe)
    full.run()
    first = None
    first = train(adapter, recipe, tmp_path / "c.pt", stop=lambda: first is not None and first.step == 5)
    with pytest.raises(RunStopped):
        first.run()
    second = train(adapter, recipe, tmp_path / "c.pt")
    assert second.step == 5
    plan = second.run()
    assert torch.equal(second.z, full.z)
    assert np.array_equal(plan.training.gates, full.plan().training.gates)
    assert plan.digest == full.plan().digest
    finished = train(adapter, recipe, tmp_path / "c.pt")
    assert finished.step == 12
    assert finished.run().digest == plan.digest
    with pytest.raises(ParameterError, match="other settings"):
        train(adapter, HeadRecipe(sparsity=0.2, steps=12, **QUICK), tmp_path / "c.pt")
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(ParameterError, match="not a checkpoint"):
        train(adapter, recipe, tmp_path / "x.pt")


def test_training_leaves_the_shared_model_alone(noise):
    adapter = make_tiny_adapter()
    before = fingerprint(adapter)
    train(adapter, HeadRecipe(sparsity=0.3, steps=3, **QUICK)).run()
    assert fingerprint(adapter) == before
    assert all(p.grad is None for p in adapter.model.parameters())


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [("sparsity", 1.0, "below 1"), ("steps", 0, "above 0"), ("task", "mse", "kl, ce"), ("batch", True, "above 0")],
)
def test_bad_recipes_are_refused(field, value, sentence):
    with pytest.raises(ParameterError, match=sentence):
        HeadRecipe(**{field: value})


def test_schedules():
    assert [ramp(t, 10, 0.6) for t in (0, 10, 99)] == [0, 0.6, 0.6]
    assert ramp(5, 10, 0.6) == pytest.approx(0.6 * (1 - 0.5**3))
    assert temperature(0, 10, 0.1) == 1
    assert temperature(9, 10, 0.1) == pytest.approx(0.1)
    assert float(gate_values(torch.tensor(3.0), 1.0)) == pytest.approx(0.9526, abs=1e-4)


def test_the_smooth_distance_is_nothing_at_open_gates_and_near_the_real_one_at_closed_ones():
    y = torch.randn(200, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = y.T @ y
    assert float(soft_ks(torch.ones(4), gram)) == pytest.approx(0, abs=1e-6)
    for head in range(4):
        gate = torch.ones(4).index_fill(0, torch.tensor([head]), 0.0).requires_grad_()
        real = float(ks_mass(singular_values(gram), singular_values(_leave_out(gram, head, 8))))
        soft = soft_ks(gate, gram)
        assert 0.7 * real < float(soft.detach()) <= real + 1e-6
        [slope] = torch.autograd.grad(soft, gate)
        assert torch.isfinite(slope).all()
    half = torch.full((4,), 0.5, requires_grad=True)
    assert float(soft_ks(half, gram).detach()) == pytest.approx(0, abs=1e-6)  # all alike: the same shape
