"""Save and load the weights of small modules, and recognise the model that they were made for.

Two measures of identity, because two things depend on a model in different ways. Both survive a change of number
format, which a checksum of files would not.

- `fingerprint`, compared for equality, is for a structural plan: it names heads and rows, and fits no other weights,
  not even the same ones a training step later.
- `sketch`, compared by `alike` within the rounding of bfloat16, is for small modules (captioners, selectors, trained
  pruners) that read what some parts of a model compute: vision tower, projector, word embeddings and first layers. A
  sketch of each part says which one does not fit; layers that no module reads are in none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SAMPLED = 64  # numbers of every tensor that the fingerprint reads
MATRICES = 8  # that a sketch reads
SAME_WEIGHTS = 0.05  # rounding to bfloat16 moves an entry of a sketch by about 0.004, other weights by about 1


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


def fingerprint(model: nn.Module) -> str:
    """sha256 of the names, shapes and some values of all parameters, in bfloat16: the same for one checkpoint on a CPU
    and on a GPU, and another one after any training.
    """
    found = hashlib.sha256()
    for name, p in model.named_parameters():
        flat = p.detach().flatten()
        places = torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).long()
        values = flat[places.to(flat.device)].bfloat16().cpu().view(torch.int16).numpy()
        found.update(f"{name} {tuple(p.shape)}".encode() + values.tobytes())
    return found.hexdigest()


@torch.no_grad()
def sketch(parameters: Iterable[torch.Tensor]) -> list[float]:
    """Some weight matrices on fixed random directions, each entry about standard normal over all possible weights."""
    matrices = [p for p in parameters if p.ndim == 2]
    chosen = [matrices[i * len(matrices) // MATRICES] for i in range(MATRICES)] if matrices else []
    found = []
    for number, p in enumerate(chosen):
        flat = p.detach().float().cpu().flatten()
        direction = torch.randn(len(flat), generator=torch.Generator().manual_seed(number))
        found.append(
            round(float(flat @ direction / flat.norm().clamp(min=1e-12) / direction.norm()) * math.sqrt(len(flat)), 4)
        )
    return found


def alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Are two sketches of the same weights?"""
    return len(one) == len(other) and all(abs(a - b) <= SAME_WEIGHTS for a, b in zip(one, other, strict=True))


def vocabulary_digest(tokenizer) -> str:
    """sha256 of a tokenizer's words with their numbers."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
