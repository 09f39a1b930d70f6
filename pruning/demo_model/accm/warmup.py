"""First stage of ACCM's training: the captioner learns true descriptions of discarded objects.

The paper warms up on COCO captions; drawn scenes need no person to describe them. Batches follow from the number of
the step alone, tower features are computed once (`language.FeatureCache`), so a stopped run goes on exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pruning.compensation.beam import beam_search, pad_left
from pruning.compensation.captioner import Captioner
from pruning.demo_model.evaluation.judge import phrases
from pruning.demo_model.training.architecture import SIDE
from pruning.demo_model.training.language import FeatureCache, cached_scene, owner_of
from pruning.demo_model.training.optim import Trainer
from pruning.demo_model.training.tower import encode, to_pixels
from pruning.demo_model.world.captions import caption_of, draw_discarded, objects_in
from pruning.demo_model.world.questions import KINDS, ask, ask_many, decorate
from pruning.demo_model.world.scene import Scene, draw, sample_scene, scene_rng

BRIEF_KINDS = ("color", "shape", "size", "where", "exists", "digit", "relation")
LIST_KINDS = ("count", "count_all", "describe")  # their captions are long: they get batches of their own
QUESTIONS = {BRIEF_KINDS: 8, LIST_KINDS: 4}  # per scene
LIST_EVERY = 4  # every fourth batch
SHORT_UNTIL, SHORT_TOKENS = 0.6, 192  # until then most of the background is left out: cheaper, and learnt sooner
IGNORE = -100


@dataclass(slots=True)
class CaptionBatch:
    """`features` `[scenes, patches, dim]`, `discarded` bool `[scenes, patches]`; question ids `[rows, q]` padded on the
    left with `n_pad` `[rows]`; caption ids `[rows, c]` and what to say next `[rows, c + 1]` (`IGNORE` behind the end).
    """

    features: torch.Tensor
    discarded: torch.Tensor
    question: torch.Tensor
    n_pad: torch.Tensor
    caption: torch.Tensor
    target: torch.Tensor


def write_rows(
    scene: Scene, discarded: set[int], rng: np.random.Generator, kinds: tuple[str, ...]
) -> list[tuple[str, str]]:
    """`QUESTIONS[kinds]` pairs (question, caption) about one scene."""
    wanted = QUESTIONS[kinds]
    asked = ask_many(scene, rng, wanted, kinds)
    asked = [asked[i % len(asked)] for i in range(wanted)]
    return [(decorate(q.text, rng), caption_of(scene, q, discarded)) for q in asked]


def pack_rows(tokenizer, features: np.ndarray, discarded: np.ndarray, rows: list[tuple[str, str]]) -> CaptionBatch:
    """Token ids of questions and captions, padded."""
    plain = {"add_special_tokens": False}
    question, n_pad = pad_left([tokenizer(q, **plain)["input_ids"] for q, _ in rows], tokenizer.pad_token_id)
    said = [tokenizer(c, **plain)["input_ids"] if c else [] for _, c in rows]
    longest = max(map(len, said))
    caption = torch.tensor([s + [tokenizer.pad_token_id] * (longest - len(s)) for s in said], dtype=torch.long)
    target = torch.tensor([[*s, tokenizer.eos_token_id] + [IGNORE] * (longest - len(s)) for s in said])
    return CaptionBatch(
        torch.from_numpy(features), torch.from_numpy(discarded), question, n_pad, caption.reshape(len(rows), -1), target
    )


class _Batches(Dataset):
    """Item i is the batch of step i."""

    def __init__(self, tokenizer, cache: FeatureCache, steps: int, size: int, start: int) -> None:
        self.tokenizer, self.cache, self.steps, self.size, self.start = tokenizer, cache, steps, size, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, index: int) -> CaptionBatch:
        number = self.start + index
        rng = np.random.default_rng((17, number))
        progress = number / self.steps
        pool = np.arange(len(self.cache.features))
        if progress < 0.08:  # few objects first
            pool = pool[pool % 10 == 0]
        elif progress < 0.2:
            pool = pool[pool % 10 < 3]
        kinds = LIST_KINDS if number % LIST_EVERY == 0 else BRIEF_KINDS
        chosen = np.sort(rng.choice(pool, self.size, replace=len(pool) < self.size))
        rows, masks = [], []
        for i in chosen:
            scene, _ = cached_scene(int(i))
            owner = self.cache.owner[i]
            discarded = draw_discarded(owner, rng)
            masks.append(discarded)
            rows += write_rows(scene, objects_in(owner, discarded), rng, kinds)
        features, visible = self.cache.features[chosen], np.stack(masks)
        if progress < SHORT_UNTIL:
            order = rng.random(visible.shape) + (self.cache.owner[chosen] > 0) + 2.0 * visible
            places = np.argsort(-order, 1)[:, :SHORT_TOKENS]
            features, visible = (
                np.take_along_axis(features, places[..., None], 1),
                np.take_along_axis(visible, places, 1),
            )
        return pack_rows(self.tokenizer, features, visible, rows)


def caption_loss(captioner: Captioner, batch: CaptionBatch) -> torch.Tensor:
    """Mean negative log-probability of a caption token."""
    device = captioner.prefix.device
    memory = captioner.look(batch.features.to(device, torch.float32), batch.discarded.to(device))
    logits = captioner(memory, batch.question.to(device), batch.n_pad.to(device), batch.caption.to(device))
    return F.cross_entropy(logits.flatten(0, 1), batch.target.to(device).flatten(), ignore_index=IGNORE)


def warm_up(
    captioner: Captioner,
    tower,
    tokenizer,
    cache: FeatureCache,
    steps: int,
    size: int,
    rate: float,
    folder: Path,
    check_scenes: int = 32,
) -> None:
    """Run the phase `captions` to its end, or go on with it; checkpoints and `log.jsonl` in `folder`."""
    trainer = Trainer("captions", {"captioner": captioner}, steps, rate, folder)
    if trainer.done:
        return
    check = CaptionCheck(tower, tokenizer, check_scenes)
    loader = iter(DataLoader(_Batches(tokenizer, cache, steps, size, trainer.start), None, num_workers=1))
    logged = 0
    captioner.train()
    for number in trainer.loop():
        loss = caption_loss(captioner, next(loader))
        trainer.step(loss, number)
        if trainer.time_to_log(number):
            logged += 1
            last = number + 1 == steps
            figures = check.run(captioner) if logged % 5 == 0 or last else {}
            trainer.log(number, loss=round(loss.item(), 4), **figures)
    captioner.eval()


class CaptionCheck:
    """Captions of fresh scenes beside the truth: F1 of the phrases of the best beam, by kind."""

    def __init__(self, tower, tokenizer, n_scenes: int) -> None:
        self.tokenizer = tokenizer
        device = next(tower.parameters()).device
        self.items: list[tuple[torch.Tensor, list[tuple[str, str, str]]]] = []
        for i in range(n_scenes):
            rng = scene_rng("evaluate", 30_000 + i)
            scene = sample_scene(rng)
            picture, ids = draw(scene, SIDE)
            with torch.no_grad():
                hidden, _ = encode(tower, to_pixels(picture)[None].to(device))
            owner = owner_of(ids, len(scene.objects))
            discarded = draw_discarded(owner, rng)
            questions = [q for q in (ask(scene, k, rng) for k in KINDS) if q is not None]
            truth = [(q.kind, q.text, caption_of(scene, q, objects_in(owner, discarded))) for q in questions]
            self.items.append((hidden[:, 1:][:, torch.from_numpy(discarded)], truth))

    def run(self, captioner: Captioner) -> dict[str, object]:
        captioner.eval()
        counts: dict[str, list[int]] = {}
        exact = []
        for features, truth in self.items:
            plain = {"add_special_tokens": False}
            ids = [self.tokenizer(text, **plain)["input_ids"] for _, text, _ in truth]
            question, n_pad = pad_left(ids, self.tokenizer.pad_token_id, captioner.prefix.device)
            with torch.no_grad():
                memory = captioner.look(features)
            end = self.tokenizer.eos_token_id
            beams = beam_search(captioner, memory, question, n_pad, end)
            for row, (kind, _, true) in enumerate(truth):
                said = self.tokenizer.decode(beams.ids(row, 0, end)).strip()
                a, b = phrases(said), phrases(true)
                hits, both = counts.setdefault(kind, [0, 0]), a.total() + b.total()
                hits[0] += 2 * (a & b).total() + (not both)
                hits[1] += both + (not both)
                exact.append(a == b)
        captioner.train()
        f1 = {k: round(hits / total, 2) for k, (hits, total) in counts.items()}
        return {"exact": round(float(np.mean(exact)), 3), "f1": f1}
