"""Teach projector and language model to answer, on features of the frozen tower that are computed once.

One sequence holds the system prompt, one picture and about ten questions. A block mask lets every question see the
picture and itself only, so one pass over the picture trains ten questions.

The trap this recipe avoids: a model that has only ever read full pictures collapses when its sequence gets short,
whatever is kept. So batches differ in what the language model reads: full pictures, a random share, the objects with
some background, or some of the objects only (then with a true description of hidden ones in words, which is what
caption compensation builds on). No pruner's choice is ever trained on. Positions are original or renumbered, at random.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from pruning.demo_model.training.architecture import COLS, ROWS, SIDE, SYSTEM_PROMPT, WIDTH
from pruning.demo_model.training.instances import INSTANCE_LAYER, InstanceHead, first_tokens
from pruning.demo_model.training.optim import Trainer, autocast
from pruning.demo_model.training.token_subsets import N_PATCHES, WHOLE_FROM, View
from pruning.demo_model.training.tower import FOREGROUND, encode, to_pixels
from pruning.demo_model.world.questions import HELP_PREFIX, KINDS, Question, ask, ask_many, decorate, phrase
from pruning.demo_model.world.scene import Scene, draw, patch_coverage, sample_scene, scene_rng

SHORT_KINDS = tuple(k for k in KINDS if k != "describe")
DRILL_FROM = 0.15  # of the phase: from here on every other batch asks the kinds that are learnt last, and only them
EASY_ANSWERS, EASY_SHARE = ("zero", "one"), 0.3  # two of three counts are these; drills ask fewer of them
DRILL_KINDS = ("count", "count_all", "relation")
LOCAL_KINDS = ("color", "shape", "size", "where", "digit", "relation")  # answerable without seeing every object
CHECKED = {"full": ("full", 0), "objects": ("objects", 16), "random64": ("share", 64 / N_PATCHES)}
DESCRIBE_WEIGHT = 0.4  # its long answers would outweigh all others


def cached_scene(index: int) -> tuple[Scene, np.random.Generator]:
    """Scene number `index` of the training set; one in ten has at most two objects, two in ten at most four."""
    rng = scene_rng("train", 1_000_000 + index)
    return sample_scene(rng, high=2 if index % 10 == 0 else 4 if index % 10 in (1, 2) else 9), rng


def _scene_of_the_set(index: int) -> Scene:
    return cached_scene(index)[0]


class FeatureCache:
    """Tower features of training scenes on disk: float16 `[scenes, patches, dim]`, and which object owns each
    patch: uint8 `[scenes, patches]` (0 is background). Goes on where it stopped.

    Args:
        folder: an ignored folder.
        n_scenes: how many.
        scene_of: the scene of a number, a function that other processes can import; by default of the training set.
        name: of the files, where a folder holds several caches.
    """

    def __init__(
        self, folder: Path, n_scenes: int, scene_of: Callable[[int], Scene] | None = None, name: str = "features"
    ) -> None:
        shape = (n_scenes, N_PATCHES, WIDTH)
        self.scene_of, self._progress = scene_of or _scene_of_the_set, folder / f"{name}.json"
        mode = "r+" if self._progress.exists() else "w+"
        self.features = np.memmap(folder / f"{name}.f16", np.float16, mode, shape=shape)
        self.owner = np.memmap(folder / f"{name}.owner.u8", np.uint8, mode, shape=shape[:2])
        self.done = json.loads(self._progress.read_text()) if mode == "r+" else 0

    @torch.no_grad()
    def fill(self, tower, device: torch.device, batch: int = 32) -> None:
        pictures = _Pictures(self.scene_of, self.done, len(self.features))
        for pixels, owner in DataLoader(pictures, batch, num_workers=1, prefetch_factor=4):
            with autocast(device):
                hidden, _ = encode(tower, pixels.to(device))
            here = slice(self.done, self.done + len(pixels))
            self.features[here] = hidden[:, 1:].half().cpu().numpy()
            self.owner[here] = owner.numpy()
            self.done = here.stop
            if self.done % (batch * 32) == 0 or self.done == len(self.features):
                self.features.flush()
                self.owner.flush()
                self._progress.write_text(json.dumps(self.done))
                print(json.dumps({"phase": "features", "scene": self.done, "of": len(self.features)}), flush=True)


class _Pictures(torch.utils.data.Dataset):
    def __init__(self, scene_of: Callable[[int], Scene], start: int, stop: int) -> None:
        self.scene_of, self.start, self.stop = scene_of, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        scene = self.scene_of(self.start + index)
        picture, ids = draw(scene, SIDE)
        return to_pixels(picture), owner_of(ids, len(scene.objects))


def owner_of(ids: np.ndarray, n_objects: int) -> np.ndarray:
    """Number of the object that owns each patch, uint8 `[patches]`, 0 for background."""
    coverage = patch_coverage(ids, n_objects, ROWS, COLS)
    return np.where(coverage.sum(1) > FOREGROUND, coverage.argmax(1) + 1, 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Segment:
    """One question with its answer, as text; `help` is the description put before it, or empty."""

    question: Question
    text: str
    help: str = ""

    def prompt(self) -> str:
        return f"{HELP_PREFIX} {self.help}. {self.text}" if self.help else self.text


def encode_prefix(tokenizer) -> list[int]:
    """Everything before the first visual token, as the chat template writes it."""
    return tokenizer(f"{SYSTEM_PROMPT} USER: <image>")["input_ids"][:-1]


def encode_segment(tokenizer, segment: Segment) -> tuple[list[int], list[int]]:
    """(ids of the newline, the question and the turn of the assistant; ids of the answer)."""
    plain = {"add_special_tokens": False}
    question = tokenizer(f"\n{segment.prompt()} ASSISTANT:", **plain)["input_ids"]
    return question, [*tokenizer(segment.question.answer, **plain)["input_ids"], tokenizer.eos_token_id]


@dataclass(slots=True)
class Batch:
    """`kept` `[batch, k]` visual tokens; `ids`, `target`, `weight` `[batch, text]` of the packed text behind them;
    `block` `[batch, text]` says which question a text token belongs to (0: padding); `segments` for scoring.
    """

    kept: torch.Tensor
    ids: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    block: torch.Tensor
    position: torch.Tensor
    segments: list[list[Segment]]


def pack(tokenizer, kept: np.ndarray, segments: list[list[Segment]]) -> Batch:
    """Join the segments of every scene into one padded row; positions count from the end of the picture."""
    rows = []
    for scene in segments:
        ids, target, weight, block, position = [], [], [], [], []
        for number, segment in enumerate(scene, start=1):
            question, answer = encode_segment(tokenizer, segment)
            length = len(question) + len(answer)
            ids += question + answer
            target += [-100] * (len(question) - 1) + answer + [-100]  # the token at t predicts the one at t + 1
            weight += [DESCRIBE_WEIGHT if segment.question.kind == "describe" else 1.0] * length
            block += [number] * length
            position += range(length)
        rows.append((ids, target, weight, block, position))
    longest = max(len(r[0]) for r in rows)
    fill = (tokenizer.pad_token_id, -100, 0.0, 0, 0)
    columns = [torch.tensor([r[c] + [fill[c]] * (longest - len(r[c])) for r in rows]) for c in range(5)]
    return Batch(torch.from_numpy(kept), *columns, segments)


def packed(
    model, prefix: list[int], features: torch.Tensor, batch: Batch, *, renumber: bool
) -> tuple[dict[str, torch.Tensor], slice]:
    """(What the language model is given for a batch, with a mask bool `[batch, 1, rows, rows]`; which rows are visual.)
    `features` are the kept tokens, before the projector.
    """
    device = features.device
    embed = model.get_input_embeddings()
    visual = model.model.multi_modal_projector(features)
    size, n_kept = batch.kept.shape
    head = embed(torch.tensor(prefix, device=device)).expand(size, -1, -1)
    states = torch.cat([head, visual.to(head.dtype), embed(batch.ids.to(device))], 1)
    n_prefix = len(prefix)
    picture = torch.arange(n_kept).expand(size, -1) if renumber else batch.kept
    behind = n_prefix + (n_kept if renumber else N_PATCHES)
    position = torch.cat([torch.arange(n_prefix).expand(size, -1), n_prefix + picture, behind + batch.position], 1)
    shared = torch.zeros(size, n_prefix + n_kept, dtype=torch.long)
    block = torch.cat([shared, batch.block.masked_fill(batch.block == 0, -1)], 1)
    total = block.shape[1]
    visible = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    visible &= torch.ones(total, total, dtype=torch.bool).tril()
    given = {
        "inputs_embeds": states,
        "position_ids": position.to(device),
        "attention_mask": visible[:, None].to(device),
    }
    return given, slice(n_prefix, n_prefix + n_kept)


def forward(
    model, prefix: list[int], features: torch.Tensor, batch: Batch, *, renumber: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Hidden states of the packed text, `[batch, text, dim]`; those of the visual tokens behind `INSTANCE_LAYER`,
    `[batch, k, dim]`). `features` are the kept tokens, before the projector.
    """
    given, visual_slice = packed(model, prefix, features, batch, renumber=renumber)
    out = model.model.language_model(**given, use_cache=False, output_hidden_states=True)
    return out.last_hidden_state[:, visual_slice.stop :], out.hidden_states[INSTANCE_LAYER][:, visual_slice]


