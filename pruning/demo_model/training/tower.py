"""Training of the vision tower with dense labels on every patch, first in windows, then in scenes (phases of that
name).

A tower trained from answers alone hardly learns shapes. Here a linear head on every patch predicts what covers it
(shape, colour, size, digit, the object's ninth of the picture, the offset to its centre), and a linear head on [CLS]
predicts which coloured shapes and digits are present: so [CLS] attends to objects, as published pruning methods expect
of CLIP. The heads are not part of the trained model.

Windows come first because a window of 8 x 8 patches around an object costs a twentieth of a full scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pruning.demo_model.training.architecture import COLS, ROWS, SIDE, WIDTH
from pruning.demo_model.training.optim import Trainer
from pruning.demo_model.world.scene import (
    COLORS,
    SHAPES,
    SIZES,
    ZONES,
    Scene,
    draw,
    patch_coverage,
    sample_scene,
    scene_rng,
)

TASKS = {"shape": len(SHAPES) + 1, "color": len(COLORS) + 1, "size": len(SIZES) + 1, "digit": 11, "zone": len(ZONES)}
N_PRESENT = len(SHAPES) * len(COLORS) + 10
WINDOW = 8
FOREGROUND = 0.125  # least share of a patch that objects must cover for it to belong to one
IGNORE = -100


def to_pixels(picture: np.ndarray) -> torch.Tensor:
    """Preprocess a picture of the model's own size as the processor does: `[3, side, side]` in -1 .. 1."""
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 127.5 - 1


