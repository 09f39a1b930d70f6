"""Generation settings: every answer is decoded greedily, as one sequence, with a dynamic cache and unchanged
probabilities.

A checkpoint may ship settings of its own (`generation_config.json`). Its special token ids are used; everything that
would change the distribution, choose tokens otherwise than greedily, or keep the cache in a form that cannot be
shortened layer by layer is left out, and the record says what was left out.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
SETTINGS = "greedy, one sequence, dynamic cache, no logits processors"
# Settings that change the tokens of greedy decoding, with the value that has no effect.
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
# Settings that do not change a greedy answer, and are left out all the same.
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
    """Return the engine's settings for a model; the checkpoint's settings that were left out, by name; and notes for
    the record about those that would have changed a greedy answer.
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
