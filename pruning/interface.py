"""The terms that methods and adapters share: stages, signals, observations, what a method is given and what it decides.

Torch is named in annotations only, so that a record can name a stage on a machine without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pruning.errors import QuestionRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from pruning.shapes import LayerShape
from typing import TYPE_CHECKING

from pruning.shapes import LayerShape

if TYPE_CHECKING:
    import torch


class Part(StrEnum):
    """The three parts of a vision-language model, in the order in which a picture passes them."""

    TOWER = "vision tower"
    PROJECTOR = "projector"
    LANGUAGE_MODEL = "language model"


_ORDER = list(Part)


@dataclass(frozen=True, slots=True)
class Stage:
    """A place where visual tokens may be dropped or merged: just before layer `layer` of a part.

    Layer 0 of the language model is "after the projector". The projector counts as one layer.
    """

    part: Part
    layer: int = 0

    def __lt__(self, other: Stage) -> bool:
        return (_ORDER.index(self.part), self.layer) < (_ORDER.index(other.part), other.layer)

    def __str__(self) -> str:
        if self.part is Part.PROJECTOR:
            return "before the projector"
        if self.part is Part.LANGUAGE_MODEL and self.layer == 0:
            return "before the language model"
        return f"before layer {self.layer} of the {self.part}"


class Signal(StrEnum):
    """What a method may ask to see. The values are the words the page and the README use."""

    VISUAL_TOKENS = "visual tokens"
    TEXT_EMBEDDING = "text embeddings"
    CLS_ATTENTION = "[CLS] attention"
    CLS_ATTENTION_WIDE = "headless [CLS] attention"
    RECEIVED_ATTENTION = "attention received in the vision tower"
    TOWER_KEYS = "vision tower keys"
    TOWER_KEYS_MEAN = "head-mean vision tower keys"
    LAST_TOKEN_ATTENTION = "last-token attention"
    LANGUAGE_KEYS = "language model keys"
    TEXT_ATTENTION = "text attention"
    LANGUAGE_VALUES = "language model values"
    LANGUAGE_STATES = "language model states"
    NORMED_STATES = "states under the final norm"
    ROTARY = "rotary angles"


TOWER_KEY_SIGNALS = frozenset({Signal.TOWER_KEYS, Signal.TOWER_KEYS_MEAN})
TOWER_SIGNALS = TOWER_KEY_SIGNALS | {Signal.CLS_ATTENTION, Signal.CLS_ATTENTION_WIDE, Signal.RECEIVED_ATTENTION}
ATTENTION_SIGNALS = frozenset({Signal.LAST_TOKEN_ATTENTION, Signal.LANGUAGE_KEYS, Signal.TEXT_ATTENTION})
STATE_SIGNALS = frozenset({Signal.LANGUAGE_STATES, Signal.NORMED_STATES, Signal.ROTARY})
LANGUAGE_SIGNALS = ATTENTION_SIGNALS | STATE_SIGNALS | {Signal.LANGUAGE_VALUES}


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation: a signal of the attention module of one layer, as that layer really computes it.

    Tower keys are the output of the key projection before it is split into heads. The wide [CLS] attention is computed
    beside the layer's own: one softmax over products of whole queries and keys, as if there were a single head.
    Received attention is the mean over all rows of all tiles ([CLS] included) of what they pay to a token; a row pays
    inside its own tile, picture or window only. Values are those of an earlier layer than the stage. States are what a
    layer is given: raw, or as the decoder's last norm would leave them, and before any token leaves at that layer;
    rotary angles are the cosines and sines of its positions.

    `ahead`: what the attention of the very layer that the stage stands before would compute if nothing left.
    """

    signal: Signal
    layer: int
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a method may know of a model before it starts.

    Attributes:
        feature_layer: index of the tower layer whose output feeds the projector.
        vision_dim, text_dim, text_ffn_dim: widths.
        kv_dim: width of the keys of one layer (smaller than `text_dim` with grouped-query attention).
        signals: what the family's adapter can observe.
        patches_per_token: rows of the tower that make one visual token, side by side before the projector.
        vision_matrices: of a tower layer's feed-forward part (3 where it is gated).
        no_tower_stages: why rows cannot be dropped between layers of the tower; empty where they can.
        no_projector_stage: what is done behind the projector to get visual tokens, so that none can be dropped before
            it; empty where there are some before.
        tower_shapes, text_shapes: sizes of every layer, where layers differ because weights were taken out; else empty.
        identity: tells which weights these are, for what was trained beside them (`pruning.identity`).
    """

    name: str
    tower_layers: int
    feature_layer: int
    text_layers: int
    vision_dim: int
    vision_ffn_dim: int
    text_dim: int
    text_ffn_dim: int
    kv_dim: int
    signals: frozenset[Signal]
    patches_per_token: int = 1
    vision_matrices: int = 2
    no_tower_stages: str = ""
    no_projector_stage: str = ""
    tower_shapes: tuple[LayerShape, ...] = ()
    text_shapes: tuple[LayerShape, ...] = ()
    identity: Callable[[], Mapping[str, Any]] | None = field(default=None, compare=False, repr=False)

    def default_attention(self, layer: int) -> Observation:
        """Where a layer of the tower looks: the row of [CLS]; in a tower without [CLS], what each token receives, mean
        over all rows, which is what VisPruner's code takes for SigLIP and VisionZip's for Qwen.
        """
        return Observation(Signal.CLS_ATTENTION if self.has_cls else Signal.RECEIVED_ATTENTION, layer)

    @property
    def has_cls(self) -> bool:
        """Whether the tower has a [CLS] row whose attention can be seen."""
        return Signal.CLS_ATTENTION in self.signals

    @property
    def token_dim(self) -> int:
        """Width of a visual token before the projector, or behind it where it comes into being there."""
        return self.text_dim if self.no_projector_stage else self.vision_dim * self.patches_per_token


@dataclass(slots=True)
class QuestionText:
    """The question's tokens, wherever they stand in the prompt: `states` `[tokens, dim]` as they enter the current
    layer, the text of each, and the word of the question that each is part of.
    """

    states: torch.Tensor
    token_texts: list[str]
    words: list[str]


@dataclass(slots=True)
class PromptText:
    """The prompt's text behind the picture, and the question.

    Attributes:
        states: `[tokens, dim]` of the text behind the picture as it enters the current layer.
        token_texts: the text of each of these tokens.
        in_question: bool `[tokens]`; which of them the person wrote. The rest is the chat template.
        words: the word of the question that each is part of; empty outside of it.
        first: place in the prompt of the first of these tokens.
        observations: those of a context, for these tokens instead of the visual ones; `observations_before` for the
            text before the picture.
        anywhere: the question's tokens, those before the picture too; None: only those that `in_question` marks.
    """

    states: torch.Tensor
    token_texts: list[str]
    in_question: torch.Tensor
    words: list[str]
    first: int = 0
    observations: dict[Observation, torch.Tensor] = field(default_factory=dict)
    observations_before: dict[Observation, torch.Tensor] = field(default_factory=dict)
    anywhere: QuestionText | None = None

    @property
    def asked(self) -> QuestionText:
        """The question's tokens, wherever they stand.

        Raises:
            QuestionRejectedError: if none could be found in the prompt.
        """
        mine = self.in_question.nonzero()[:, 0].tolist()
        found = self.anywhere
        if found is None:
            found = QuestionText(self.states[mine], [self.token_texts[i] for i in mine], [self.words[i] for i in mine])
        if not found.token_texts:
            raise QuestionRejectedError(
                "The question could not be found among the tokens that this model's tokenizer makes of its prompt.",
                "Choose a method that does not read the question.",
            )
        return found

    @property
    def question(self) -> torch.Tensor:
        """States of the question's tokens `[tokens, dim]`; raises as `asked`."""
        return self.asked.states

    def require_question_behind(self, method: str) -> None:
        """See that a method can use what the question attends to: in a causal model only text behind the picture can
        attend to it.

        Raises:
            QuestionRejectedError.
        """
        if not bool(self.in_question.any()):
            raise QuestionRejectedError(
                f"{method} reads what the question attends to; in this model's prompt the question stands before the "
                "picture, which it cannot attend to.",
                "Choose another method.",
            )