def patch_labels(scene: Scene, coverage: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the class labels of every patch per task (0 is background; `zone` is ignored there), and the offset to the
    object's centre in patches, float32 `[patches, 2]` with NaN on background.
    """
    objects = scene.objects
    owner = coverage.argmax(1)
    covered = coverage.sum(1) > FOREGROUND
    tables = {
        "shape": [1 + SHAPES.index(o.shape) for o in objects],
        "color": [1 + list(COLORS).index(o.color) for o in objects],
        "size": [1 + list(SIZES).index(o.size) for o in objects],
        "digit": [0 if o.digit is None else 1 + o.digit for o in objects],
        "zone": [ZONES.index(o.zone) for o in objects],
    }
    labels = {n: np.where(covered, np.array(t)[owner], IGNORE if n == "zone" else 0) for n, t in tables.items()}
    row, col = np.divmod(np.arange(ROWS * COLS), COLS)
    here = np.stack([(col + 0.5) / COLS, (row + 0.5) / ROWS], 1)
    centre = np.array([(o.x, o.y) for o in objects])[owner]
    offset = ((centre - here) * ROWS).astype(np.float32)
    offset[~covered] = np.nan
    return labels, offset


def present(scene: Scene) -> np.ndarray:
    """Return the multi-hot label of [CLS]: every coloured shape and every digit in the scene."""
    hot = np.zeros(N_PRESENT, np.float32)
    for o in scene.objects:
        hot[SHAPES.index(o.shape) * len(COLORS) + list(COLORS).index(o.color)] = 1
        if o.digit is not None:
            hot[len(SHAPES) * len(COLORS) + o.digit] = 1
    return hot


class DenseHeads(nn.Module):
    """The linear heads on [CLS] and patches, `[batch, 1 + patches, dim]`."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = nn.ModuleDict({name: nn.Linear(WIDTH, n) for name, n in TASKS.items()})
        self.offset = nn.Linear(WIDTH, 2)
        self.present = nn.Linear(WIDTH, N_PRESENT)

    def loss(self, hidden: torch.Tensor, labels: dict[str, torch.Tensor], offset: torch.Tensor) -> torch.Tensor:
        patches = hidden[:, 1:]
        foreground = labels["shape"] > 0
        weight = torch.where(foreground, 3.0, 1.0).flatten()
        total = hidden.new_zeros(())
        for name, head in self.tasks.items():
            each = F.cross_entropy(
                head(patches).flatten(0, 1), labels[name].flatten(), ignore_index=IGNORE, reduction="none"
            )
            total = total + (each * weight).mean()
        way = self.offset(patches)[foreground]
        return total + 0.3 * F.smooth_l1_loss(way, offset[foreground])

    def present_loss(self, cls: torch.Tensor, hot: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(
            self.present(cls), hot, pos_weight=torch.tensor(4.0, device=hot.device)
        )

    @torch.no_grad()
    def accuracy(self, hidden: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, float]:
        foreground = labels["shape"] > 0
        right = {n: (h(hidden[:, 1:]).argmax(-1) == labels[n]) for n, h in self.tasks.items()}
        figures = {n: right[n][foreground].float().mean().item() for n in TASKS}
        figures["digit"] = right["digit"][labels["digit"] > 0].float().mean().item()
        figures["background"] = right["shape"][~foreground].float().mean().item()
        return {n: round(v, 3) for n, v in figures.items() if v == v}  # a batch without digits has no digit accuracy


class Scenes(Dataset):
    """Pictures with dense labels; item i is always the same scene."""

    def __init__(self, split: str, count: int, offset: int = 0) -> None:
        self.split, self.count, self.offset = split, count, offset

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        scene = sample_scene(scene_rng(self.split, self.offset + index))
        picture, ids = draw(scene, SIDE)
        labels, way = patch_labels(scene, patch_coverage(ids, len(scene.objects), ROWS, COLS))
        centres = np.array([(o.x, o.y) for o in scene.objects])
        return to_pixels(picture), labels, way, present(scene), centres


def _collate(batch):
    pixels, labels, way, hot, centres = zip(*batch, strict=True)
    labels = {n: torch.from_numpy(np.stack([x[n] for x in labels])) for n in TASKS}
    return torch.stack(pixels), labels, torch.from_numpy(np.stack(way)), torch.from_numpy(np.stack(hot)), centres


def _windows(centres, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a window around every object of every scene: scene numbers `[w]`, patch indices `[w, WINDOW * WINDOW]`."""
    scene_of, patches = [], []
    grid = np.arange(WINDOW)[:, None] * COLS + np.arange(WINDOW)
    for number, xy in enumerate(centres):
        for x, y in xy:
            col, row = (int(np.clip(v * ROWS - WINDOW / 2 + rng.uniform(-2, 2), 0, ROWS - WINDOW)) for v in (x, y))
            scene_of.append(number)
            patches.append((grid + row * COLS + col).ravel())
    return torch.tensor(scene_of), torch.from_numpy(np.stack(patches))


def encode(tower, pixels, windows=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden state that feeds the projector and the last one, each `[batch, 1 + patches, dim]`."""
    x = tower.embeddings(pixels)
    if windows is not None:
        scene_of, patches = windows
        cut = x[scene_of[:, None], 1 + patches]
        x = torch.cat([x[scene_of, :1], cut], 1)
    x = tower.pre_layrnorm(x)
    layers = tower.encoder.layers
    for layer in layers[:-1]:
        x = layer(x, attention_mask=None)
    return x, layers[-1](x, attention_mask=None)


def train_tower(
    tower, phase: str, steps: int, batch: int, rate: float, folder: Path, heads: DenseHeads, check_scenes: int = 96
) -> None:
    """Run or resume the phase `windows` or `scenes`."""
    trainer = Trainer(phase, {"tower": tower, "heads": heads}, steps, rate, folder)
    if trainer.done:
        return
    device = trainer.device
    split = "windows" if phase == "windows" else "train"
    data = Scenes(split, (steps - trainer.start) * batch, trainer.start * batch)
    loader = iter(DataLoader(data, batch, collate_fn=_collate, num_workers=1, prefetch_factor=4))
    check = _collate([Scenes("evaluate", check_scenes, 10_000)[i] for i in range(check_scenes)])
    for number in trainer.loop():
        pixels, labels, way, hot, centres = next(loader)
        windows = None
        if phase == "windows":
            windows = _windows(centres, np.random.default_rng((7, number)))
            labels = {n: v[windows[0][:, None], windows[1]] for n, v in labels.items()}
            way = way[windows[0][:, None], windows[1]]
        labels, way = {n: v.to(device) for n, v in labels.items()}, way.to(device)
        with trainer.autocast():
            hidden, last = encode(tower, pixels.to(device), windows)
        hidden, last = hidden.float(), last.float()
        loss = heads.loss(hidden, labels, way)
        if phase == "scenes":
            hot = hot.to(device)
            loss = loss + heads.present_loss(hidden[:, 0], hot) + heads.present_loss(last[:, 0], hot)
        trainer.step(loss, number)
        if trainer.time_to_log(number):
            here = heads.accuracy(hidden, labels)
            fresh = {}
            if phase == "scenes":
                with torch.no_grad(), trainer.autocast():
                    hidden, _ = encode(tower, check[0].to(device))
                fresh = heads.accuracy(hidden.float(), {n: v.to(device) for n, v in check[1].items()})
                fresh["present"] = round(heads.present_loss(hidden[:, 0].float(), check[3].to(device)).item(), 3)
            trainer.log(number, loss=round(loss.item(), 3), train=here, fresh=fresh)
