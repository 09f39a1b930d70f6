"""The generation settings of every answer: greedy, one sequence, a growing cache, no logits processors.

A checkpoint may ship settings of its own (`generation_config.json`). Where tokens end is taken from it; everything that
would change the distribution, choose otherwise than greedily, or keep the cache in a form that cannot be shortened
layer by layer is left off, and what was left off is told in the record.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
SETTINGS = "greedy, one sequence, dynamic cache, no logits processors"
# What changes the tokens that the library's own greedy search would write, by the value that does nothing.
CHANGES_GREEDY: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "stop_strings": None,
    "min_length": 0,
    "min_new_tokens": None,
    "num_beams": 1,
    "penalty_alpha": None,
    "dola_layers": None,
    "watermarking_config": None,
    "constraints": None,
    "force_words_ids": None,
}
# What does not change the words of a greedy answer, and is left off all the same.
OTHERS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "min_p": None,
    "typical_p": 1.0,
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "num_return_sequences": 1,
    "renormalize_logits": False,
}


def own_settings(model: PreTrainedModel) -> tuple[GenerationConfig, dict[str, str], tuple[str, ...]]:
    """The engine's settings for a model; what its checkpoint asks for and is left off, by name; and sentences for the
    record about what would have changed a greedy answer.
    """
    shipped = model.generation_config or GenerationConfig()
    own = GenerationConfig(**{name: getattr(shipped, name, None) for name in KEPT}, use_cache=True, do_sample=False)
    left = {
        name: value
        for name, neutral in (CHANGES_GREEDY | OTHERS).items()
        if (value := getattr(shipped, name, None)) is not None and value != neutral and value not in ([], {})
    }
    changing = [f"{name} = {_short(left[name])}" for name in CHANGES_GREEDY if name in left]
    notes = ()
    if changing:
        notes = (
            f"The checkpoint asks to generate with {', '.join(changing)}. This was left off: answers are greedy, by "
            "the model's own probabilities.",
        )
    return own, {name: _short(value) for name, value in left.items()}, notes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
