"""What a model's weights take, and whether there is room for them: asked before anything large is fetched or read.

Sizes come from the headers of safetensors files, so that no weight is read for them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from pruning.errors import ModelUnavailableError
from pruning.models.base import BESIDE, gigabytes

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SPARE = 2**30  # bytes of a disk that are left alone
FOUR_BIT = 0.5625  # bytes of a number in 4 bits, with a scale for every 64 of them
WHOLE_IN_FOUR_BIT = ("embed", "lm_head")  # parts that stay as they are


def weight_names(folder: Path) -> list[str]:
    """The files that hold a folder's weights; none where it has no safetensors weights.

    Raises:
        ValueError, KeyError: if the list of files cannot be read.
    """
    index = folder / INDEX
    if index.exists():
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [SINGLE] if (folder / SINGLE).exists() else []


def memory_of(files: Sequence[Path], dtype: torch.dtype, *, four_bit: bool = False) -> int:
    """Bytes that a model takes in memory: its weights in `dtype`, and a share for what runs through them.

    Args:
        four_bit: matrices are held in 4 bits, the rest in `dtype`.

    Raises:
        ValueError: if a header cannot be read.
    """
    total = 0.0
    for name, tensor in _tensors(files):
        n, number = math.prod(tensor["shape"]), tensor["dtype"]
        if not number.startswith(("F", "BF")):
            total += tensor["data_offsets"][1] - tensor["data_offsets"][0]
        elif four_bit and len(tensor["shape"]) == 2 and not any(part in name for part in WHOLE_IN_FOUR_BIT):
            total += n * FOUR_BIT
        else:
            total += n * dtype.itemsize
    return math.ceil(total * BESIDE)


def _tensors(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError(f"{path.name} is not a safetensors file, or only part of one")
            header = json.loads(file.read(length))
        yield from ((name, tensor) for name, tensor in header.items() if name != "__metadata__")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def require_memory(title: str, needed: int, free: int, where: str) -> None:
    """Refuse a model that does not fit, before it is read.

    Raises:
        ModelUnavailableError: what it needs, what there is, and what to do.
    """
    if needed > free:
        raise ModelUnavailableError(
            f"{title} needs about {gigabytes(needed)} of memory on {where}; {gigabytes(free)} are free.",
            "Choose a smaller model, close other programs, or use --dtype bfloat16, or 4bit on a GPU.",
        )


def require_disk(title: str, needed: int, folder: Path) -> None:
    """Refuse a download that does not fit on the disk of `folder`, which need not exist yet.

    Raises:
        ModelUnavailableError: what it needs, what there is, and what to do.
    """
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed + SPARE > free:
        raise ModelUnavailableError(
            f"{title} has {gigabytes(needed)} to download; the disk for it has {gigabytes(free)} free, of which "
            f"{gigabytes(SPARE)} are left alone.",
            "Make room, or set HF_HOME to a folder on a larger disk.",
        )
