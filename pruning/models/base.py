"""What the runner asks of a model family, and the plain data that passes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pruning.interface import TOWER_KEY_SIGNALS, Decision, Look, ModelInfo, Part, PromptText, Stage
from pruning.layout import TokenLayout

if TYPE_CHECKING:
    import torch

    from pruning.inputs.content import Shown
    from pruning.models.weights.gates import Gated
    from pruning.records.plan import StructuralPlan
    from pruning.structure import BlockFacts

Progress = Callable[[int, int], None]  # of a download: bytes that arrived, bytes in all
BESIDE = 1.15  # of the weights' own size: they, and what a short question needs beside them
TEXT_ROW = -2  # in a vector of row ids: the row is text; CLS_SOURCE marks a [CLS] row, 0 and up a visual token


def gigabytes(n: float) -> str:
    """A number of bytes for a sentence."""
    return f"{n / 1e9:.1f} GB" if n >= 5e7 else f"{n / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that the page offers: a hub id or a folder, and what it takes.

    Attributes:
        disk: what a download takes, in the number format in which the hub has it; empty where nobody knows.
        memory: while it answers short questions.
        checked: what of this was seen elsewhere than in memory, and where; empty if nothing was.
        made_by: the command that makes the folder, where neither a hub nor this repository has it.
    """

    key: str
    source: str
    title: str
    parameters: str
    licence: str
    memory: str
    disk: str = ""
    checked: str = ""
    bundled: bool = False
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Pictures, or a video, and a question, ready for the model.

    Attributes:
        input_ids: `[1, tokens]` with one placeholder per visual token.
        visual: `[tokens]` True at the placeholders.
        words: text of every token; `in_question`: which of them the person wrote; `whole`: the word that each is part
            of, between white space.
        inserted: first and one past the last of the tokens that were put in between picture and question, if any.
        layout: of all visual tokens; it has seconds where they are a video's.
        separators: `[tokens]` True at placeholders that end a line of the picture and show no part of it; methods never
            see them, they always stay, and they are counted as text.
        positions: `[axes, tokens]` where they are not those of plain text.
        extra: what the family's model takes beside ids and pixels.
    """

    input_ids: torch.Tensor
    visual: torch.Tensor
    words: list[str]
    in_question: torch.Tensor
    whole: list[str]
    pixels: torch.Tensor
    layout: TokenLayout
    inserted: tuple[int, int] | None = None
    separators: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def placeholders(self) -> torch.Tensor:
        """`[tokens]` True at every placeholder."""
        return self.visual if self.separators is None else self.visual | self.separators

    @property
    def modality(self) -> str:
        """What the library calls that which is shown: `image` or `video`."""
        return "video" if self.layout.seconds else "image"

    @property
    def kinds(self) -> torch.Tensor:
        """What each token is, for models with several axes of positions, `[1, tokens]`: 0 text, 1 picture, 2 video."""
        return (self.visual.long() * (2 if self.layout.seconds else 1))[None].to(self.input_ids.device)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of the model's own forward."""
        name = "pixel_values_videos" if self.layout.seconds else "pixel_values"
        given = {"input_ids": self.input_ids, name: self.pixels, **self.extra}
        return given if self.positions is None else {**given, "mm_token_type_ids": self.kinds}


@dataclass(slots=True)
class Seen:
    """What the vision tower made of a picture: the state that feeds the projector, [CLS] apart.

    Attributes:
        features: `[rows, dim]`; ids: `[rows]` original token ids; cls: `[dim]` or None.
        looks: observations over `ids`.
        tokens_per_layer: rows ([CLS] included) that entered each tower layer, tile after tile.
        output: what the tower returned.
        deep: rows `[tokens, dim]` that the language model adds to the visual tokens behind its first layers.
    """

    features: torch.Tensor
    ids: torch.Tensor
    cls: torch.Tensor | None
    looks: dict[Look, torch.Tensor]
    tokens_per_layer: list[int]
    output: Any = None
    deep: Sequence[torch.Tensor] = ()

    def made_of(self, members: torch.Tensor) -> Seen:
        """The same in visual tokens, each of which is made of some rows of the tower: `members` `[tokens, k]`. The rows
        stand side by side; the attention that they get is added up.
        """
        looks = {}
        for look, value in self.looks.items():
            is_key = look.signal in TOWER_KEY_SIGNALS
            looks[look] = value[members].flatten(1) if is_key else value[:, members].sum(-1)
        features, ids = self.features[members].flatten(1), self.ids[: len(members)]
        return Seen(features, ids, self.cls, looks, self.tokens_per_layer, self.output)


