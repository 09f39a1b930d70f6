"""Family x method: every served family does what LLaVA does, or refuses by name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from pruning.engine.head_attention import head_attention
from pruning.engine.plan import make_plan
from pruning.engine.run import run
from pruning.engine.session import Compressed, RunContext
from pruning.errors import PlanError, PruningError, QuestionRejectedError
from pruning.interface import Part, Signal
from pruning.methods import METHODS
from pruning.models.base import RunCallbacks
from pruning.records.plan import PlanRequest
from support.families import FAMILIES, Idefics3, SmolVLM
from support.following import IN_TOWER, N_NEW, ask, followed, spoken
from support.noise import Noise
from support.reference import QUESTION, log_probs

WHERE = [
    ("random_baseline", {"where": p.value, "layer": n}) for p, n in ((Part.PROJECTOR, 0), (Part.LANGUAGE_MODEL, 2))
]


@pytest.fixture(scope="module", params=[key for key in FAMILIES if key != "smolvlm"])
def family(request):
    tiny = FAMILIES[request.param]
    return tiny, tiny.make()


def test_keep_ratio_one_equals_plain_generate(family, noise):
    _, adapter = family
    prompt = adapter.prompt(noise, QUESTION)
    plain = adapter.model.generate(
        **prompt.inputs(), do_sample=False, max_new_tokens=N_NEW, return_dict_in_generate=True, output_logits=True
    )
    ids = plain.sequences[0, prompt.input_ids.shape[1] :]
    expected = [float(step[0].log_softmax(-1)[i]) for step, i in zip(plain.logits, ids, strict=True)]
    record, out = followed(adapter, ask("random_baseline", keep_ratio=1.0), noise)
    assert out.token_ids == ids.tolist()
    assert np.allclose(out.log_probs, spoken(adapter, out.token_ids, expected), atol=1e-5)
    assert record.full.visual_per_layer == (record.layout.n_tokens,) * adapter.info.text_layers
    assert record.full.text_tokens == prompt.input_ids.shape[1] - record.layout.n_tokens


@pytest.mark.parametrize("positions", ["original", "renumbered"])
@pytest.mark.parametrize(("method", "parameters"), [*((m, {}) for m in METHODS), *WHERE], ids=str)
def test_pruned_run_equals_masked_run_or_is_refused(family, noise, method, parameters, positions):
    """Prefill and every decoded token, against one pass over the whole sequence without a hook."""
    tiny, adapter = family
    request = ask(method, parameters, positions=positions)
    if method in tiny.refused:
        with pytest.raises(PruningError, match=f"{re.escape(METHODS[method].title)} .*{adapter.info.name}"):
            run(request, adapter, noise)
        return
    if tiny.projector_reason and parameters.get("where") == Part.PROJECTOR.value:
        with pytest.raises(PruningError, match=f"Random drops tokens before the projector; .*{tiny.projector_reason}"):
            run(request, adapter, noise)
        return
    record, out = followed(adapter, request, noise)
    assert record.steps
    assert 0 < len(record.kept) < record.layout.n_tokens
    assert record.positions == positions
    stands_in = METHODS[method].without_cls and not adapter.info.has_cls
    assert any("has no [CLS]" in note for note in record.notes) == stands_in
    expected = spoken(adapter, out.token_ids, log_probs(adapter, noise, record, out.token_ids, tiny))
    assert np.allclose(out.log_probs, expected, atol=1e-5), (out.log_probs, expected)


def test_large_pictures_come_thinned_out(noise):
    """The random picture is one of them, so the runs above are about such tokens."""
    adapter = FAMILIES["llava_onevision"].make()
    layout = adapter.layout((noise.shape[1], noise.shape[0]))
    assert layout.tiles[1].grid_hw == (6, 10)
    assert adapter._packing(layout.picture_wh)[0].tiles[1].grid_hw == (8, 12)


def test_smolvlm2_is_idefics3_under_another_name(noise):
    """With the same weights they give the same run, token by token; so one of them stands for both above."""
    one = Idefics3()
    one.side = SmolVLM.side
    both = [one.make(), FAMILIES["smolvlm"].make()]
    assert type(both[0].model) is not type(both[1].model)
    both[1].model.load_state_dict(both[0].model.state_dict())
    for method in ("divprune", "fastv"):
        one, other = (followed(adapter, ask(method), noise) for adapter in both)
        assert one[1].token_ids == other[1].token_ids
        assert one[1].log_probs == other[1].log_probs
        assert one[0].kept.tolist() == other[0].kept.tolist()
    prompt = both[1].prompt(noise, QUESTION)
    plain = both[1].model.generate(**prompt.inputs(), do_sample=False, max_new_tokens=N_NEW)
    full = followed(both[1], ask("divprune", keep_ratio=1.0), noise)[1]
    assert full.token_ids == plain[0, prompt.input_ids.shape[1] :].tolist()


def test_no_method_drops_rows_in_a_tower_that_does_not_allow_it(family, noise):
    tiny, adapter = family
    with pytest.raises(PruningError, match=f"Random drops tokens inside .*{tiny.tower_reason}"):
        run(ask("random_baseline", IN_TOWER), adapter, noise)


def test_teacher_forcing_agrees_with_generation(family, noise):
    _, adapter = family
    prompt = adapter.prompt(noise, QUESTION)
    encoded = adapter.encode_image(prompt, [], None, RunCallbacks())
    assert encoded.features.shape == (prompt.layout.n_tokens, adapter.info.token_dim)
    full = adapter.project(encoded, None)
    out = adapter.answer(prompt, full, None, N_NEW, RunCallbacks())
    scored = adapter.score(prompt, full, None, out.token_ids)
    chosen = [float(p[i]) for p, i in zip(scored, out.token_ids, strict=True)]
    assert np.allclose(spoken(adapter, out.token_ids, chosen), out.log_probs, atol=1e-5)


def test_only_the_question_is_taken_for_the_question(family, noise):
    _, adapter = family
    prompt = adapter.prompt(noise, QUESTION)
    asked = "".join(w for w, mine in zip(prompt.token_texts, prompt.in_question, strict=True) if mine)
    assert asked.replace(" ", "").lower() == QUESTION.replace(" ", "").lower()
    with pytest.raises(QuestionRejectedError, match="reads as a command"):
        adapter.prompt(noise, f"What is {adapter.processor.image_token}?")
    longer = adapter.insert(prompt, "a large star")
    first, past = longer.inserted
    assert first > int(prompt.placeholders.nonzero()[-1])
    assert past - first == longer.input_ids.shape[1] - prompt.input_ids.shape[1] == 3
    assert not longer.in_question[:past].any()


def test_what_words_attend_to_lies_on_survivors(family, noise):
    _, adapter = family
    record = run(ask("random_baseline"), adapter, noise, RunContext(callbacks=RunCallbacks(trace=True)))
    attention = record.pruned.attention.astype("float32")
    assert attention.shape == (len(record.pruned.words), record.layout.n_tokens)
    assert set((attention.sum(0) > 0).nonzero()[0].tolist()) <= set(record.kept.tolist())
    assert set(record.nearest_kept.tolist()) <= set(record.kept.tolist())


def test_a_head_says_where_it_looks_or_that_it_cannot_be_seen(family, noise):
    """Every token gets something, and together no more than all of the attention."""
    _, adapter = family
    prompt = adapter.prompt(noise, QUESTION)
    [block] = [b for b in adapter.blocks((Part.LANGUAGE_MODEL,)) if b.layer == 1]
    n_heads = block.shape.kv_dim // block.head_dim
    weights = head_attention(adapter, prompt, Part.LANGUAGE_MODEL, 1, n_heads - 1, n_heads)
    assert weights.shape == (prompt.layout.n_tokens,)
    assert (weights > 0).all()
    assert weights.sum() < 1
    if Signal.RECEIVED_ATTENTION not in adapter.info.signals:
        with pytest.raises(PlanError, match="cannot be seen in tiny"):
            head_attention(adapter, prompt, Part.TOWER, 0, 0, 1)
        return
    weights = head_attention(adapter, prompt, Part.TOWER, 0, 0, 1)
    assert weights.shape == (prompt.layout.n_tokens,)
    assert (weights > 0).all()
    assert weights.sum() < 1 + 1e-5


def test_eager_attention_gives_the_same_answer(family, noise):
    tiny, adapter = family
    eager = tiny.make(attention="eager")
    for method in ("random_baseline", "fastv"):
        a, b = (run(ask(method), model, noise).pruned for model in (adapter, eager))
        assert np.allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_the_model_is_left_as_it_was(family, noise):
    _, adapter = family
    prompt = adapter.prompt(noise, QUESTION)
    before = adapter.model.generate(**prompt.inputs(), do_sample=False, max_new_tokens=N_NEW, output_logits=True,
                                    return_dict_in_generate=True).logits  # fmt: skip
    for method in ("random_baseline", "fastv", "divprune"):
        run(ask(method), adapter, noise)
    after = adapter.model.generate(**prompt.inputs(), do_sample=False, max_new_tokens=N_NEW, output_logits=True,
                                   return_dict_in_generate=True).logits  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_heads_of_the_language_model_can_be_taken_out(family, noise):
    """Calibrated, sliced and scored with the whole picture, against the model's own forward with gates at zero."""
    _, adapter = family
    wanted = PlanRequest("tiny", parts=[Part.LANGUAGE_MODEL.value], heads=0.5, ffn="none", n_pairs=1)
    plan = make_plan(adapter, wanted, Noise(QUESTION))
    prompt = adapter.prompt(noise, QUESTION)
    answer = adapter.tokenizer("a large star", add_special_tokens=False)["input_ids"]
    gated = adapter.gated((Part.LANGUAGE_MODEL,))
    gated.gates = [
        torch.zeros(p.n_heads).index_fill(0, torch.tensor(p.heads.astype("int64")), 1.0) for p in plan.layers
    ]
    with torch.inference_mode():
        expected = gated.answer_logits(prompt, torch.tensor(answer)).log_softmax(-1)
    view = adapter.compressed(plan)
    try:
        full = view.project(view.encode_image(prompt, [], None, RunCallbacks()), None)
        assert torch.allclose(view.score(prompt, full, None, answer), expected, atol=1e-5)
        record = run(ask("divprune"), adapter, noise, compressed=Compressed(plan, view))
    finally:
        view.close()
    assert record.pruned_cost.prefill_flops < record.full_cost.prefill_flops
    assert record.pruned_cost.tower_flops == record.full_cost.tower_flops
