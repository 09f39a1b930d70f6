"""The weights of a small module and, beside them, the description that says which weights it speaks of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> str:
    """Write both files, weights in float32; returns the weights' sha256, which `config` gets."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, str(folder / WEIGHTS))
    digest = digest_of(folder)
    described = json.dumps({**config, "sha256": digest}, indent=1)
    (folder / CONFIG).write_text(described + "\n", encoding="utf-8")
    return digest


def read(folder: Path, digest: str | None) -> dict[str, torch.Tensor]:
    """The weights that a description speaks of.

    Raises:
        OSError, SafetensorError: if they cannot be read.
        ValueError: if they are others.
    """
    tensors = load_file(str(folder / WEIGHTS))
    if digest_of(folder) != digest:
        raise ValueError(f"its weights are not the ones that {CONFIG} describes")
    return tensors


def digest_of(folder: Path) -> str:
    """sha256 of a folder's weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
