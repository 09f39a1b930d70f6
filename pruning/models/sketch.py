"""Is this the model that something was trained for? A few numbers that survive a change of number format.

A checksum of files would refuse the same weights in bfloat16; these projections on fixed random directions do not.
"""

from __future__ import annotations

import hashlib
import json
import math

import torch
from torch import nn

MATRICES = 8


@torch.no_grad()
def sketch(module: nn.Module) -> list[float]:
    """Projections of some weight matrices, each about standard normal over all possible weights."""
    matrices = [p for p in module.parameters() if p.ndim == 2]
    chosen = [matrices[i * len(matrices) // MATRICES] for i in range(MATRICES)] if matrices else []
    found = []
    for number, p in enumerate(chosen):
        flat = p.detach().float().cpu().flatten()
        direction = torch.randn(len(flat), generator=torch.Generator().manual_seed(number))
        found.append(
            round(float(flat @ direction / flat.norm().clamp(min=1e-12) / direction.norm()) * math.sqrt(len(flat)), 4)
        )
    return found


def vocabulary_digest(tokenizer) -> str:
    """sha256 of a tokenizer's words with their numbers."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