@dataclass(slots=True)
class Picture:
    """Rows for the language model, in the order in which it will read them: `features` `[rows, dim]`, `ids` `[rows]`
    (`CLS_SOURCE` for a [CLS] row). `deep` as in `Seen`, by token id.
    """

    features: torch.Tensor
    ids: torch.Tensor
    deep: Sequence[torch.Tensor] = ()


@dataclass(slots=True)
class Generated:
    """An answer as the language model gave it. `read_ms` is the prefill with all decisions in it; `attention`
    `[words, tokens]` is there if it was asked for (see `records.Answer`), and so are `head_ratios` `[words, heads]`,
    `nearest`, a visual token for each word, and `first_look` `[layers, 3]`: the shares that picture, inserted text and
    all other text get of the prompt's last row; `cached_per_layer` are the rows for the picture in every layer's cache
    while it was written.
    """

    token_ids: list[int]
    pieces: list[str]
    log_probs: list[float]
    visual_per_layer: list[int]
    cached_per_layer: list[int]
    text_tokens: int
    stopped: str
    read_ms: float
    per_word_ms: float | None
    attention: torch.Tensor | None = None
    head_ratios: torch.Tensor | None = None
    nearest: list[int] | None = None
    first_look: torch.Tensor | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces).strip()


class Decider(Protocol):
    """Who decides which tokens go on: the runner's session, which asks a method and writes down its answers.

    `evicts`: a decision made so far also empties caches of earlier layers.
    """

    stages: Sequence[Stage]
    looks: Sequence[Look]

    @property
    def evicts(self) -> bool: ...

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        looks: Mapping[Look, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision: ...

    def positions_at(self, stage: Stage) -> str: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """How a run is followed and stopped: `piece` is called with every piece of text, `stop` is asked often, `attention`
    asks for what every word attends to.
    """

    piece: Callable[[str], None] = lambda piece: None
    stop: Callable[[], bool] = lambda: False
    attention: bool = False


class VLMAdapter(Protocol):
    """A loaded model of one family. Methods may be called from several threads at once."""

    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout: ...

    def layout_of(self, shown: Shown) -> TokenLayout: ...

    def check_video(self) -> None: ...

    def prompt(self, shown: Shown, question: str) -> Prompt: ...

    def see(self, prompt: Prompt, looks: Sequence[Look], decider: Decider | None, watch: Watch) -> Seen: ...

    def project(self, seen: Seen, decider: Decider | None) -> Picture: ...

    def answer(
        self, prompt: Prompt, picture: Picture, decider: Decider | None, max_new_tokens: int, watch: Watch
    ) -> Generated: ...

    def insert(self, prompt: Prompt, text: str) -> Prompt: ...

    def score(
        self, prompt: Prompt, picture: Picture, decider: Decider | None, token_ids: Sequence[int]
    ) -> torch.Tensor: ...

    def encode_text(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]: ...

    def limits(self, seen: Seen, question: str, n_pictures: int = 1) -> list[str]: ...

    def identity(self) -> dict[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def number_format(self) -> str: ...

    def facts(
        self, parts: Sequence[Part], wanted: Sequence[str], prompts: Iterable[Prompt], stop: Callable[[], bool]
    ) -> list[BlockFacts]: ...

    def gated(self, parts: Sequence[Part]) -> Gated: ...

    def compressed(self, plan: StructuralPlan) -> VLMAdapter: ...

    def close(self) -> None: ...
