"""Small random models of the real classes, scenes whose objects are known, and the folder of the bundled model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from pruning.compensation.captioner import Captioner, CaptionerShape
from pruning.compensation.checkpoint import Parts
from pruning.compensation.selector import Selector, SelectorShape
from pruning.demo_model.training.architecture import build_processor
from pruning.methods import METHODS
from pruning.methods import trained_modules as learned
from pruning.methods.trained_modules import Learned
from pruning.models.families.llava import LlavaAdapter

ROOT = Path(__file__).parents[1]
SIDE, PATCH = 48, 8  # 6 x 6 visual tokens
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)

torch.set_num_threads(1)


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


@pytest.fixture(scope="session", autouse=True)
def a_module_for_every_random_model(tmp_path_factory) -> Iterator[None]:
    """Methods that must be trained get a random module for models of these widths, whatever their weights are."""
    folder, fits = tmp_path_factory.mktemp("pruners"), learned.fits
    torch.manual_seed(4)
    for method in METHODS.values():
        for dim in (12, 32, 64, 128) if method.module else ():
            module = method.module(dim)
            learned.save(folder / f"{method.key}-{dim}", Learned(method.key, {"dim": dim}, module.state_dict(), {}, {}))
    learned.FOLDERS.append(folder)
    learned.fits = lambda one, info, dim: fits(one, info, dim) if one.made_for else one.shape["dim"] == dim
    yield
    learned.fits = fits
    learned.FOLDERS.remove(folder)


@pytest.fixture(scope="session")
def tiny() -> LlavaAdapter:
    return make_tiny_adapter()


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """A picture wider than high, so that rows and columns cannot be swapped unnoticed."""
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


def quadrants(width: int, height: int) -> np.ndarray:
    """Red, green / blue, yellow."""
    y, x = np.mgrid[:height, :width]
    return COLORS[(y >= height / 2) * 2 + (x >= width / 2)]


def film(path: Path, n_frames: int = 5) -> str:
    """A video file of 90 x 60 pixels and two frames a second, every frame brighter than the one before."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 2.0, (90, 60))
    for n in range(n_frames):
        writer.write(np.full((60, 90, 3), 40 * n, np.uint8))
    writer.release()
    return str(path)


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
