"""Small models of the real classes with random weights: LLaVA and the parts of ACCM; a method that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from pruning.compensation.captioner import Captioner, CaptionerShape
from pruning.compensation.checkpoint import Parts
from pruning.compensation.selector import Selector, SelectorShape
from pruning.demo_model.training.architecture import build_processor
from pruning.methods import METHODS
from pruning.models.families.llava import LlavaAdapter

SIDE, PATCH = 48, 8  # 6 x 6 visual tokens


def tiny_llava(
    seed: int = 0, attention: str = "sdpa", kv_heads: int = 2, *, siglip: bool = False
) -> LlavaForConditionalGeneration:
    """A random LLaVA; with a SigLIP tower it has no [CLS]."""
    processor = build_processor(SIDE, PATCH)
    tokenizer = processor.tokenizer
    vision = (SiglipVisionConfig if siglip else CLIPVisionConfig)(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=512, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="full" if siglip else "default",
        image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    return decisive(model, seed)


def decisive(model, seed: int = 0):
    """Random weights that decide: a default initialisation is nearly linear and hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.2 / p.shape[-1] ** 0.5 if p.ndim == 2 else 0.3 if p.ndim > 2 else 0.05
            p.copy_(
                torch.randn(p.shape, generator=generator) * scale
                + (p.ndim == 1 and "norm" in name and "bias" not in name)
            )
    if model.can_generate():
        model.generation_config.eos_token_id = None  # random models must not stop early
    return model.eval()


def make_tiny_adapter(**kwargs) -> LlavaAdapter:
    processor = build_processor(SIDE, PATCH)
    if kwargs.get("siglip"):
        processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    return LlavaAdapter(tiny_llava(**kwargs), processor, "tiny")


@contextmanager
def broken_fastv() -> Iterator[None]:
    """FastV decides by dividing by zero."""

    class Broken(METHODS["fastv"]):
        def select(self, context, n_keep):
            raise ZeroDivisionError

    original, METHODS["fastv"] = METHODS["fastv"], Broken
    try:
        yield
    finally:
        METHODS["fastv"] = original


def tiny_parts(adapter, *, trained=True) -> Parts:
    """A random captioner for a loaded model, and a random selector unless it is said to be untrained."""
    torch.manual_seed(3)
    shape = CaptionerShape(adapter.info.vision_dim, len(adapter.tokenizer), 32, 2, 2, max_caption=12)
    chooser = Selector(SelectorShape(2 * adapter.info.text_dim, 32)) if trained else None
    if chooser is not None:
        torch.nn.init.normal_(chooser.head.weight)
    return Parts(Captioner(shape), chooser, adapter.identity(), {"stages": ["none"]})
