"""A checkpoint's generation settings never crash a run, never act unnoticed, and never change an answer."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from pruning.demo_model.training.architecture import build_processor
from pruning.engine.run import run
from pruning.models.families.llava import LlavaAdapter
from pruning.records.run import RunRequest
from support.tiny_models import make_tiny_adapter, tiny_llava

QUESTION = "What color is the large star?"
REQUEST = RunRequest("tiny", "fastv", 0.4, QUESTION, max_new_tokens=8)
CHANGING = {
    "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.5, "guidance_scale": 3.0,
    "stop_strings": ["a"], "num_beams": 4, "suppress_tokens": [5, 6, 7], "min_new_tokens": 3,
    "forced_eos_token_id": 2, "bad_words_ids": [[5]], "penalty_alpha": 0.6,
}  # fmt: skip
SILENT = {
    "do_sample": True, "temperature": 0.2, "top_p": 0.5, "top_k": 3, "use_cache": False,
    "cache_implementation": "static", "prompt_lookup_num_tokens": 3,
}  # fmt: skip


def adapter_with(**settings):
    model = tiny_llava()
    shipped = GenerationConfig(**model.generation_config.to_dict())
    for name, value in settings.items():  # as they come from a file: no check of this library stands before it
        setattr(shipped, name, value)
    model.generation_config = shipped
    return LlavaAdapter(model, build_processor(48, 8), "tiny")


@pytest.fixture(scope="module")
def plain(noise):
    return run(REQUEST, make_tiny_adapter(), noise)


@pytest.mark.parametrize("name", [*CHANGING, *SILENT])
def test_a_setting_changes_nothing_and_is_told(name, plain, noise):
    value = (CHANGING | SILENT)[name]
    record = run(REQUEST, adapter_with(**{name: value}), noise)
    assert record.pruned.words == plain.pruned.words
    assert record.pruned.log_probs == pytest.approx(plain.pruned.log_probs, abs=1e-5)
    assert record.full.words == plain.full.words
    assert f"{name} = " in record.environment["generation"]
    assert any(name in note for note in record.notes) == (name in CHANGING)


def test_without_settings_nothing_is_told(plain):
    assert plain.environment["generation"] == "greedy, one sequence, dynamic cache, no logits processors"
    assert not any("left off" in note for note in plain.notes)


@pytest.mark.parametrize(("where", "value"), [("config", False), ("config", None), ("text_config", False)])
def test_a_cache_that_is_switched_off_in_a_configuration_is_used_all_the_same(where, value, plain, noise):
    model = tiny_llava()
    config = model.config if where == "config" else model.config.get_text_config()
    config.use_cache = value
    record = run(REQUEST, LlavaAdapter(model, build_processor(48, 8), "tiny"), noise)
    assert record.pruned.words == plain.pruned.words
    assert record.full.words == plain.full.words


def test_several_end_tokens_are_kept(noise):
    model = tiny_llava()
    model.generation_config.eos_token_id = [1, 2]
    adapter = LlavaAdapter(model, build_processor(48, 8), "tiny")
    assert adapter.model.generation_config.eos_token_id == [1, 2]
    prompt = adapter.prompt(noise, QUESTION)
    stock = model.generate(**prompt.inputs(), do_sample=False, max_new_tokens=6)[0, prompt.input_ids.shape[1] :]
    record = run(RunRequest("tiny", "fastv", 1.0, QUESTION, max_new_tokens=6), adapter, noise)
    assert record.full.text == adapter.tokenizer.decode(stock, skip_special_tokens=True).strip()
    assert record.full.stopped == ("end" if int(stock[-1]) in (1, 2) else "length")
