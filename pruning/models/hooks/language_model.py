# Long because one run of the language model is one state machine: observing, deciding, cutting, decoding.
"""Hooks on the language model: observe attention, drop or merge rows before a layer, keep positions right.

Every decoder layer of the transformers library is called as `layer(hidden_states, attention_mask=, position_ids=,
position_embeddings=(cos, sin), past_key_values=, ...)`. One pre-hook per layer that gathers rows of these arguments
is all that pruning takes: the layer, and its own entry in the `DynamicCache`, become shorter by themselves.

One sequence per run and no padding, hence three simple rules: a causal mask of n surviving rows is the upper left
n x n block of the full one; a single new token sees its layer's whole cache; positions while decoding are counted from
the last prompt position of each layer, never read from cache lengths (they differ between layers).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from pruning.errors import RunStopped
from pruning.interface import (
    ATTENTION_SIGNALS,
    LANGUAGE_SIGNALS,
    STATE_SIGNALS,
    Observation,
    Part,
    PromptText,
    QuestionText,
    Signal,
)
from pruning.models.base import TEXT_ROW, Decider, RunCallbacks, VisualTokens
from pruning.models.hooks.attention import active, attention_row, attention_rows, current, rows_of
from pruning.models.prompt import Prompt
from pruning.ops.decoding_signals import ONLY_LAYER, entropy_ratio

ORIGINAL, RENUMBERED, REINDEXED = "original", "renumbered", "reindexed"
TOKENS_LAST = frozenset({Signal.LAST_TOKEN_ATTENTION, Signal.TEXT_ATTENTION})  # others: tokens, then their numbers


class _Enough(Exception):  # noqa: N818 (nothing went wrong)
    """Ends a look ahead as soon as queries and keys were seen."""


class LanguageRun:
    """One answer: a prefill that gets shorter on its way, then one token at a time."""

    def __init__(
        self,
        hooks: LanguageHooks,
        prompt: Prompt,
        picture: VisualTokens,
        decider: Decider | None,
        callbacks: RunCallbacks,
    ) -> None:
        self.hooks, self.prompt, self.picture, self.decider, self.stop = hooks, prompt, picture, decider, callbacks.stop
        mine = [s for s in decider.stages if s.part is Part.LANGUAGE_MODEL] if decider else []
        self.stages = {s.layer: s for s in mine}
        before = [s for s in decider.stages if s.part is not Part.LANGUAGE_MODEL] if decider else []
        self.arrival_policy = decider.positions_at(before[-1]) if before else ORIGINAL
        self.wanted = [
            observation
            for observation in (decider.observations if decider else ())
            if observation.signal in LANGUAGE_SIGNALS
        ]
        layers = {observation.layer for observation in self.wanted if observation.signal in ATTENTION_SIGNALS}
        layers = range(hooks.n_layers) if callbacks.trace else layers
        self.observed_modules = {hooks.attention(layer): partial(self._observe_attention, layer) for layer in layers}
        self.word_attention: list[torch.Tensor] | None = [] if callbacks.trace else None
        self.head_ratios: list[torch.Tensor] = []  # of every step, where words are watched
        self.visual_states: torch.Tensor | None = None  # of the prompt's visual rows, behind the last norm
        self.visual_ids: torch.Tensor | None = None
        self.prompt_attention: list[torch.Tensor] = []  # per layer: what the prompt's last row gives to what
        self.ids_per_layer: list[torch.Tensor] = []
        self.columns_per_layer: list[torch.Tensor] = []
        self.observed: dict[Observation, tuple[torch.Tensor, torch.Tensor]] = {}
        self.visual_per_layer: list[int] = []
        self.rows_per_layer: list[int] = []
        self.last_position: list[int] = []  # of the prompt, per layer
        self.prefill, self.step = False, 0
        self.ahead = self.evicts = False

    # -- the whole language model ---------------------------------------------------------------------------------

    def begin(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Before a forward pass: set up the prefill, or say which position the new token has."""
        if self.stop():
            raise RunStopped
        hidden, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        if self.word_attention is not None:
            n_visual = int(self.prompt.visual.sum())
            self.word_attention.append(torch.zeros(n_visual, device=hidden.device))
        self.prefill = cache is None or cache.get_seq_length() == 0
        if not self.prefill:
            self.step += 1
            if self.evicts and self.step == 1:
                self._evict(cache)
            self._moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
            now = torch.full((1, 1), self.prompt_end + self.step, device=hidden.device)
            return {**kwargs, "position_ids": now}
        device = hidden.device
        self.n_prompt = hidden.shape[1]
        self.columns = torch.arange(self.n_prompt, device=device)
        given = self.prompt.positions  # `[axes, tokens]` with several axes, else `[tokens]`
        self.positions = self.columns.clone() if given is None else given.to(device)
        self.prompt_end = int(self.positions[..., -1].max())
        visual = self.prompt.visual.to(device)
        self.visual_columns = visual.nonzero()[:, 0]
        picture = self.prompt.placeholders.nonzero()[:, 0]
        self.picture_span = int(picture[0]), int(picture[-1]) + 1  # columns; text may stand within
        self.row_ids = torch.full_like(self.columns, TEXT_ROW)
        self.row_ids[visual] = torch.arange(len(self.visual_columns), device=device)
        self.rope = None
        return kwargs if given is None else {**kwargs, "position_ids": self.positions.unsqueeze(-2)}

    def end(self, states: torch.Tensor) -> None:
        """After a forward pass: keep what the prompt's visual rows have become."""
        if self.prefill and self.word_attention is not None:
            visual_rows = self.row_ids >= 0
            self.visual_states, self.visual_ids = states[0, visual_rows], self.row_ids[visual_rows]

    # -- one layer ------------------------------------------------------------------------------------------------

    def before_layer(self, layer: int, args: tuple, kwargs: dict[str, Any]):
        if self.stop():
            raise RunStopped
        if not self.prefill:
            return self._decode(layer, args, kwargs)
        hidden = args[0]
        self._follow(hidden.device)
        if layer == 0:
            hidden = self._arrive(hidden)
        if 0 < layer <= len(self.picture.deep):
            hidden = self._deepen(self.picture.deep[layer - 1], hidden)
        self._observe_states(layer, hidden, kwargs)
        if layer in self.stages:
            self._observe_ahead(layer, hidden, kwargs)
            self._observe_values(kwargs)
            hidden = self._decide(layer, hidden)
        n_rows = hidden.shape[1]
        self.visual_per_layer.append(int((self.row_ids != TEXT_ROW).sum()))
        self.rows_per_layer.append(n_rows)
        self.ids_per_layer.append(self.row_ids)
        self.columns_per_layer.append(self.columns)
        self.last_position.append(int(self.positions[..., -1].max()))
        return (hidden, *args[1:]), self._shortened(hidden, kwargs)

    def _follow(self, device: torch.device) -> None:
        """Where the layers lie on several GPUs, what is known of the rows goes along with the rows."""
        if self.columns.device != device:
            self.row_ids, self.columns = self.row_ids.to(device), self.columns.to(device)
            self.positions, self.visual_columns = self.positions.to(device), self.visual_columns.to(device)

    def _shortened(self, hidden: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's other arguments for the rows that are left."""
        n_rows = hidden.shape[1]
        if n_rows == self.n_prompt:
            return kwargs
        if self.rope is None:
            self.rope = self.hooks.rotary(hidden, self.positions.unsqueeze(-2))
        kwargs = {**kwargs, "position_ids": None, "position_embeddings": self.rope}
        if torch.is_tensor(kwargs.get("attention_mask")):
            kwargs["attention_mask"] = kwargs["attention_mask"][..., :n_rows, :n_rows]
        return kwargs

    def _decode(self, layer: int, args: tuple, kwargs: dict[str, Any]):
        shift = self.prompt_end - self.last_position[layer]
        mask = kwargs.get("attention_mask")
        if torch.is_tensor(mask):
            mask = mask[..., : self.rows_per_layer[layer] + self.step]
        if not shift:
            return args, {**kwargs, "attention_mask": mask}
        if shift not in self._moved:
            now = torch.full((1, 1), self.prompt_end + self.step - shift, device=args[0].device)
            self._moved[shift] = self.hooks.rotary(args[0], now)
        moved = {"position_ids": None, "position_embeddings": self._moved[shift], "attention_mask": mask}
        return args, {**kwargs, **moved}

    # -- decisions ------------------------------------------------------------------------------------------------

    def _arrive(self, hidden: torch.Tensor) -> torch.Tensor:
        """Drop the placeholders of tokens that an earlier part of the model let go.

        The picture's rows stand in the places of the tokens that go on, in the order in which they are to be read.
        """
        ids = self.picture.ids.to(hidden.device)
        if len(ids) == len(self.visual_columns) and bool((ids == self.row_ids[self.visual_columns]).all()):
            return hidden
        taken = self.visual_columns[slots(ids)]
        stays = self.row_ids == TEXT_ROW
        stays[taken] = True
        self.row_ids[taken] = ids
        places = self.positions.clone()
        places[..., taken] = self.positions[..., self.visual_columns[ids.clamp(min=0)]]  # [CLS] takes the first place
        self.positions = places
        return self._cut(hidden, stays.nonzero()[:, 0], self.arrival_policy)

    def _deepen(self, rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Add to every visual token what the tower has for it behind the layer before (DeepStack)."""
        visual_rows = self.row_ids >= 0
        hidden = hidden.clone()
        hidden[0, visual_rows] += rows.to(hidden)[self.row_ids[visual_rows]]
        return hidden

    def _decide(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        stage = self.stages[layer]
        places = (self.row_ids != TEXT_ROW).nonzero()[:, 0]
        observations = self._observed_for(self.columns[places])
        text = self._text(hidden)
        decision = self.decider.decide(stage, hidden[0, places], self.row_ids[places], observations, text=text)
        self.evicts |= decision.evict
        kept = places[decision.keep]
        if decision.features is not None:
            hidden = hidden.clone()
            hidden[0, kept] = decision.features.to(hidden.dtype)
        stays = self.row_ids == TEXT_ROW
        stays[kept] = True
        rows = stays.nonzero()[:, 0]
        if decision.order is not None:
            rows = rows.clone()
            rows[self.row_ids[rows] != TEXT_ROW] = kept[decision.order]
        return self._cut(hidden, rows, self.decider.positions_at(stage))

    def _text(self, hidden: torch.Tensor) -> PromptText:
        """The prompt behind the picture."""
        before, first = self._around_picture
        columns = self.columns[first:].tolist()
        token_texts = [self.prompt.token_texts[c] for c in columns]
        words = [self.prompt.words[c] for c in columns]
        return PromptText(
            hidden[0, first:], token_texts, self.prompt.in_question[columns], words,
            first=columns[0] if columns else 0,
            anywhere=self._question(hidden),
            observations=self._observed_for(self.columns[first:]),
            observations_before=self._observed_for(self.columns[:before]),
        )  # fmt: skip

    def _question(self, hidden: torch.Tensor) -> QuestionText:
        """The question's tokens before, among and behind the pictures."""
        rows = self.prompt.in_question[self.columns.cpu()].nonzero()[:, 0]
        columns = self.columns[rows.to(self.columns.device)].tolist()
        texts = [self.prompt.token_texts[c] for c in columns]
        return QuestionText(hidden[0, rows.to(hidden.device)], texts, [self.prompt.words[c] for c in columns])

    @property
    def _around_picture(self) -> tuple[int, int]:
        """Rows that stand before the picture, and the first row behind it."""
        first, last = self.picture_span
        return int((self.columns < first).sum()), int((self.columns < last).sum())

    def _cut(self, hidden: torch.Tensor, rows: torch.Tensor, policy: str) -> torch.Tensor:
        self.row_ids, self.columns, self.positions = self.row_ids[rows], self.columns[rows], self.positions[..., rows]
        if policy == RENUMBERED and self.positions.ndim == 1:
            self.positions = torch.arange(len(rows), device=rows.device)
        elif policy == RENUMBERED:  # close the gaps that no row uses on any axis; text keeps one number on all axes
            self.positions = self.positions.unique(return_inverse=True)[1]
        elif policy == REINDEXED:
            self.positions = rows.expand(self.positions.shape)
        self.rope = None
        return hidden[:, rows]

    def _evict(self, cache: Any) -> None:
        """Take what is not alive after the last cut out of the caches of the layers before it."""
        for layer, columns in enumerate(self.columns_per_layer):
            rows = torch.isin(columns, self.columns.to(columns.device)).nonzero()[:, 0]
            if len(rows) < len(columns):
                entry = cache.layers[layer]
                there = rows.to(entry.keys.device)
                entry.keys, entry.values = entry.keys[:, :, there], entry.values[:, :, there]
                self.rows_per_layer[layer], self.ids_per_layer[layer] = len(rows), self.ids_per_layer[layer][rows]

    @property
    def cached_per_layer(self) -> list[int]:
        """Rows for the picture in the cache of every layer while the answer is written."""
        counts = self.visual_per_layer
        return [counts[-1]] * len(counts) if self.evicts else counts

    # -- observations ---------------------------------------------------------------------------------------------

    def _observed_for(self, columns: torch.Tensor) -> dict[Observation, torch.Tensor]:
        """Everything observed so far, cut to the rows that stood in these columns of the prompt."""
        found = {}
        for observation, (value, of) in self.observed.items():
            rows = rows_of(columns.to(of.device), of).to(value.device)
            found[observation] = value.index_select(-1 if observation.signal in TOKENS_LAST else -2, rows).to(
                columns.device
            )
        return found

    def _observe_states(self, layer: int, hidden: torch.Tensor, kwargs: dict[str, Any]) -> None:
        for observation in self.wanted:
            if observation.layer != layer or observation.signal not in STATE_SIGNALS:
                continue
            if observation.signal is Signal.LANGUAGE_STATES:
                value = hidden[0]
            elif observation.signal is Signal.NORMED_STATES:
                value = self.hooks.norm(hidden)[0]
            else:
                value = torch.cat(self._shortened(hidden, kwargs)["position_embeddings"]).float()
            self.observed[observation] = value, self.columns

    def _observe_values(self, kwargs: dict[str, Any]) -> None:
        """Values need no watching: during the prefill they lie in the cache of their layer."""
        for observation in self.wanted:
            if observation.signal is Signal.LANGUAGE_VALUES and observation.layer < len(self.columns_per_layer):
                value = kwargs["past_key_values"].layers[observation.layer].values[0]
                self.observed[observation] = value, self.columns_per_layer[observation.layer]

    def _observe_ahead(self, layer: int, hidden: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Run the layer's attention up to its queries and keys, without its cache, on all rows that are here now."""
        if not any(observation.ahead and observation.layer == layer for observation in self.wanted):
            return
        given = {**self._shortened(hidden, kwargs), "past_key_values": None}
        normed = self.hooks.layers[layer].input_layernorm(hidden)
        self.ahead = True
        try:
            self.hooks.attention(layer)(hidden_states=normed, **given)
        except _Enough:
            pass
        finally:
            self.ahead = False

    def _observe_attention(self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        if self.word_attention is not None and not self.ahead:
            self._add_word_attention(layer, query, key, scaling)
        if not self.prefill:
            return
        for observation in self.wanted:
            if (
                observation.layer != layer
                or observation.ahead != self.ahead
                or observation.signal not in ATTENTION_SIGNALS
            ):
                continue
            if observation.signal is Signal.LAST_TOKEN_ATTENTION:
                value = attention_row(query, key, query.shape[2] - 1, scaling)
            elif observation.signal is Signal.TEXT_ATTENTION:
                value = attention_rows(query, key, self._around_picture[1], scaling)
            else:
                value = key[0]
            self.observed[observation] = value, self.columns
        if self.ahead:
            raise _Enough

    def _add_word_attention(self, layer: int, query: torch.Tensor, key: torch.Tensor, scaling: float) -> None:
        """The last row's mean weight over the heads, added up over the layers, at the tokens' own ids."""
        ids = self.ids_per_layer[layer]
        row = attention_row(query, key, query.shape[2] - 1, scaling)
        if layer == ONLY_LAYER:
            image = torch.zeros(row.shape[1], dtype=torch.bool, device=row.device)
            image[: len(ids)] = (ids != TEXT_ROW).to(row.device)
            self.head_ratios.append(entropy_ratio(row, image))
        weights = row.mean(0)[: len(ids)].to(ids.device)
        here, total = ids >= 0, self.word_attention[-1]
        total.index_add_(0, ids[here].to(total.device), weights[here].to(total.device) / self.hooks.n_layers)
        if self.prefill:
            (first, past), columns = self.prompt.inserted or (0, 0), self.columns_per_layer[layer]
            visual_rows, told = weights[ids != TEXT_ROW].sum(), weights[(columns >= first) & (columns < past)].sum()
            self.prompt_attention.append(torch.stack([visual_rows, told, 1 - visual_rows - told]))


def slots(ids: torch.Tensor) -> torch.Tensor:
    """In whose places the rows of a picture stand, `[rows]` token ids: the rows fill, in their reading order `ids`, the
    places of the tokens that go on; a [CLS] row takes the first place that is free.
    """
    taken = ids[ids >= 0].sort().values
    if len(taken) == len(ids):
        return taken
    skipped = (taken != torch.arange(len(taken), device=ids.device)).nonzero()[:1, 0]
    free = skipped if len(skipped) else ids.new_tensor([len(taken)])
    return torch.cat([taken, free]).sort().values


class LanguageHooks:
    """The sleeping hooks of one language model.

    Args:
        model: the decoder (with `rotary_emb` and its last `norm`); its layers, and `attention` giving the attention
            module of a layer.
    """

    def __init__(self, model: nn.Module, layers: nn.ModuleList, attention: Callable[[int], nn.Module]) -> None:
        self.attention, self.rotary, self.n_layers = attention, model.rotary_emb, len(layers)
        self.layers, self.norm = layers, model.norm
        self._handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        self._handles.append(model.register_forward_hook(self._end))
        self._handles += [
            layer.register_forward_pre_hook(partial(self._before, i), with_kwargs=True)
            for i, layer in enumerate(layers)
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def run(
        self,
        generate: Callable[[], Any],
        prompt: Prompt,
        picture: VisualTokens,
        decider: Decider | None,
        callbacks: RunCallbacks,
    ) -> tuple[Any, LanguageRun]:
        """Call `generate()` under observation; returns its result and what was observed."""
        run = LanguageRun(self, prompt, picture, decider, callbacks)
        with active(run):
            return generate(), run

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]):
        run = self._mine()
        return None if run is None else (args, run.begin(kwargs))

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        run = self._mine()
        if run is not None:
            run.end(output.last_hidden_state)

    def _before(self, layer: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]):
        run = self._mine()
        return None if run is None else run.before_layer(layer, args, kwargs)

    def _mine(self) -> LanguageRun | None:
        run = current(LanguageRun)
        return run if run is not None and run.hooks is self else None
