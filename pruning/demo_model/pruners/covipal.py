"""Train CoViPAL's classifier for the bundled model, in the paper's two stages.

First the classifier learns what a layer half-way through the frozen language model attends to (its attention from the
question to the picture, summed over heads). Then it learns end to end: the logarithm of the keep probability is added
to the attention that any later row pays to a visual token, and the answer has to come out right all the same, while
the mean probability is drawn to a budget. Only the classifier learns.

Inferred: the regression's scale (attention divided by its maximum, cross-entropy), which rows ask (all of the
question), the budget's term.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from pruning.demo_model.pruners.training import Lessons, Phase
from pruning.demo_model.training.language import Batch, FeatureCache, encode_prefix, packed
from pruning.methods.covipal import CoViPAL, KeepClassifier
from pruning.models.base import VLMAdapter


@dataclass(frozen=True, slots=True)
class CoViPALRecipe:
    """Sizes of the two stages. A step of the first is `guided_scenes` pictures with `questions` questions each, packed;
    one of the second is `answered_scenes` pictures with one question each. `share`: of the tokens that the mean keep
    probability is drawn to, with `budget` as the weight of the squared difference.
    """

    guided_steps: int = 240
    guided_scenes: int = 6
    questions: int = 4
    guided_rate: float = 2e-3
    answered_steps: int = 100
    answered_scenes: int = 8
    answered_rate: float = 5e-4
    share: float = 1 / 9
    budget: float = 20.0


class Teacher:
    """The frozen model: what a question attends to, and what an answer costs when tokens are held back."""

    def __init__(self, adapter: VLMAdapter) -> None:
        self.tokenizer = adapter.tokenizer
        config = copy.deepcopy(adapter.model.config)  # which would be changed
        self.model = type(adapter.model)._from_config(config, dtype=torch.float32, attn_implementation="eager")
        self.model.load_state_dict(adapter.model.state_dict())
        self.model.eval().requires_grad_(False)
        self.prefix = encode_prefix(adapter.tokenizer)
        self.guide = adapter.info.text_layers // 2

    @torch.no_grad()
    def attention(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What every question pays to every token at the guide layer, `[questions, patches]`, its maximum being 1."""
        given, visual_slice = packed(self.model, self.prefix, features, batch, renumber=False)
        out = self.model.model.language_model(**self._added(given), use_cache=False, output_attentions=True)
        paid = out.attentions[self.guide].sum(1)[:, visual_slice.stop :, visual_slice]
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
        given, visual_slice = packed(self.model, self.prefix, features, batch, renumber=False)
        given = self._added(given)
        mask = given["attention_mask"]
        held = (
            torch.zeros_like(mask)
            + F.pad(log_keep, (visual_slice.start, mask.shape[-1] - visual_slice.stop))[:, None, None]
        )
        itself = torch.eye(mask.shape[-1], dtype=torch.bool)
        given["attention_mask"] = mask + held.masked_fill(itself, 0.0)
        hidden = self.model.model.language_model(**given, use_cache=False).last_hidden_state[:, visual_slice.stop :]
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
        visible = given["attention_mask"]
        lowest = torch.finfo(torch.float32).min / 2  # halved: a log probability may come on top
        return given | {"attention_mask": torch.zeros(visible.shape).masked_fill(~visible, lowest)}


def _asking(target: torch.Tensor) -> torch.Tensor:
    """Rows of questions, up to the one that says the first word of the answer: bool `[text]`."""
    answering = target != -100
    first = answering & ~torch.cat([answering.new_zeros(1), answering[:-1]])
    ended = torch.cat([answering[:1], (target[1:] == -100) & answering[:-1]])  # the row of the answer's last word
    return (~answering & ~ended) | first


class CoViPALTraining:
    """What `pruner_training.learn` asks of a training."""

    method = CoViPAL
    about: ClassVar[str] = """Not the authors' classifier, whose weights are for other models: its shape (one attention
layer over projected tokens and question) and details of the two stages are inferred.

First stage (`guided`): the attention of the layer half-way through the language model; `top_found`: how many of the 16
most attended tokens are among the classifier's best 64. Second stage (`answered`): the right answers, with the keep
probability as a bias of attention; `kept`: mean keep probability."""

    def __init__(self, adapter: VLMAdapter, cache: FeatureCache, recipe: CoViPALRecipe) -> None:
        self.recipe, self.teacher = recipe, Teacher(adapter)
        self.shape = {"dim": adapter.info.text_dim}
        self.module = KeepClassifier(**self.shape)
        many = Lessons(adapter.tokenizer, cache, recipe.guided_scenes, recipe.questions, seed=23)
        single = Lessons(adapter.tokenizer, cache, recipe.answered_scenes, 1, seed=29)
        self.phases = (
            Phase("guided", recipe.guided_steps, recipe.guided_rate, many, self.follow),
            Phase("answered", recipe.answered_steps, recipe.answered_rate, single, self.answer),
        )

    def follow(self, features: torch.Tensor, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a step of the first stage, and figures for the log."""
        del number
        logits, wanted = self._logits(features, batch), self.teacher.attention(features, batch)
        top = wanted.topk(16).indices
        found = (logits.topk(64).indices[..., None] == top[:, None]).any(1).float().mean()
        return F.binary_cross_entropy_with_logits(logits, wanted), {"top_found": float(found)}

    def answer(self, features: torch.Tensor, batch: Batch, number: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The same of the second stage."""
        del number
        logits = self._logits(features, batch)
        loss, kept = self.teacher.loss(features, batch, F.logsigmoid(logits)), logits.sigmoid().mean()
        figures = {"answer": float(loss.detach()), "kept": float(kept.detach())}
        return loss + self.recipe.budget * (kept - self.recipe.share) ** 2, figures

    def _logits(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        counts = torch.tensor([len(s) for s in batch.segments])
        visual = self.teacher.project(features).repeat_interleave(counts, 0)
        return self.module(visual, *self.teacher.words(batch))
