"""Adapter x method: what was pruned is really gone, nothing else changed, and the model is left as it was."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.errors import ParameterError, RunStopped, SignalMissingError
from pruning.interface import TOWER_SIGNALS, Part, Signal
from pruning.methods import METHODS
from pruning.models.base import RunCallbacks
from pruning.models.generation import TextStreamer
from pruning.records.run import RunRequest
from support.following import fingerprint
from support.reference import QUESTION, log_probs
from support.tiny_models import broken_fastv, make_tiny_adapter, tiny_llava

N_NEW = 5
BASELINES = [
    ("random_baseline", {"where": part.value, "layer": layer})
    for part, layer in [(Part.TOWER, 0), (Part.TOWER, 2), (Part.PROJECTOR, 0), (Part.LANGUAGE_MODEL, 3)]
]
VARIANTS = [
    *((key, {}) for key in METHODS),
    *BASELINES,
    ("fastv", {"layer": 4}),
    ("fastv", {"budget": "average over layers"}),
    ("vitcop", {"deep_positions": "reindexed"}),
    ("vitcop", {"merge": "mean plus middle member"}),
    ("vitcop", {"vision_keep": 1.0}),
    ("visionzip", {"contextual_share": 0.5}),
    ("visionzip", {"contextual_share": 0.5, "merge": "sum of target and mean"}),
    ("resprune", {"alpha": 2.0, "relevance": "pooled question", "normalise": "l2"}),
    ("cdpruner", {"sign": "unlike the question counts", "question": "every token"}),
    ("holov", {"crops": "runs of the raster", "ranking": "attention"}),
    ("prumerge", {"budget": "outliers"}),
    ("prumerge", {"budget": "outliers", "attention_share": 1.0}),
    ("vscan", {"windows": "windows of 4 x 4 tokens"}),
    ("tome", {"inflection": -1.0}),
    ("sparsevlm", {"version": "2.0"}),
    ("sparsevlm", {"merge": "mean"}),
    ("dart", {"visit": "as coded", "count": "as coded"}),
    ("ivcprune", {"cache": "layers behind the cut"}),
    ("imported", {"kept": [0, 7, 20, 35], "layer": 2}),
    ("imported", {"groups": [i // 6 - (i % 6 == 5) for i in range(36)], "where": "projector"}),
]


def request(method, parameters=None, keep_ratio=0.4, positions="method", **kwargs) -> RunRequest:
    return RunRequest(
        "tiny",
        method,
        keep_ratio,
        QUESTION,
        parameters=parameters or {},
        positions=positions,
        max_new_tokens=N_NEW,
        **kwargs,
    )


@pytest.mark.parametrize("positions", ["method", "original", "renumbered"])
@pytest.mark.parametrize(("method", "parameters"), VARIANTS, ids=str)
def test_pruned_run_equals_masked_run(tiny, noise, method, parameters, positions):
    """Dropped tokens are as if masked at the same positions, in every layer, for the prompt and for each new token."""
    encoded = {}
    answer = tiny.answer

    def remember(*args):
        out = answer(*args)
        encoded["ids"], encoded["log_probs"] = out.token_ids, out.log_probs
        return out

    tiny.answer = remember
    try:
        record = run(request(method, parameters, positions=positions), tiny, noise)
    finally:
        del tiny.answer
    assert record.steps
    assert len(record.kept) < record.layout.n_tokens
    expected = log_probs(tiny, noise, record, encoded["ids"])
    assert np.allclose(encoded["log_probs"], expected, atol=1e-5), (encoded["log_probs"], expected)


@pytest.mark.parametrize("method", METHODS)
def test_keep_ratio_one_equals_plain_generate(tiny, noise, method):
    prompt = tiny.prompt(noise, QUESTION)
    plain = tiny.model.generate(
        input_ids=prompt.input_ids, pixel_values=prompt.pixels, do_sample=False, max_new_tokens=N_NEW,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    ids = plain.sequences[0, prompt.input_ids.shape[1] :]
    expected = [float(step[0].log_softmax(-1)[i]) for step, i in zip(plain.logits, ids, strict=True)]
    record = run(request(method, keep_ratio=1.0), tiny, noise)
    assert record.steps == ()
    assert record.pruned.text == tiny.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert np.allclose(record.pruned.log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "vitcop"])
def test_a_budget_that_rounds_to_everything_equals_the_full_run(tiny, noise, method):
    """The method is asked, and has to leave everything: the path through its stages costs nothing and loses nothing."""
    record = run(request(method, keep_ratio=0.995), tiny, noise)
    assert record.steps
    assert len(record.kept) == record.layout.n_tokens
    assert np.allclose(record.pruned.log_probs, record.full.log_probs, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_lengths_in_the_record_are_the_lengths_the_layers_saw(tiny, noise, method):
    lengths = {}
    handles = [
        layer.register_forward_pre_hook(lambda m, a, i=i: lengths.setdefault(i, []).append(a[0].shape[1]))
        for i, layer in enumerate(tiny.model.model.language_model.layers)
    ]
    try:
        record = run(request(method), tiny, noise)
    finally:
        for h in handles:
            h.remove()
    prefill = [lengths[i][N_NEW] for i in range(len(lengths))]  # the full run comes first: one prefill, then new tokens
    assert prefill == [n + record.pruned.text_tokens for n in record.pruned.visual_per_layer]
    assert all(n == record.layout.n_tokens for n in record.full.visual_per_layer)


def test_evicted_tokens_leave_the_caches_of_all_layers(tiny, noise):
    run(request("ivcprune"), tiny, noise)
    caches = []
    handle = tiny.model.model.language_model.register_forward_hook(
        lambda m, a, k, out: caches.append([layer.keys.shape[2] for layer in k["past_key_values"].layers]),
        with_kwargs=True,
    )
    try:
        gone, there = (
            run(request("ivcprune", {"cache": cache}), tiny, noise) for cache in ("all layers", "layers behind the cut")
        )
    finally:
        handle.remove()
    text, left = gone.pruned.text_tokens, len(gone.kept)
    last = [caches[i * N_NEW - 1] for i in (2, 4)]  # each run answers in full first
    assert last[0] == [text + left + N_NEW - 1] * 6
    assert last[1] == [text + 36 + N_NEW - 1] * 3 + [text + left + N_NEW - 1] * 3
    assert gone.pruned.visual_per_layer == there.pruned.visual_per_layer == (36, 36, 36, left, left, left)
    assert gone.pruned_cost.kv_bytes / there.pruned_cost.kv_bytes == pytest.approx(
        6 * (text + left) / (6 * text + 3 * (36 + left))
    )


def test_eager_attention_and_grouped_keys_give_the_same_answer(noise):
    for kv_heads in (1, 4):
        sdpa, eager = (make_tiny_adapter(attention=a, kv_heads=kv_heads) for a in ("sdpa", "eager"))
        for method in METHODS:
            a, b = (run(request(method), adapter, noise).pruned for adapter in (sdpa, eager))
            assert a.text == b.text
            assert np.allclose(a.log_probs, b.log_probs, atol=1e-4)


def test_model_is_left_as_it_was_after_success_and_after_a_crash(noise):
    model_alone = tiny_llava()
    adapter = make_tiny_adapter()
    run(request("random_baseline"), adapter, noise)  # the library installs recorders of its own on first use
    before = fingerprint(adapter)
    for method in METHODS:
        run(request(method), adapter, noise)
    assert fingerprint(adapter) == before

    with broken_fastv(), pytest.raises(ZeroDivisionError):
        run(request("fastv"), adapter, noise)
    assert fingerprint(adapter) == before
    again = run(request("fastv"), adapter, noise)
    fresh = run(request("fastv"), make_tiny_adapter(), noise)
    assert again.pruned.log_probs == fresh.pruned.log_probs
    adapter.close()
    assert all(m.config._attn_implementation == "sdpa" for m in adapter.model.modules() if hasattr(m, "config"))
    prompt = adapter.prompt(noise, QUESTION)
    plain = {"input_ids": prompt.input_ids, "pixel_values": prompt.pixels, "max_new_tokens": N_NEW, "do_sample": False}
    assert torch.equal(adapter.model.generate(**plain), model_alone.generate(**plain))


def test_two_visitors_at_once_never_see_each_other(tiny, noise):
    """Threads share the model; every one gets exactly what it gets alone."""
    jobs = [(m, r) for m in METHODS for r in (0.2, 0.6)]
    alone = {job: run(request(job[0], keep_ratio=job[1]), tiny, noise).pruned.log_probs for job in jobs}
    found, errors = {}, []

    def work(mine):
        try:
            for job in mine:
                found[job] = run(request(job[0], keep_ratio=job[1]), tiny, noise).pruned.log_probs
        except Exception as error:  # noqa: BLE001 (reported below, in the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(jobs[i::3],)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert found == alone


@pytest.mark.parametrize("phase", ["encode", "full", "prune", "pruned"])
def test_stop_ends_the_run_in_every_phase_and_the_next_one_works(tiny, noise, phase):
    phases = []
    callbacks = RunCallbacks(phase=phases.append, stop=lambda: bool(phases) and phases[-1] == phase)
    tower = {"where": Part.TOWER.value, "layer": 1}
    with pytest.raises(RunStopped):
        run(request("random_baseline", tower), tiny, noise, RunContext(callbacks=callbacks))
    assert phases[-1] == phase
    assert run(request("random_baseline", tower), tiny, noise).pruned.text


def test_streamed_pieces_are_the_answer(tiny, noise):
    token_texts = {"full": "", "pruned": ""}

    def text(phase, text):
        token_texts[phase] += text

    record = run(request("visionzip"), tiny, noise, RunContext(callbacks=RunCallbacks(text=text)))
    assert token_texts["full"].strip() == record.full.text == "".join(record.full.words).strip()
    assert token_texts["pruned"].strip() == record.pruned.text
    assert len(record.pruned.words) == len(record.pruned.log_probs) == N_NEW


def test_encoded_picture_is_used_again(tiny, noise):
    """Encode once, decide many times: the tower does not run again for methods that need nothing new from it."""
    calls = []
    handle = tiny.model.model.vision_tower.register_forward_pre_hook(lambda m, a: calls.append(1))
    prompt = tiny.prompt(noise, QUESTION)
    encoded = tiny.encode_image(prompt, tuple(_tower_observations(tiny)), None, RunCallbacks())
    try:
        for key, method in METHODS.items():
            tower = [
                observation for observation in method().observations(tiny.info) if observation.signal in TOWER_SIGNALS
            ]
            calls.clear()
            run(request(key), tiny, noise, RunContext(encoded=encoded))
            assert bool(calls) == (not set(tower) <= set(encoded.observations)), key
    finally:
        handle.remove()


def _tower_observations(adapter):
    from pruning.interface import Observation

    return [Observation(s, adapter.info.feature_layer) for s in (Signal.CLS_ATTENTION, Signal.TOWER_KEYS)]


def test_missing_signal_and_missing_layer_are_named(tiny, noise):
    import dataclasses

    adapter = make_tiny_adapter()
    adapter.info = dataclasses.replace(adapter.info, signals=frozenset({Signal.VISUAL_TOKENS, Signal.TOWER_KEYS}))
    with pytest.raises(SignalMissingError, match=r"VisionZip needs \[CLS\] attention"):
        run(request("visionzip"), adapter, noise)
    with pytest.raises(ParameterError, match="allows 1 to 5"):
        run(request("fastv", {"layer": 17}), tiny, noise)


def test_seed_decides_and_nothing_else(tiny, noise):
    one, same, other = (run(request("random_baseline", seed=s), tiny, noise).kept.tolist() for s in (1, 1, 2))
    assert one == same != other


class ByteTokens:
    """Tokens that are parts of characters, as byte-fallback vocabularies have them."""

    all_special_ids = (0,)
    parts = {1: b"a", 2: b"\xf0\x9f", 3: b"\x98\x80", 4: b" b", 5: b"\xc3"}

    def decode(self, ids, **_):
        return b"".join(self.parts[i] for i in ids if i).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("ids", "texts"),
    [([1, 2, 3, 4, 0], ["a", "", "😀", " b"]), ([1, 5, 0], ["a", "\N{REPLACEMENT CHARACTER}"]), ([1, 4], ["a", " b"])],
)
def test_characters_in_several_tokens_come_whole(ids, texts):
    streamed = []
    token_texts = TextStreamer(ByteTokens(), RunCallbacks(text=lambda _, text: streamed.append(text)), 1)
    token_texts.put(torch.zeros(1, 3))
    for i in ids:
        token_texts.put(torch.tensor([i]))
    token_texts.end()
    assert token_texts.texts == texts
    assert "".join(streamed) == "".join(texts)
