"""The interface of a model adapter, and the data that pass between adapters and the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pruning.interface import TOWER_KEY_SIGNALS, Decision, ModelInfo, Observation, Part, PromptText, Stage
from pruning.layout import TokenLayout

if TYPE_CHECKING:
    import torch

    from pruning.inputs.content import VisualInput
    from pruning.interface import BlockFacts
    from pruning.models.prompt import Prompt
    from pruning.models.weights.gates import Gated
    from pruning.records.plan import StructuralPlan

Progress = Callable[[int, int], None]  # of a download: bytes that arrived, bytes in total
BESIDE = 1.15  # memory over the size of the weights: activations and cache of a short question included
TEXT_ROW = -2  # in a vector of row ids: the row is text; CLS_SOURCE marks a [CLS] row, 0 and above a visual token


def gigabytes(n: float) -> str:
    """Write a number of bytes as GB or MB."""
    return f"{n / 1e9:.1f} GB" if n >= 5e7 else f"{n / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of the table: a hub id or a folder, and what it needs.

    Attributes:
        disk: the size of a download, in the number format in which the hub has it; empty if unknown.
        memory: needed while it answers short questions.
        checked: what these facts were verified against; empty if against nothing.
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


@dataclass(slots=True)
class VisionFeatures:
    """Features of the vision tower: the hidden states that feed the projector, with [CLS] apart.

    Attributes:
        features: `[rows, dim]`; ids: `[rows]` original token ids; cls: `[dim]` or None.
        observations: what was observed in the tower, over `ids`.
        tokens_per_layer: rows ([CLS] included) that entered each tower layer, tile after tile.
        output: what the tower returned.
        deep: rows `[tokens, dim]` that the language model adds to the visual tokens after its first layers (DeepStack).
    """

    features: torch.Tensor
    ids: torch.Tensor
    cls: torch.Tensor | None
    observations: dict[Observation, torch.Tensor]
    tokens_per_layer: list[int]
    output: Any = None
    deep: Sequence[torch.Tensor] = ()

    def made_of(self, members: torch.Tensor) -> VisionFeatures:
        """Return features of visual tokens that are each made of k rows of the tower, `members` `[tokens, k]`: rows are
        concatenated, the attention that they receive is summed.
        """
        observations = {}
        for observation, value in self.observations.items():
            is_key = observation.signal in TOWER_KEY_SIGNALS
            observations[observation] = value[members].flatten(1) if is_key else value[:, members].sum(-1)
        features, ids = self.features[members].flatten(1), self.ids[: len(members)]
        return VisionFeatures(features, ids, self.cls, observations, self.tokens_per_layer, self.output)


@dataclass(slots=True)
class VisualTokens:
    """Projected visual tokens in the order in which the language model reads them: `features` `[rows, dim]`, `ids`
    `[rows]` (`CLS_SOURCE` for a [CLS] row); `deep` as in `VisionFeatures`, indexed by token id.
    """

    features: torch.Tensor
    ids: torch.Tensor
    deep: Sequence[torch.Tensor] = ()


@dataclass(slots=True)
class Generated:
    """A generated answer with its measurements.

    Attributes:
        visual_per_layer: rows for the picture in every layer of the language model during the prefill.
        cached_per_layer: rows for the picture in every layer's cache while the answer is decoded.
        prefill_ms: milliseconds of the prefill, all pruning decisions included.
        attention: `[answer, tokens]`, head_ratios `[answer, heads]` and nearest, a visual token for each token of the
            answer: only in a run with `trace`; see `pruning.records.answer.Answer`.
        prompt_attention: `[layers, 3]`, the shares of the attention of the prompt's last row that the picture, inserted
            text and all other text receive; only in a run with `trace`.
    """

    token_ids: list[int]
    token_texts: list[str]
    log_probs: list[float]
    visual_per_layer: list[int]
    cached_per_layer: list[int]
    text_tokens: int
    stopped: str
    prefill_ms: float
    decode_ms_per_token: float | None
    attention: torch.Tensor | None = None
    head_ratios: torch.Tensor | None = None
    nearest: list[int] | None = None
    prompt_attention: torch.Tensor | None = None

    @property
    def text(self) -> str:
        return "".join(self.token_texts).strip()


class Decider(Protocol):
    """The interface that models ask for pruning decisions; the engine's session implements it with a method and records
    every decision.

    `evicts`: whether a decision made so far also removes tokens from the caches of earlier layers.
    """

    stages: Sequence[Stage]
    observations: Sequence[Observation]

    @property
    def evicts(self) -> bool: ...

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        observations: Mapping[Observation, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision: ...

    def positions_at(self, stage: Stage) -> str: ...


@dataclass(frozen=True, slots=True)
class RunCallbacks:
    """Callbacks of a run, and what it records.

    Attributes:
        phase: called with the name of the phase that begins: `encode`, `full`, `prune`, `pruned` or `compensate`.
        text: called with a phase and each part of text decoded in it (`compensated` for the third answer).
        stop: called before every layer; the run ends with `RunStopped` when it returns True.
        trace: also record what every decoded token attends to, the signals of ONLY and ReVisiT, each dropped token's
            nearest survivor, and token statistics.
        current: the phase that `emit` reports text for.
    """

    phase: Callable[[str], None] = lambda phase: None
    text: Callable[[str, str], None] = lambda phase, text: None
    stop: Callable[[], bool] = lambda: False
    trace: bool = False
    current: str = ""

    def during(self, phase: str) -> RunCallbacks:
        """Return the same callbacks, with decoded text reported for `phase`."""
        return replace(self, current=phase)

    def emit(self, text: str) -> None:
        """Report decoded text."""
        self.text(self.current, text)


class VLMAdapter(Protocol):
    """A loaded model of one family. Methods may be called from several threads at once."""

    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    settings_left_off: Mapping[str, str]

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout: ...

    def layout_of(self, visual_input: VisualInput) -> TokenLayout: ...

    def check_video(self) -> None: ...

    def prompt(self, visual_input: VisualInput, question: str) -> Prompt: ...

    def encode_image(
        self, prompt: Prompt, observations: Sequence[Observation], decider: Decider | None, callbacks: RunCallbacks
    ) -> VisionFeatures: ...

    def project(self, encoded: VisionFeatures, decider: Decider | None) -> VisualTokens: ...

    def answer(
        self,
        prompt: Prompt,
        picture: VisualTokens,
        decider: Decider | None,
        max_new_tokens: int,
        callbacks: RunCallbacks,
    ) -> Generated: ...

    def insert(self, prompt: Prompt, text: str) -> Prompt: ...

    def score(
        self, prompt: Prompt, picture: VisualTokens, decider: Decider | None, token_ids: Sequence[int]
    ) -> torch.Tensor: ...

    def encode_text(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]: ...

    def limits(self, encoded: VisionFeatures, question: str, n_pictures: int = 1) -> list[str]: ...

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
