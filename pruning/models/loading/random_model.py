"""LLaVA models of real sizes with random weights, for measuring speed: they are as fast as trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from pruning.models.families.llava import LlavaAdapter


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a language model: layers, width, feed-forward width, heads."""

    layers: int
    width: int
    inner: int
    heads: int


def random_llava(shape: Shape, processor: Any, device: torch.device) -> LlavaAdapter:
    """Return an adapter around a LLaVA with random weights and a small vision tower, for the picture size and the
    vocabulary of a processor; bfloat16 on a GPU, float32 on a CPU.
    """
    tokenizer, side, patch = processor.tokenizer, processor.image_processor.crop_size["height"], processor.patch_size
    vision = CLIPVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=2, num_attention_heads=6, image_size=side,
        patch_size=patch,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        max_position_embeddings=4096,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids(processor.image_token),
        vision_feature_layer=-2, image_seq_length=(side // patch) ** 2,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = None  # random models must not stop early
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return LlavaAdapter(model.to(dtype), processor, "random weights")