@dataclass(slots=True)
class PruneContext:
    """Everything a method may look at, at one stage.

    Attributes:
        features: `[rows, dim]` visual tokens as the next layer would see them.
        ids: `[rows]` their original token ids.
        positions: `[rows, 2]` row and column in the grid, each divided by its count.
        tiles: `[rows]` number of the tile that each lies in, where the model looks at several.
        pictures: `[rows]` number of the picture (or of the step in a video) that each lies in, where there are several;
            the same place in two pictures has the same position.
        observations: what was asked for, cut to these rows: [CLS] attention `[heads, rows]` (wide: `[1, rows]`),
            tower keys `[rows, dim]`, last-token attention `[heads, rows]`, language keys and values `[heads, rows,
            head_dim]`, attention that the text behind the picture pays `[heads, text, rows]`, states `[rows, dim]`,
            rotary angles `[2, rows, angles]` (cosines, sines). What the tower showed is there at the language model's
            stages too.
        text: the prompt, at stages of the language model.
        memory: what earlier stages of the same run left for this one.
    """

    stage: Stage
    features: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    n_total: int
    info: ModelInfo
    generator: torch.Generator
    observations: dict[Observation, torch.Tensor] = field(default_factory=dict)
    text: PromptText | None = None
    tiles: torch.Tensor | None = None
    pictures: torch.Tensor | None = None
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> PromptText:
        """The prompt's text, for methods that declare that they need it; they are given it at every stage."""
        if self.text is None:
            raise ValueError("this method was asked without the prompt's text")
        return self.text

    @property
    def n_rows(self) -> int:
        return len(self.ids)

    def by_picture(self, groups: torch.Tensor) -> torch.Tensor:
        """Groups of rows `[rows]` that do not reach over pictures: a group of several pictures becomes one for each,
        numbered picture by picture.
        """
        if self.pictures is None:
            return groups
        return (self.pictures * (groups.max() + 1) + groups).unique(return_inverse=True)[1]


