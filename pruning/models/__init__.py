"""The table of models and how one is loaded. Heavy imports wait until a model is asked for."""

from __future__ import annotations

import math
from pathlib import Path

from pruning import pretrained
from pruning.models.base import ModelSpec, VLMAdapter

DEMO_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "demo"

LLAMA_2, CARD = "Llama 2 Community License", "see its model card"


def _hub(key: str, source: str, title: str, billions: float, licence: str) -> ModelSpec:
    """A model of the hub with `billions` of parameters, which take two bytes each in bf16."""
    size = f"{billions:g} B" if billions >= 1 else f"{1000 * billions:g} M"
    memory = math.ceil(2 * billions) if billions >= 1 else f"{2 * billions:.1f}"
    return ModelSpec(key, source, title, size, licence, f"about {memory} GB in bf16")


MODELS: dict[str, ModelSpec] = {
    m.key: m
    for m in (
        ModelSpec("demo", str(DEMO_FOLDER), "Bundled small model", "6.5 M", "Apache-2.0", "0.2 GB", bundled=True),
        ModelSpec(
            "pair",
            str(pretrained.folder()),
            "DINOv2-S + SmolLM2 135M (mechanics, not answers)",
            "157 M",
            "MIT and Apache-2.0",
            "about 0.7 GB",
            made_by=pretrained.COMMAND,
        ),
        _hub("smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", "SmolVLM 256M", 0.256, "Apache-2.0"),
        _hub("smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", "SmolVLM 500M", 0.507, "Apache-2.0"),
        _hub("internvl3-1b", "OpenGVLab/InternVL3-1B-hf", "InternVL3 1B", 0.94, CARD),
        _hub("internvl3-2b", "OpenGVLab/InternVL3-2B-hf", "InternVL3 2B", 2.1, CARD),
        _hub("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL 2B", 2.1, "Apache-2.0"),
        _hub("smolvlm-2b", "HuggingFaceTB/SmolVLM-Instruct", "SmolVLM 2B", 2.2, "Apache-2.0"),
        _hub("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL 3B", 3.8, "Qwen Research License"),
        _hub("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL 4B", 4.4, "Apache-2.0"),
        _hub("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL 7B", 8.3, "Apache-2.0"),
        _hub("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL 8B", 8.8, "Apache-2.0"),
        _hub("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", "InternVL3 8B", 7.9, CARD),
        _hub("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "LLaVA-1.5 7B", 7.1, LLAMA_2),
        _hub("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", "LLaVA-1.5 13B", 13.4, LLAMA_2),
        _hub("llava-next-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT 7B (Vicuna)", 7.1, LLAMA_2),
        _hub(
            "llava-next-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT 7B (Mistral)", 7.6, "Apache-2.0"
        ),
    )
}


def find_spec(name: str) -> ModelSpec:
    """A model of the table by key, or any other one by hub id or folder."""
    if name in MODELS:
        return MODELS[name]
    by_source = {m.source: m for m in MODELS.values()}
    return by_source.get(name) or ModelSpec(name, name, Path(name).name or name, "?", CARD, "?")


def load(name: str, *, device: str = "auto", dtype: str = "auto", allow_download: bool = False) -> VLMAdapter:
    """Load a model and put an adapter around it.

    Args:
        name: a key of `MODELS`, a hub id, or a folder.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `bfloat16`, `float16` or `float32`.
        allow_download: whether a hub may be asked for missing files.

    Raises:
        ModelUnavailableError: with what is missing and what to do.
    """
    from pruning.models.loading import load_adapter  # transformers is slow to import

    return load_adapter(find_spec(name), device=device, dtype=dtype, allow_download=allow_download)


def check(name: str, *, allow_download: bool = False) -> None:
    """See that a model is there, without loading its weights.

    Raises:
        ModelUnavailableError: as `load`.
    """
    from pruning.models.loading import check_source

    check_source(find_spec(name), allow_download=allow_download)
