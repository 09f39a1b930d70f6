"""Reading given words one at a time, as a model reads what it generates."""

from __future__ import annotations

import torch
from torch import nn
from transformers import DynamicCache


def word_by_word(model: nn.Module, states: torch.Tensor, n_words: int) -> torch.Tensor:
    """Read a prompt and then `n_words` more tokens one at a time, as in generation: the decoder's last states of the
    prompt's last token and of each word, `[1 + n_words, dim]`, from input embeddings `[1, prompt + words, dim]`.
    """
    cache = DynamicCache()
    parts = states.split([states.shape[1] - n_words, *[1] * n_words], 1)
    out = [model(inputs_embeds=part, past_key_values=cache, use_cache=True) for part in parts]
    return torch.cat([o.last_hidden_state[0, -1:] for o in out])
