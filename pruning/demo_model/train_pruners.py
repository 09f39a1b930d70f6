"""`python -m pruning.demo_model train-pruner`: the small modules of the pruners that have to be trained for a model.

CoViPAL's two stages. First the classifier learns what a layer half-way through the frozen language model attends to
(its attention from the question to the picture, summed over heads). Then it learns end to end: the logarithm of the
keep probability is added to the attention that any later row pays to a visual token, and the answer has to come out
right all the same, while the mean probability is drawn to a budget. Only the small module learns.

Inferred: the regression's scale (attention divided by its maximum, cross-entropy), which rows ask (all of the
question), the budget's term. Batches follow from the number of the step alone, so a stopped run goes on exactly.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from pruning.demo_model.language import (
    N_PATCHES,
    SHORT_KINDS,
    Batch,
    FeatureCache,
    Segment,
    cached_scene,
    encode_prefix,
    pack,
    packed,
)
from pruning.demo_model.optimise import Trainer
from pruning.demo_model.questions import ask_many, decorate
from pruning.learned import CONFIG, WEIGHTS, Learned, save
from pruning.machine import processor_name
from pruning.methods.covipal import CoViPAL, KeepClassifier
from pruning.models.base import VLMAdapter

SCENES = 20_000  # of the training set


@dataclass(frozen=True, slots=True)
class PrunerRecipe:
    """Sizes of the two stages. A step of the first is `guided_scenes` pictures with `questions` questions each, packed;
    one of the second is `answered` pictures with one question each. `share`: of the tokens that the mean keep
    probability is drawn to, with `budget` as the weight of the squared difference.
    """

    guided_steps: int = 300
    guided_scenes: int = 8
    questions: int = 8
    guided_rate: float = 2e-3
    answered_steps: int = 120
    answered: int = 12
    answered_rate: float = 5e-4
    share: float = 1 / 9
    budget: float = 20.0


class _Batches(Dataset):
    """Item i is the batch of step i: features `[scenes, patches, dim]` and the packed questions."""

    def __init__(self, tokenizer, cache: FeatureCache, steps: int, n_scenes: int, n_questions: int, seed: int) -> None:
        self.tokenizer, self.cache, self.steps = tokenizer, cache, steps
        self.n_scenes, self.n_questions, self.seed = n_scenes, n_questions, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> tuple[torch.Tensor, Batch]:
        rng = np.random.default_rng((self.seed, number))
        chosen = np.sort(rng.choice(len(self.cache.features), self.n_scenes, replace=False))
        segments = []
        for i in chosen:
            scene, _ = cached_scene(int(i))
            asked = ask_many(scene, rng, self.n_questions, SHORT_KINDS)
            segments.append([Segment(q, decorate(q.text, rng)) for q in asked])
        every = np.tile(np.arange(N_PATCHES), (self.n_scenes, 1))
        return torch.from_numpy(self.cache.features[chosen].astype(np.float32)), pack(self.tokenizer, every, segments)


class Teacher:
    """The frozen model: what a question attends to, and what an answer costs when tokens are held back."""

    def __init__(self, adapter: VLMAdapter, folder: Path) -> None:
        kind = type(adapter.model)
        self.adapter, self.tokenizer = adapter, adapter.tokenizer
        self.model = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
        )
        self.model.eval().requires_grad_(False)
        self.prefix = encode_prefix(adapter.tokenizer)
        self.guide = adapter.info.text_layers // 2

    @torch.no_grad()
    def attention(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What every question pays to every token at the guide layer, `[questions, patches]`, its maximum being 1."""
        given, seen = packed(self.model, self.prefix, features, batch, renumber=False)
        out = self.model.model.language_model(**self._added(given), use_cache=False, output_attentions=True)
        paid = out.attentions[self.guide].sum(1)[:, seen.stop :, seen]
        found = []
        for row, segments in enumerate(batch.segments):
            for number in range(1, len(segments) + 1):
                found.append(paid[row][(batch.block[row] == number) & _asking(batch.target[row])].sum(0))
        found = torch.stack(found)
        return found / found.amax(1, keepdim=True)

    def loss(self, features: torch.Tensor, batch: Batch, log_keep: torch.Tensor) -> torch.Tensor:
        """Mean negative log-probability of an answer's token; `log_keep` `[batch, patches]` is added to the attention
        that later rows pay. One question per picture.
        """
        given, seen = packed(self.model, self.prefix, features, batch, renumber=False)
        given = self._added(given)
        mask = given["attention_mask"]
        held = torch.zeros_like(mask) + F.pad(log_keep, (seen.start, mask.shape[-1] - seen.stop))[:, None, None]
        itself = torch.eye(mask.shape[-1], dtype=torch.bool)
        given["attention_mask"] = mask + held.masked_fill(itself, 0.0)
        hidden = self.model.model.language_model(**given, use_cache=False).last_hidden_state[:, seen.stop :]
        wanted = batch.target != -100
        return F.cross_entropy(self.model.lm_head(hidden[wanted]), batch.target[wanted])

    def words(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the questions as a person wrote them `[questions, m, dim]`, and which rows are padding."""
        asked = [s.prompt() for segments in batch.segments for s in segments]
        ids = [torch.tensor(self.tokenizer(a, add_special_tokens=False)["input_ids"]) for a in asked]
        padded = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        length = torch.tensor([len(i) for i in ids])
        return self.model.get_input_embeddings()(padded), torch.arange(padded.shape[1]) >= length[:, None]

    @torch.no_grad()
    def project(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.model.multi_modal_projector(features)

    @staticmethod
    def _added(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With a mask that is added to the scores instead of one that says yes or no."""
        sees = given["attention_mask"]
        lowest = torch.finfo(torch.float32).min / 2  # halved: a log probability may come on top
        return given | {"attention_mask": torch.zeros(sees.shape).masked_fill(~sees, lowest)}


def _asking(target: torch.Tensor) -> torch.Tensor:
    """Rows of questions, up to the one that says the first word of the answer: bool `[text]`."""
    answering = target != -100
    first = answering & ~torch.cat([answering.new_zeros(1), answering[:-1]])
    ended = torch.cat([answering[:1], (target[1:] == -100) & answering[:-1]])  # the row of the answer's last word
    return (~answering & ~ended) | first


def train_covipal(adapter: VLMAdapter, folder: Path, work: Path, out: Path, recipe: PrunerRecipe, cache: FeatureCache):
    """Run or resume both stages in the folder `work` and write the classifier to `out`.

    Args:
        folder: of the model's weights, which are opened once more with attention that can be seen.
    """
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    teacher = Teacher(adapter, folder)
    shape = {"dim": adapter.info.text_dim}
    classifier = KeepClassifier(**shape)
    seconds = {}
    for phase, steps, rate in (
        ("guided", recipe.guided_steps, recipe.guided_rate),
        ("answered", recipe.answered_steps, recipe.answered_rate),
    ):
        trainer = Trainer(phase, {"classifier": classifier}, steps, rate, work)
        n = (recipe.guided_scenes, recipe.questions) if phase == "guided" else (recipe.answered, 1)
        batches = _Batches(adapter.tokenizer, cache, steps, *n, seed=23 if phase == "guided" else 29)
        ahead = torch.utils.data.Subset(batches, range(trainer.start, steps))
        loader = iter(DataLoader(ahead, None, num_workers=1, prefetch_factor=4))
        for number in trainer.loop():
            loss, figures = _step(phase, classifier, teacher, *next(loader), recipe)
            trainer.step(loss, number)
            if trainer.time_to_log(number):
                trainer.log(number, loss=round(float(loss.detach()), 4), **figures)
        seconds[phase] = torch.load(work / f"{phase}.pt", weights_only=True)["seconds"]
    facts = {
        "recipe": asdict(recipe), "minutes": {p: round(s / 60, 1) for p, s in seconds.items()},
        "machine": f"{processor_name()}, {torch.get_num_threads()} threads", "torch": torch.__version__,
        "guide_layer": teacher.guide,
    }  # fmt: skip
    learned = Learned(CoViPAL.key, shape, classifier.state_dict(), adapter.identity(), facts)
    digest = save(out, learned)
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    _write_card(out, learned, digest, lines)


def _step(
    phase: str, classifier: nn.Module, teacher: Teacher, features: torch.Tensor, batch: Batch, recipe: PrunerRecipe
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one batch, and figures for the log."""
    counts = torch.tensor([len(s) for s in batch.segments])
    visual = teacher.project(features).repeat_interleave(counts, 0)
    logits = classifier(visual, *teacher.words(batch))
    if phase == "guided":
        wanted = teacher.attention(features, batch)
        top = wanted.topk(16).indices
        found = (logits.topk(64).indices[..., None] == top[:, None]).any(1).float().mean()
        return F.binary_cross_entropy_with_logits(logits, wanted), {"top_found": round(float(found), 3)}
    answer = teacher.loss(features, batch, F.logsigmoid(logits))
    mean = logits.sigmoid().mean()
    figures = {"answer": round(float(answer.detach()), 4), "kept": round(float(mean.detach()), 3)}
    return answer + recipe.budget * (mean - recipe.share) ** 2, figures


def _write_card(folder: Path, learned: Learned, digest: str, lines: list[dict[str, object]]) -> None:
    recipe, minutes = learned.facts["recipe"], learned.facts["minutes"]
    last = {phase: [line for line in lines if line["phase"] == phase][-1] for phase in minutes}
    drop = ("phase", "step", "of", "minutes_left")
    rows = "\n".join(
        f"| {phase} | {recipe[f'{phase}_steps']} | {minutes[phase]} | "
        f"{', '.join(f'{k} {v}' for k, v in last[phase].items() if k not in drop)} |"
        for phase in minutes
    )
    size = (folder / WEIGHTS).stat().st_size / 1e3
    n = sum(w.numel() for w in learned.weights.values())
    text = f"""# CoViPAL's classifier for the bundled model

Trained by this project for the weights that `{CONFIG}` names; for others it refuses. Method: CoViPAL (arXiv
2508.17243), written from the paper's outline; nothing was copied, and the authors' own weights are for other models.

**What it is not.** Not the authors' classifier: its shape (one attention layer over projected tokens and question, 64
wide) and details of the two stages are inferred; see the docstrings of `pruning/methods/covipal.py` and of
`pruning/demo_model/train_pruners.py`.

{n / 1e3:.0f} thousand parameters, {size:.0f} kB in float32. sha256 of `{WEIGHTS}`: `{digest}`

`python -m pruning.demo_model train-pruner`: on the bundled model's training scenes, with everything frozen but the
classifier. First stage: the attention of layer {learned.facts["guide_layer"]}. Second: the right answers, with the
keep probability as a bias of attention. `top_found`: how many of the 16 most attended tokens are among its best 64;
`kept`: mean keep probability.

| stage | steps | minutes | last figures |
| --- | --- | --- | --- |
{rows}

Hardware: {learned.facts["machine"]}; torch {learned.facts["torch"]}.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
