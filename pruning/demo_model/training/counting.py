"""Training of the language model to count, on full pictures and on small kept sets (the last phase, `counting`).

A question with a number as its answer teaches little about how to count. Here every visual token has a dense label, two
layers after that of `instances.py`: how many objects have begun up to it in reading order, of all, of its colour, of
its shape, and of both. Questions then only have to read the last label. Three batches in five ask for numbers, in
scenes that repeat a few shapes and colours; the others ask everything, so that nothing else is forgotten.

Only the layers of the language model from its second on are trained. Modules that were trained for the model before
this phase and read the tower, the projected tokens, the embeddings or the first layer (modules of pruning methods,
captioners, selectors) stay valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pruning.demo_model.training.instances import INSTANCE_LAYER, InstanceHead, first_tokens
from pruning.demo_model.training.language import (
    EASY_ANSWERS,
    EASY_SHARE,
    Batch,
    FeatureCache,
    FreshScenes,
    Segment,
    answer_loss,
    encode_prefix,
    pack,
    packed,
    write_segments,
)
from pruning.demo_model.training.optim import Trainer
from pruning.demo_model.training.token_subsets import View
from pruning.demo_model.world.questions import NUMBERS, Question, count, count_all, decorate
from pruning.demo_model.world.scene import COLORS, SHAPES, Scene, sample_scene, scene_rng

FIRST_LAYER = 1  # of the language model that is trained
COUNT_LAYER = 6  # of the language model: its output carries the running counts, which two more layers can read
COUNTED = ("all", "color", "shape", "both")
WEIGHT = 0.5
MANY_WEIGHT = 3.0  # of a label of two or more, which are rarer
GENERAL_EVERY = 5  # in as many batches, two ask everything
DRILLED, GENERAL = 9, 6  # questions about a scene
CHECKED_KINDS = ("count", "count_all", "count", "exists", "relation")
CHECKED = {"full": ("full", 0), "thin64": ("thin", 64), "thin36": ("thin", 36)}
VIEWS = {"full": 0.3, "objects": 0.25, "thin": 0.45}


def counting_scene(index: int) -> Scene:
    """Return training scene `index` of this phase: every other one repeats its shapes and colours."""
    rng = scene_rng("train", 2_000_000 + index)
    return sample_scene(rng, low=3, alike=0.9) if index % 2 else sample_scene(rng)


def running_counts(scene: Scene, owner: np.ndarray) -> np.ndarray:
    """Return how many objects have begun up to every kept token, int64 `[k, 4]` in the order of `COUNTED`; those of the
    token's own colour and shape are -1 (no label) on background. `owner` `[k]` are the kept tokens' objects from 1, and
    0 for background.
    """
    begun = np.cumsum(_one_hot(np.where(first_tokens(owner[None])[0], owner, 0), len(scene.objects)), 0)
    color = np.array([o.color for o in scene.objects])
    shape = np.array([o.shape for o in scene.objects])
    same_color, same_shape = color[:, None] == color, shape[:, None] == shape
    alike = (same_color, same_shape, same_color & same_shape)
    own = np.maximum(owner, 1) - 1
    found = [begun.sum(1), *(np.where(owner > 0, (begun * same[own]).sum(1), -1) for same in alike)]
    return np.stack(found, 1)


def _one_hot(owner: np.ndarray, n_objects: int) -> np.ndarray:
    return (owner[:, None] == np.arange(1, n_objects + 1)).astype(np.int64)


class CountHead(nn.Module):
    """Linear heads that predict running counts from visual tokens, one for each of `COUNTED`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(NUMBERS)) for _ in COUNTED)

    def forward(
        self, states: torch.Tensor, counts: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the weighted loss, and the share of right labels above one for each of `COUNTED`, for the log.

        Args:
            states: `[batch, k, width]`, visual tokens after `COUNT_LAYER`.
            counts: int64 `[batch, k, 4]` from `running_counts`.
            weight: `[batch, k]`, of every token in the loss.
        """
        total, right = states.new_zeros((), dtype=torch.float32), {}
        for name, head, label in zip(COUNTED, self.heads, counts.unbind(-1), strict=True):
            logits = head(states).float()
            each = F.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=-1, reduction="none")
            w = (weight * (label >= 0) * torch.where(label > 1, MANY_WEIGHT, 1.0)).flatten()
            total = total + (each * w).sum() / w.sum()
            several = label > 1
            right[name] = round(float((logits.argmax(-1) == label)[several].float().mean()), 3)
        return WEIGHT * total / len(COUNTED), right


def number_questions(scene: Scene, rng: np.random.Generator, n_questions: int) -> list[Question]:
    """Draw questions whose answer is a number, mostly above one: of all objects, and of groups in the scene."""
    colors, shapes = {o.color for o in scene.objects}, {o.shape for o in scene.objects}
    wanted = [{"color": c} for c in sorted(colors)] + [{"shape": s} for s in sorted(shapes)]
    wanted += [{"color": c, "shape": s} for c, s in sorted({(o.color, o.shape) for o in scene.objects})]
    absent = {"color": str(rng.choice(list(COLORS)))} if rng.random() < 0.5 else {"shape": str(rng.choice(SHAPES))}
    asked = [count(scene, group, rng) for group in (*wanted, absent)]
    asked = [q for q in asked if q.answer not in EASY_ANSWERS or rng.random() < EASY_SHARE]
    chosen = [asked[i] for i in rng.permutation(len(asked))[: n_questions - 1]]
    return [*chosen, count_all(scene, rng)]


class _Batches(Dataset):
    """Batches of the phase: item i belongs to step `start + i`, and its scenes, view and questions follow from that
    number.
    """

    def __init__(self, tokenizer, cache: FeatureCache, steps: int, size: int, start: int) -> None:
        self.tokenizer, self.cache, self.steps, self.size, self.start = tokenizer, cache, steps, size, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, index: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], Batch, str, bool]:
        number = self.start + index
        rng = np.random.default_rng((17, number))
        drills = number % GENERAL_EVERY > 1
        view = _drill_view(rng) if drills else View.draw(rng, 1.0)
        share = 2 if view.is_long else 1  # half the pictures, of general batches with twice the questions
        pool = np.arange(0, len(self.cache.features), 1 if drills else 2)
        chosen = np.sort(rng.choice(pool, self.size // share, replace=False))
        scenes = [counting_scene(int(i)) for i in chosen]
        shown = [set(range(len(s.objects))) for s in scenes]
        if view.mode == "some":
            shown = [{int(k) for k in rng.permutation(len(s))[: int(rng.integers(1, len(s) + 1))]} for s in shown]
        if drills:
            asked = [number_questions(scene, rng, DRILLED) for scene in scenes]
            segments = [[Segment(q, decorate(q.text, rng)) for q in questions] for questions in asked]
        else:
            segments = [write_segments(s, view, v, rng, GENERAL * share) for s, v in zip(scenes, shown, strict=True)]
        kept = view.keep(self.cache.owner[chosen], shown, rng)
        owner = np.take_along_axis(self.cache.owner[chosen], kept, 1)
        features = torch.from_numpy(np.take_along_axis(self.cache.features[chosen], kept[..., None], 1))
        labels = (first_tokens(owner), *_dense(scenes, owner))
        renumber = bool(rng.random() < 0.5)
        return features, tuple(map(torch.from_numpy, labels)), pack(self.tokenizer, kept, segments), view.mode, renumber


def _drill_view(rng: np.random.Generator) -> View:
    mode = str(rng.choice(list(VIEWS), p=list(VIEWS.values())))
    return View(mode, float(rng.integers(18, 100) if mode == "thin" else rng.integers(4, 64)))


def _dense(scenes: Sequence[Scene], owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return running counts `[batch, k, 4]` and the weight of every token `[batch, k]`: all objects have the same total
    weight, whatever their size, and the background that of one object.
    """
    counts = np.stack([running_counts(scene, row) for scene, row in zip(scenes, owner, strict=True)])
    n_same = np.stack([np.bincount(row, minlength=256)[row] for row in owner])
    return counts, (1 / n_same).astype(np.float32)


def train_counting(
    model, tokenizer, cache: FeatureCache, steps: int, size: int, rate: float, folder: Path, check_scenes: int = 96
) -> None:
    """Run or resume the phase `counting`. Only layers of the language model are trained."""
    model.requires_grad_(False)
    language = model.model.language_model
    language.layers[FIRST_LAYER:].requires_grad_(True)
    language.norm.requires_grad_(True)
    device = next(model.parameters()).device
    width = model.config.text_config.hidden_size
    instances, counts = InstanceHead(width).to(device), CountHead(width).to(device)
    parts = {"language": language, "instances": instances, "counts": counts}
    trainer = Trainer("counting", parts, steps, rate, folder, warmup=150)
    if trainer.done:
        return
    prefix = encode_prefix(tokenizer)
    check = FreshScenes(model, tokenizer, CHECKED_KINDS, CHECKED, check_scenes)
    batches = _Batches(tokenizer, cache, steps, size, trainer.start)
    loader = iter(DataLoader(batches, None, num_workers=1, prefetch_factor=6))
    logged = 0
    for number in trainer.loop():
        features, (first, running, share), batch, mode, renumber = next(loader)
        with trainer.autocast():
            given, visual_slice = packed(model, prefix, features.to(device, torch.float32), batch, renumber=renumber)
            out = language(**given, use_cache=False, output_hidden_states=True)
            loss = answer_loss(model, out.last_hidden_state[:, visual_slice.stop :], batch)
            marked, found = instances(out.hidden_states[INSTANCE_LAYER][:, visual_slice], first.to(device))
            counted, right = counts(
                out.hidden_states[COUNT_LAYER][:, visual_slice], running.to(device), share.to(device)
            )
        trainer.step(loss + marked + counted, number)
        if trainer.time_to_log(number):
            logged += 1
            figures = {"mode": mode, "loss": round(loss.item(), 3), "instances": round(found, 3), "running": right}
            trainer.log(number, **figures, **(check.run() if logged % 5 == 1 else {}))
