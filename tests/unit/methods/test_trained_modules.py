"""Modules that a pruner was trained with: found for their own model only, refused where they are damaged."""

from __future__ import annotations

import json

import pytest
import torch

from pruning.checkpoints import CONFIG, WEIGHTS
from pruning.demo_model.pairs import DrawnPairs
from pruning.engine.plan import make_plan
from pruning.errors import PrunerUntrainedError
from pruning.interface import Part
from pruning.methods import METHODS
from pruning.methods import trained_modules as learned
from pruning.methods.covipal import CoViPAL, KeepClassifier
from pruning.methods.published_budgets import meaning
from pruning.methods.trained_modules import Learned, module_for, read, save
from pruning.records.plan import PlanRequest
from support.tiny_models import make_tiny_adapter

KEY, TITLE = "trained_here", "Trained here"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(learned, "FOLDERS", [tmp_path])
    return tmp_path


def write(folder, adapter, seed=0, key=KEY) -> KeepClassifier:
    torch.manual_seed(seed)
    module = KeepClassifier(adapter.info.text_dim)
    save(folder, Learned(key, {"dim": adapter.info.text_dim}, module.state_dict(), adapter.identity(), {"minutes": 1}))
    return module


def found(adapter):
    return module_for(KEY, TITLE, KeepClassifier, adapter.info, adapter.info.text_dim)


def test_it_is_found_again_for_its_own_model_whatever_object_holds_the_weights(place, tiny):
    module = write(place / "one", tiny)
    again = found(make_tiny_adapter())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    assert not any(p.requires_grad for p in again.parameters())
    assert found(tiny) is again
    assert read(place / "one").facts == {"minutes": 1}


def test_a_module_that_was_trained_again_replaces_the_old_one(place, tiny):
    write(place / "one", tiny)
    before = found(tiny).keep[1].weight.clone()
    write(place / "one", tiny, seed=1)
    assert not torch.equal(found(tiny).keep[1].weight, before)


def test_another_model_and_another_method_are_refused_by_name(place, tiny):
    write(place / "one", tiny)
    for other in (make_tiny_adapter(seed=1), make_tiny_adapter(kv_heads=4)):
        with pytest.raises(PrunerUntrainedError, match="there is none for tiny"):
            found(other)
    with pytest.raises(PrunerUntrainedError, match="CoViPAL"):
        CoViPAL(keep_ratio=0.5).check(tiny.info)


def test_a_model_that_gives_it_the_same_to_read_may_use_it(place, tiny):
    """Layers that no module reads may be others: a language model that was trained on, or heads taken out."""
    module = write(place / "one", tiny)
    trained_on = make_tiny_adapter()
    with torch.no_grad():
        trained_on.model.model.language_model.layers[1].mlp.up_proj.weight.add_(1.0)
    assert torch.equal(found(trained_on).keep[1].weight, module.keep[1].weight)
    for part in (trained_on.model.model.multi_modal_projector.linear_1, trained_on.model.get_input_embeddings()):
        other = make_tiny_adapter()
        same = dict(trained_on.model.named_modules())
        name = next(n for n, m in same.items() if m is part)
        with torch.no_grad():
            other.model.get_submodule(name).weight.add_(torch.randn_like(part.weight))
        with pytest.raises(PrunerUntrainedError):
            found(other)


def test_the_view_that_a_plan_makes_of_a_model_may_use_its_modules(place, tiny):
    write(place / "one", tiny)
    plan = make_plan(tiny, PlanRequest("tiny", parts=(Part.TOWER.value,), score="magnitude", heads=0.5), DrawnPairs())
    view = tiny.compressed(plan)
    try:
        assert found(view) is found(tiny)
    finally:
        view.close()


def test_budgets_of_an_untrained_method_are_told_in_a_sentence(place, tiny):
    for method in METHODS.values():
        if method.module is not None:
            said = meaning(method(keep_ratio=0.5), tiny.info, 36)
            assert said.per_layer == ()
            assert "there is none for tiny" in said.text


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"no tensors"), "cannot be read"),
        (lambda f: (f / WEIGHTS).unlink(), "cannot be read"),
        (lambda f: edit(f, format=99), "format 99"),
        (lambda f: edit(f, sha256="0"), "not the ones"),
        (lambda f: edit(f, shape={"dim": 64, "width": 32}), "does not fit its own description"),
        (lambda f: edit(f, shape={"dim": 64, "depth": 2}), "does not fit its own description"),
    ],
)
def test_a_damaged_folder_is_refused_with_a_sentence(place, tiny, damage, says):
    write(place / "one", tiny)
    damage(place / "one")
    with pytest.raises(PrunerUntrainedError, match=says):
        found(tiny)


def edit(folder, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def test_folders_of_other_things_are_passed_by(place, tiny):
    for name, text in (("a", "{"), ("b", "[]"), ("c", json.dumps({"kind": "accm"}))):
        (place / name).mkdir()
        (place / name / CONFIG).write_text(text)
    write(place / "z", tiny)
    assert isinstance(found(tiny), KeepClassifier)


def test_the_classifier_does_not_see_padding_of_the_question():
    torch.manual_seed(2)
    module, visual, text = KeepClassifier(16), torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    is_pad = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    both = module(visual, text, is_pad)
    assert torch.allclose(both[0], module(visual[:1], text[:1])[0], atol=1e-5)
    assert torch.allclose(both[1], module(visual[1:], text[1:, :3])[0], atol=1e-5)
