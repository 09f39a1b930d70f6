"""`python -m pruning.demo_model train-pruner`: what the trainings of learned pruners share: lessons, loop, card.

Everything of the model is frozen; one small module learns. Batches follow from the number of the step alone, so a
stopped training goes on exactly where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from pruning.checkpoints import CONFIG, WEIGHTS
from pruning.demo_model.training.language import SHORT_KINDS, Batch, FeatureCache, Segment, cached_scene, pack
from pruning.demo_model.training.optim import Trainer, same_sizes
from pruning.demo_model.training.token_subsets import N_PATCHES
from pruning.demo_model.world.questions import ask_many, decorate
from pruning.engine.environment import processor_and_threads
from pruning.methods.base import TokenPruner
from pruning.methods.trained_modules import Learned, save
from pruning.models.base import VLMAdapter

Step = Callable[[torch.Tensor, Batch, int], tuple[torch.Tensor, dict[str, float]]]


class Lessons(Dataset):
    """Item i is the batch of step i: features `[scenes, patches, dim]` of the full picture, and packed questions."""

    def __init__(self, tokenizer, cache: FeatureCache, n_scenes: int, n_questions: int, seed: int) -> None:
        self.tokenizer, self.cache, self.seed = tokenizer, cache, seed
        self.n_scenes, self.n_questions = n_scenes, n_questions

    def __getitem__(self, number: int) -> tuple[torch.Tensor, Batch]:
        rng = np.random.default_rng((self.seed, number))
        chosen = np.sort(rng.choice(len(self.cache.features), self.n_scenes, replace=False))
        segments = []
        for i in chosen:
            asked = ask_many(cached_scene(int(i))[0], rng, self.n_questions, SHORT_KINDS)
            segments.append([Segment(q, decorate(q.text, rng)) for q in asked])
        every = np.tile(np.arange(N_PATCHES), (self.n_scenes, 1))
        return torch.from_numpy(self.cache.features[chosen].astype(np.float32)), pack(self.tokenizer, every, segments)


@dataclass(frozen=True, slots=True)
class Phase:
    """One stage of a training: `step(features, batch, number)` gives a loss and figures for the log."""

    name: str
    steps: int
    rate: float
    lessons: Lessons
    step: Step


class Training(Protocol):
    """A method's own training: the module that learns, its shape, its stages, and what the card says about it."""

    method: type[TokenPruner]
    about: str
    recipe: Any
    shape: dict[str, int]
    module: nn.Module
    phases: Sequence[Phase]


def learn(training: Training, adapter: VLMAdapter, work: Path, out: Path) -> None:
    """Run or resume all stages in the folder `work` and write module and card to `out`."""
    work.mkdir(parents=True, exist_ok=True)
    same_sizes(work / "recipe.json", {"method": training.method.key, **asdict(training.recipe)})
    minutes = {}
    for phase in training.phases:
        trainer = Trainer(phase.name, {"module": training.module}, phase.steps, phase.rate, work)
        ahead = Subset(phase.lessons, range(trainer.start, phase.steps))
        loader = iter(DataLoader(ahead, None, num_workers=1, prefetch_factor=4))
        for number in trainer.loop():
            torch.manual_seed(number)  # what a step draws follows from its number too
            loss, figures = phase.step(*next(loader), number)
            trainer.step(loss, number)
            if trainer.time_to_log(number):
                said = {"loss": float(loss.detach()), **figures}
                trainer.log(number, **{name: round(value, 4) for name, value in said.items()})
        saved = torch.load(work / f"{phase.name}.pt", map_location="cpu", weights_only=True)
        minutes[phase.name] = round(saved["seconds"] / 60, 1)
    facts = {
        "recipe": asdict(training.recipe), "minutes": minutes, "torch": torch.__version__,
        "machine": processor_and_threads(),
    }  # fmt: skip
    learned = Learned(training.method.key, training.shape, training.module.state_dict(), adapter.identity(), facts)
    digest = save(out, learned)
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    _write_card(out, training, learned, digest, lines)


def _write_card(
    folder: Path, training: Training, learned: Learned, digest: str, lines: Sequence[dict[str, Any]]
) -> None:
    method, drop = training.method, ("phase", "step", "of", "minutes_left")
    rows = []
    for phase in training.phases:
        last = [line for line in lines if line["phase"] == phase.name][-1]
        figures = ", ".join(f"{k} {v}" for k, v in last.items() if k not in drop)
        rows.append(f"| {phase.name} | {phase.steps} | {learned.facts['minutes'][phase.name]} | {figures} |")
    numbers = sum(w.numel() for w in learned.weights.values())
    text = f"""# {method.title}: the trained part, for the bundled model

Trained by this project for the weights that `{CONFIG}` names; for others it refuses. Method: {method.paper},
written from the outline of the paper; nothing was copied. What deviates stands in `pruning/methods/{method.key}.py`.

{training.about}

{numbers / 1e3:.0f} thousand parameters, {(folder / WEIGHTS).stat().st_size / 1e3:.0f} kB in float32.
sha256 of `{WEIGHTS}`: `{digest}`

`python -m pruning.demo_model train-pruner {method.key}`, on the bundled model's training scenes; the model is frozen.
How it does beside other methods: the table in the card of `assets/models/demo`.

| stage | steps | minutes | last figures |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Hardware: {learned.facts["machine"]}; torch {learned.facts["torch"]}.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
