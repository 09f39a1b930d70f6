"""Bytes that a model's weights take in memory and on disk, checked before anything large is downloaded or read.

Sizes come from the headers of safetensors files, so no weights are read for them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import torch
from huggingface_hub import constants, parse_local_safetensors_file_metadata
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import SafetensorsFileMetadata

from pruning.errors import ModelUnavailableError
from pruning.models.base import BESIDE, gigabytes

SPARE = 2**30  # bytes of a disk that stay free
FOUR_BIT = 0.5625  # bytes of a number in 4 bits, with a scale for every 64 of them
FULL_IN_FOUR_BIT = ("embed", "lm_head")  # matrices that are not quantized


def weight_names(folder: Path) -> list[str]:
    """Return the names of the files that hold a folder's weights; none if it has no safetensors weights.

    Raises:
        ValueError, KeyError: if the index of a sharded model cannot be read.
    """
    if (folder / constants.SAFETENSORS_SINGLE_FILE).exists():  # before an index, as the transformers library reads them
        return [constants.SAFETENSORS_SINGLE_FILE]
    index = folder / constants.SAFETENSORS_INDEX_FILE
    if not index.exists():
        return []
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def headers_of(folder: Path) -> Iterator[SafetensorsFileMetadata]:
    """Read the headers of a folder's weight files, one after the other.

    Raises:
        ValueError: if one cannot be read.
    """
    for name in weight_names(folder):
        try:
            yield parse_local_safetensors_file_metadata(folder / name)
        except SafetensorsParsingError as error:
            raise ValueError(f"{name} is not a safetensors file, or only part of one") from error


def memory_of(headers: Iterable[SafetensorsFileMetadata], dtype: torch.dtype, *, four_bit: bool = False) -> int:
    """Return the bytes that a model takes in memory: its weights in `dtype`, and a share for activations and cache.

    Args:
        four_bit: matrices are held in 4 bits, everything else in `dtype`.
    """
    total = 0.0
    for name, tensor in (item for header in headers for item in header.tensors.items()):
        if not tensor.dtype.startswith(("F", "BF")):
            total += tensor.data_offsets[1] - tensor.data_offsets[0]
        elif four_bit and len(tensor.shape) == 2 and not any(part in name for part in FULL_IN_FOUR_BIT):
            total += tensor.parameter_count * FOUR_BIT
        else:
            total += tensor.parameter_count * dtype.itemsize
    return math.ceil(total * BESIDE)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def require_memory(title: str, needed: int, free: int, where: str) -> None:
    """Refuse a model that does not fit into the memory of a device.

    Raises:
        ModelUnavailableError: with what the model needs, what is free, and what to do.
    """
    if needed > free:
        raise ModelUnavailableError(
            f"{title} needs about {gigabytes(needed)} of memory on {where}; {gigabytes(free)} are free.",
            "Choose a smaller model, close other programs, or use --dtype bfloat16, or 4bit on a GPU.",
        )


def require_disk(title: str, needed: int, folder: Path) -> None:
    """Refuse a download that does not fit on the disk of `folder`, which need not exist yet.

    Raises:
        ModelUnavailableError: with what the download needs, what is free, and what to do.
    """
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if needed + SPARE > free:
        raise ModelUnavailableError(
            f"{title} has {gigabytes(needed)} to download; the disk for it has {gigabytes(free)} free, of which "
            f"{gigabytes(SPARE)} stay free.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        )
