"""How far a picture is from the drawn world, so that the page can say when the bundled model is only guessing.

The mean tower feature of a picture is compared with those of training scenes by Mahalanobis distance. The statistics
lie beside the weights; `pruning.models.bundled` reads them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from pruning.demo_model.training.architecture import SIDE
from pruning.demo_model.training.tower import encode, to_pixels
from pruning.demo_model.world.scene import draw, sample_scene, scene_rng


@torch.no_grad()
def measure_familiarity(tower, path: Path, n_scenes: int) -> None:
    """Write mean, inverse covariance and the largest distance among held-out scenes."""
    device = next(tower.parameters()).device
    pooled = []
    for start in range(0, n_scenes, 32):
        scenes = [sample_scene(scene_rng("train", 3_000_000 + i)) for i in range(start, min(start + 32, n_scenes))]
        pixels = torch.stack([to_pixels(draw(s, SIDE)[0]) for s in scenes]).to(device)
        hidden, _ = encode(tower, pixels)
        pooled.append(hidden[:, 1:].float().mean(1).cpu())
    x = torch.cat(pooled)
    fit, held = x[: n_scenes * 3 // 4], x[n_scenes * 3 // 4 :]
    mean = fit.mean(0)
    covariance = (fit - mean).T @ (fit - mean) / len(fit) + 1e-3 * torch.eye(fit.shape[1]) * fit.var(0).mean()
    precision = torch.linalg.inv(covariance)
    distance = ((held - mean) @ precision * (held - mean)).sum(1).sqrt()
    save_file({"mean": mean, "precision": precision.contiguous(), "farthest": distance.max()[None]}, str(path))
