"""The table of vision-language models, and functions that check and load one; torch is imported when one is loaded."""

from __future__ import annotations

import math
from pathlib import Path

from pruning.models.base import BESIDE, ModelSpec, Progress, VLMAdapter
from pruning.models.loading import fetch_pair as pretrained

DEMO_FOLDER = Path(__file__).parents[2] / "assets" / "models" / "demo"

APACHE, LLAMA_2, CARD = "Apache-2.0", "Llama 2 Community License", "see its model card"
PAGE = "licence and size: its hub page"
LICENCE = "licence: its hub page"


def _hub(
    key: str, source: str, title: str, billions: float, licence: str, checked: str = "", disk: float | None = None
) -> ModelSpec:
    """Describe a model on the hub with `billions` of parameters. They take two bytes each in bfloat16, and as much in
    its files unless `disk` gives their size in GB.
    """
    size = f"{billions:g} B" if billions >= 1 else f"{1000 * billions:g} M"
    memory = 2 * billions * BESIDE
    return ModelSpec(
        key,
        source,
        title,
        size,
        licence,
        f"about {math.ceil(memory) if memory > 2 else round(memory, 1)} GB in bf16",
        f"{disk or 2 * billions:.1f} GB",
        checked,
    )


MODELS: dict[str, ModelSpec] = {
    m.key: m
    for m in (
        ModelSpec("demo", str(DEMO_FOLDER), "Bundled small model", "6.5 M", APACHE, "0.2 GB", bundled=True),
        ModelSpec(
            "pair",
            str(pretrained.folder()),
            "DINOv2-S + SmolLM2 135M (mechanics, not answers)",
            "157 M",
            "MIT and Apache-2.0",
            "about 0.7 GB",
            disk="0.2 GB",
            checked="its own files",
            made_by=pretrained.COMMAND,
        ),
        _hub(
            "smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", "SmolVLM 256M", 0.256, APACHE,
            "licence: its card; size: a conversion's page",
        ),
        _hub(
            "smolvlm2-256m", "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "SmolVLM2 256M", 0.256, APACHE, PAGE, 1.03
        ),
        _hub(
            "smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", "SmolVLM 500M", 0.507, APACHE,
            "size: a conversion's page",
        ),
        _hub(
            "smolvlm2-500m", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "SmolVLM2 500M", 0.507, APACHE, PAGE, 2.03
        ),
        _hub(
            "llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "LLaVA-OneVision 0.5B", 0.894, APACHE,
            LICENCE,
        ),
        _hub(
            "internvl3-1b", "OpenGVLab/InternVL3-1B-hf", "InternVL3 1B", 0.94, CARD,
            "size: files of its other form",
        ),
        _hub("internvl3-2b", "OpenGVLab/InternVL3-2B-hf", "InternVL3 2B", 2.1, CARD),
        _hub("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL 2B", 2.1, APACHE, "licence: a model made from it"),
        _hub(
            "smolvlm-2b", "HuggingFaceTB/SmolVLM-Instruct", "SmolVLM 2B", 2.25, APACHE,
            "licence: its card; size: a conversion's page",
        ),
        _hub("smolvlm2-2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "SmolVLM2 2.2B", 2.25, APACHE, PAGE, 8.99),
        _hub(
            "qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL 3B", 3.8, "Qwen Research License",
            "licence: a conversion's card",
        ),
        _hub("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL 4B", 4.4, APACHE, "licence: a conversion's page"),
        _hub("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL 7B", 8.3, APACHE, "licence: a copy's page"),
        _hub("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL 8B", 8.8, APACHE, "licence: a copy's page"),
        _hub("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", "InternVL3 8B", 7.95, "Qwen licence", PAGE),
        _hub(
            "llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "LLaVA-OneVision 7B", 8.03, APACHE,
            LICENCE,
        ),
        _hub(
            "llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "LLaVA-1.5 7B", 7.06, LLAMA_2,
            "licence: a third party's page; size: its configuration, a copy's files",
        ),
        _hub("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", "LLaVA-1.5 13B", 13.4, LLAMA_2),
        _hub("llava-next-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT 7B (Vicuna)", 7.06, LLAMA_2, PAGE),
        _hub(
            "llava-next-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT 7B (Mistral)", 7.57, APACHE,
            "licence: its hub page; size: a model made from it",
        ),
    )
}  # fmt: skip


def find_spec(name: str) -> ModelSpec:
    """Return a model of the table by its key or hub id, or describe any other hub id or folder."""
    if name in MODELS:
        return MODELS[name]
    by_source = {m.source: m for m in MODELS.values()}
    return by_source.get(name) or ModelSpec(name, name, Path(name).name or name, "?", CARD, "?")


def load(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    allow_download: bool = False,
    progress: Progress | None = None,
) -> VLMAdapter:
    """Load a model and wrap it in an adapter.

    Free disk space and memory are checked before anything large is downloaded or read. Without `allow_download` no
    other computer is contacted.

    Args:
        name: a key of `MODELS`, a hub id, or a folder.
        device: `auto` (CUDA if there is one, all GPUs together if one is too small), `cpu`, `cuda`, `cuda:1`, ...
        dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `bfloat16`, `float16`, `float32` or `4bit`.
        allow_download: whether missing files may be downloaded from the hub.
        progress: called as a download proceeds; without it bars are drawn on the terminal.

    Raises:
        ModelUnavailableError: with what is missing and what to do.
    """
    from pruning.models.loading.loader import Request, load_adapter  # transformers is slow to import

    return load_adapter(Request(find_spec(name), device, dtype, allow_download, progress))


def check(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    allow_download: bool = False,
    progress: Progress | None = None,
    freed: int = 0,
) -> None:
    """Check that a model is on this computer and fits, and download it if that is allowed, without reading its weights.

    Args:
        freed: bytes on the device that the model loaded now will free; the other arguments as for `load`.

    Raises:
        ModelUnavailableError: as `load`.
    """
    from pruning.models.loading.loader import Request, prepare

    prepare(Request(find_spec(name), device, dtype, allow_download, progress), freed)