def answer_loss(model, text: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Weighted mean of the answers' cross-entropy, in float32; `text` are the last states of the packed text."""
    wanted = batch.target != -100
    logits = model.lm_head(text[wanted.to(text.device)]).float()
    each = F.cross_entropy(logits, batch.target[wanted].to(text.device), reduction="none")
    weight = batch.weight[wanted].to(text.device)
    return (each * weight).sum() / weight.sum()


def exact_matches(model, prefix, features: torch.Tensor, batch: Batch) -> dict[str, list[bool]]:
    """Per kind: was every answer token the most likely one? (Teacher-forced; equals greedy decoding on matches.)"""
    with torch.no_grad():
        text, _ = forward(model, prefix, features, batch, renumber=True)
        guess = model.lm_head(text).argmax(-1).cpu()
    right = (guess == batch.target) | (batch.target == -100)
    found: dict[str, list[bool]] = {}
    for row, scene in enumerate(batch.segments):
        for number, segment in enumerate(scene, start=1):
            ok = bool(right[row][batch.block[row] == number].all())
            found.setdefault(segment.question.kind, []).append(ok)
    return found


def write_segments(
    scene: Scene, view: View, shown: set[int], rng: np.random.Generator, n_questions: int, drill: Sequence[str] = ()
) -> list[Segment]:
    """Questions for one scene under a view; some carry a true description of objects, always of the hidden ones.
    `drill` names the only kinds to ask, where the view and the scene allow one of them.
    """
    n_objects = len(scene.objects)
    local = view.mode == "some"
    kinds = LOCAL_KINDS if local else SHORT_KINDS
    drilled = ask_many(scene, rng, 2 * n_questions, [k for k in kinds if k in drill]) if drill else []
    drilled = [q for q in drilled if q.answer not in EASY_ANSWERS or rng.random() < EASY_SHARE][:n_questions]
    questions = drilled or ask_many(scene, rng, n_questions, kinds)
    if not drilled and not local and (view.mode != "share" or view.amount > 0.4) and rng.random() < 0.5:
        questions.append(ask(scene, "describe", rng))
    chance = 0.05 if view.mode in ("full", "objects", "thin") else 0.3
    segments = []
    for question in questions:
        missing = set(question.evidence) - shown
        told: set[int] = set()
        if missing or (rng.random() < chance and question.kind != "describe"):
            told = set(missing) if local else set(question.evidence)
            told |= {int(i) for i in rng.integers(0, n_objects, int(rng.integers(0, 3)))}
        if len(told) > 5:
            told = set()
            if missing:
                continue
        words = ", ".join(phrase(scene.objects[i]) for i in rng.permutation(sorted(told))) if told else ""
        segments.append(Segment(question, decorate(question.text, rng), words))
    return segments


class _Batches(torch.utils.data.Dataset):
    """Item i is the batch of step i: scenes, view and questions follow from the number alone."""

    def __init__(self, tokenizer, cache: FeatureCache, steps: int, size: int, start: int) -> None:
        self.tokenizer, self.cache, self.steps, self.size, self.start = tokenizer, cache, steps, size, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, Batch, str, bool]:
        number = self.start + index
        rng = np.random.default_rng((11, number))
        progress = number / self.steps
        pool = np.arange(len(self.cache.features))
        if progress < 0.06:
            pool = pool[pool % 10 == 0]
        elif progress < 0.15:
            pool = pool[pool % 10 < 3]
        drills = progress > DRILL_FROM and number % 2 == 0
        view = View.draw(rng, progress, drills=drills)
        share = 2 if view.is_long else 1  # half the pictures with twice the questions: as much to learn, half the cost
        chosen = rng.choice(pool, self.size // share, replace=len(pool) < self.size)
        if drills and progress < WHOLE_FROM:  # half of them with few objects: relations are not learnt on full ones
            chosen = np.unique(np.where(np.arange(len(chosen)) % 2, chosen, chosen // 10 * 10 + chosen % 3))
        segments, shown, chosen = [], [], np.sort(chosen)
        for i in chosen:
            scene, _ = cached_scene(int(i))
            n = len(scene.objects)
            visible = set(range(n))
            if view.mode == "some":
                visible = {int(k) for k in rng.permutation(n)[: int(rng.integers(1, n + 1))]}
            shown.append(visible)
            segments.append(write_segments(scene, view, visible, rng, 10 * share, DRILL_KINDS if drills else ()))
        kept = view.keep(self.cache.owner[chosen], shown, rng)
        features = torch.from_numpy(np.take_along_axis(self.cache.features[chosen], kept[..., None], 1))
        first = torch.from_numpy(first_tokens(np.take_along_axis(self.cache.owner[chosen], kept, 1)))
        renumber = bool(rng.random() < 0.5)
        return features, first, pack(self.tokenizer, kept, segments), view.mode, renumber


def train_language(
    model, tokenizer, cache: FeatureCache, steps: int, size: int, rate: float, folder: Path, check_scenes: int = 48
) -> None:
    """Run the phase `language` to its end, or go on with it. The tower is not touched."""
    model.model.vision_tower.requires_grad_(False)
    device = next(model.parameters()).device
    instances = InstanceHead(model.config.text_config.hidden_size).to(device)
    parts = {"projector": model.model.multi_modal_projector, "language": model.model.language_model}
    parts["instances"] = instances
    trainer = Trainer("language", parts, steps, rate, folder, warmup=150)
    if trainer.done:
        return
    prefix = encode_prefix(tokenizer)
    check = FreshScenes(model, tokenizer, KINDS, CHECKED, check_scenes)
    batches = _Batches(tokenizer, cache, steps, size, trainer.start)
    loader = iter(DataLoader(batches, None, num_workers=1, prefetch_factor=6))
    logged = 0
    for number in trainer.loop():
        features, first, batch, mode, renumber = next(loader)
        with trainer.autocast():
            hidden, picture = forward(model, prefix, features.to(device, torch.float32), batch, renumber=renumber)
            loss = answer_loss(model, hidden, batch)
            instance_loss, found = instances(picture, first.to(device))
        trainer.step(loss + instance_loss, number)
        if trainer.time_to_log(number):
            logged += 1
            figures = check.run() if logged % 8 == 1 else {}
            trainer.log(number, mode=mode, loss=round(loss.item(), 3), instances=round(found, 3), **figures)


class FreshScenes:
    """Accuracy per kind of question while training, on scenes that nobody trains on or is judged by.

    Args:
        kinds: of the questions about every scene. views: by name, mode and amount of a `View`.
    """

    def __init__(
        self, model, tokenizer, kinds: Sequence[str], views: Mapping[str, tuple[str, float]], n_scenes: int
    ) -> None:
        self.model, self.prefix = model, encode_prefix(tokenizer)
        rng = np.random.default_rng(13)
        owners, shown, pixels, segments = [], [], [], []
        for i in range(n_scenes):
            scene_random = scene_rng("evaluate", 20_000 + i)
            scene = sample_scene(scene_random)
            picture, ids = draw(scene, SIDE)
            pixels.append(to_pixels(picture))
            owners.append(owner_of(ids, len(scene.objects)))
            shown.append(set(range(len(scene.objects))))
            questions = [ask(scene, k, scene_random) for k in kinds]
            segments.append([Segment(q, q.text) for q in questions if q is not None])
        with torch.no_grad():
            hidden, _ = encode(model.model.vision_tower, torch.stack(pixels).to(model.device))
        self.features, owner = hidden[:, 1:], np.stack(owners)
        self.batches = {n: pack(tokenizer, View(*v).keep(owner, shown, rng), segments) for n, v in views.items()}

    def run(self) -> dict[str, dict[str, float]]:
        """By view: share of right answers of every kind, and of all short ones."""
        figures, rows = {}, torch.arange(len(self.features))[:, None]
        for name, batch in self.batches.items():
            kept = self.features[rows, batch.kept.to(self.features.device)]
            found = exact_matches(self.model, self.prefix, kept, batch)
            short = [ok for kind, oks in found.items() if kind != "describe" for ok in oks]
            figures[name] = {"all": round(float(np.mean(short)), 3)}
            figures[name] |= {k: round(float(np.mean(v)), 3) for k, v in found.items()}
        return figures