@dataclass(slots=True)
class Decision:
    """A method's answer, in rows of the context.

    Attributes:
        keep: `[k]` rows that go on, ascending.
        features: `[k, dim]` their new values, where merging changes them.
        merged_into: `[rows]` the kept row a row was averaged into, -1 elsewhere.
        scores: `[rows]`, higher means keep.
        order: the order in which the next layer reads the kept rows, as indices into `keep`; -1 feeds [CLS] as a row.
        summary: one clause for the page ("51 clusters, 202 elites").
        extra: the method's own arrays, for whoever reads the record.
        why: for which of the method's reasons kept rows were kept: words to rows, no row under two of them.
        evict: once the prompt is read, what was dropped also leaves the caches of the earlier layers.
        sizes: `[k]` how many tokens every kept row stands for; later tower layers add its logarithm to the attention
            that the row receives. None leaves attention as it is.
    """

    keep: torch.Tensor
    features: torch.Tensor | None = None
    merged_into: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    order: torch.Tensor | None = None
    summary: str = ""
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    why: dict[str, torch.Tensor] = field(default_factory=dict)
    evict: bool = False
    sizes: torch.Tensor | None = None


@dataclass(slots=True)
class BlockFacts:
    """What a score may know of one layer: its weights, and what calibration pictures made of it.

    Attributes:
        query, key, value: weights `[q_dim or kv_dim, dim]`; out: `[dim, q_dim]`; head-major.
        weights: feed-forward weights `[d_out, d_in]` by name.
        rows: calibration tokens seen; 0 where nothing was run.
        output_gram: `[q_dim, q_dim]` float64, sum over tokens of y y^T, y the concatenated head outputs before `out`.
        attention: `[heads, n]` float64, mean normalised singular values of each head's attention map, descending.
        input_grams: `[d_in, d_in]` float64 by name of the feed-forward matrix, sum over tokens of x x^T.
    """

    part: Part
    layer: int
    shape: LayerShape
    head_dim: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    weights: dict[str, torch.Tensor]
    rows: int = 0
    output_gram: torch.Tensor | None = None
    attention: torch.Tensor | None = None
    input_grams: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def n_heads(self) -> int:
        return self.shape.kv_dim // self.head_dim

    @property
    def width(self) -> int:
        """Columns of one head's output: all query heads of its group together."""
        return self.shape.q_dim // self.n_heads
