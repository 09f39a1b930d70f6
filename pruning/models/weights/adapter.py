"""The weights part of an adapter, the same in every family: facts about heads, gates on them, and private views of the
model with heads and ranks taken out. The model itself is never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

from torch import nn

from pruning.checkpoints import fingerprint
from pruning.errors import PlanError
from pruning.interface import BlockFacts, ModelInfo, Part
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Block, take_apart
from pruning.models.weights.calibration import Calibration
from pruning.models.weights.compressed import compress, shared_copy
from pruning.models.weights.gates import Gated
from pruning.records.plan import StructuralPlan
from pruning.shapes import LayerShape


class Weights:
    """What can be asked of, and taken out of, a family's layers. A family says where they are (`layers_of`)."""

    model: nn.Module
    processor: Any
    info: ModelInfo
    _limits: Any

    def layers_of(self, model: nn.Module) -> dict[Part, Sequence[nn.Module]]:
        """The tower's and the language model's layers in a model of this family."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are; a structural plan is for one fingerprint."""
        return fingerprint(self.model)

    @cached_property
    def nbytes(self) -> int:
        """Bytes that the model's weights take in memory."""
        return sum(p.nbytes for p in self.model.parameters())

    @property
    def number_format(self) -> str:
        """In which numbers it computes, for the record of a run."""
        computed = str(self.model.dtype).removeprefix("torch.")
        return f"4bit, computed in {computed}" if self._is_quantised else computed

    @property
    def _is_quantised(self) -> bool:
        return getattr(self.model, "is_quantized", False)

    def facts(
        self, parts: Sequence[Part], wanted: Sequence[str], prompts: Iterable[Prompt], stop: Callable[[], bool]
    ) -> list[BlockFacts]:
        """What a structural score may know of the layers of some parts; `wanted` as in `models.calibration`.

        Tower layers behind the one that feeds the projector are left out: nothing that they do is read.
        """
        with self._private() as copied:
            calibration = Calibration(copied.blocks(parts), wanted)
            return calibration.run(copied.model, prompts if wanted else (), stop)

    def gated(self, parts: Sequence[Part]) -> Gated:
        """A private copy whose heads can be turned down, for training."""
        copied = shared_copy(self.model)
        return Gated(copied, self._take_apart(copied, parts))

    def compressed(self, plan: StructuralPlan) -> Self:
        """An adapter around a private view of this model with the plan carried out: fewer heads, thin matrices.

        Every tensor that the plan leaves alone is shared; this model is not touched. `close` the view after use.

        Raises:
            PlanError: if the plan is for another model or names layers that it does not have.
        """
        if plan.fingerprint != self.fingerprint:
            raise PlanError(
                f"The plan was made for other weights ({plan.request.model}) than those of {self.info.name}.",
                "Load the model that the plan names, or make a plan for this one.",
            )
        copied = shared_copy(self.model)
        parts = tuple(dict.fromkeys(p.part for p in plan.layers))
        blocks = {(b.part, b.layer): b for b in self._take_apart(copied, parts)}
        for one in plan.layers:
            if (one.part, one.layer) not in blocks:
                raise PlanError(f"{self.info.name} has no layer {one.layer} in use in its {one.part}.", "Make it anew.")
            compress(blocks[one.part, one.layer], one)
        view = self._like(copied)
        tower, text = (self._shapes(part, layers) for part, layers in self.layers_of(copied).items())
        identity = self.info.identity  # what was trained beside the full model serves its view too
        view.info = replace(view.info, tower_shapes=tower, text_shapes=text, identity=identity)
        return view

    def blocks(self, parts: Sequence[Part]) -> list[Block]:
        """The layers of some parts taken apart, tower first; without tower layers that nothing reads."""
        return self._take_apart(self.model, parts)

    def close(self) -> None:
        """Take every hook off the model again."""
        raise NotImplementedError

    def _take_apart(self, model: nn.Module, parts: Sequence[Part]) -> list[Block]:
        if self._is_quantised:
            raise PlanError(
                f"The matrices of {self.info.name} are held in 4 bits; a plan needs them whole.",
                "Load the model with --dtype bfloat16 for it.",
            )
        used = {Part.TOWER: self.info.feature_layer + 1, Part.LANGUAGE_MODEL: self.info.text_layers}
        layers = self.layers_of(model)
        return [b for p in used if p in parts for b in take_apart(p, layers[p][: used[p]], self.info.name)]

    def _shapes(self, part: Part, layers: Sequence[nn.Module]) -> tuple[LayerShape, ...]:
        """Sizes of a part's layers; none for a tower that cannot be taken apart, of which nothing was taken out."""
        try:
            return tuple(b.shape for b in take_apart(part, layers, self.info.name))
        except PlanError:
            return ()

    def _like(self, model: nn.Module) -> Self:
        return type(self)(model, self.processor, self.info.name, limits=self._limits)

    @contextmanager
    def _private(self) -> Iterator[Self]:
        copied = self._like(shared_copy(self.model))
        try:
            yield copied
        finally:
            copied.close()
