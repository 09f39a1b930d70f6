"""Where a model has its parts, and where a layer has its heads and feed-forward matrices.

Supports layers that hold `self_attn` (DINOv2: `attention`) with `q_proj`, `k_proj`, `v_proj` and an output projection,
and `mlp` with either `fc1, fc2` (CLIP, SigLIP, DINOv2) or `gate_proj, up_proj, down_proj` (Llama and similar models).
Their forward functions count heads by dividing widths by `head_dim`, so a layer may have fewer heads than its
configuration says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pruning.errors import PlanError
from pruning.interface import Part
from pruning.shapes import LayerShape, MatrixShape

PLAIN, GATED = ("fc1", "fc2"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The modules of a model that hooks are registered on.

    Attributes:
        tower_layers: of `tower`.
        attention: the name of the attention module in a tower layer.
        feature_layer: the tower layer whose output feeds the projector.
        prefix: rows before the patches (1 for [CLS], else 0).
        decoder: the language model, with `layers` and `rotary_emb`.
        patches: rows of the tower that make one visual token.
    """

    tower: nn.Module
    tower_layers: nn.ModuleList
    attention: str
    feature_layer: int
    prefix: int
    decoder: nn.Module
    patches: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    """The parts of one layer. `out_name` is the name of its output projection, `names` those of its feed-forward
    matrices.
    """

    part: Part
    layer: int
    attention: nn.Module
    mlp: nn.Module
    out_name: str
    names: tuple[str, ...]
    head_dim: int

    @property
    def out(self) -> nn.Linear:
        return getattr(self.attention, self.out_name)

    @property
    def shape(self) -> LayerShape:
        """Sizes of the modules as they are, full or compressed."""
        a = self.attention
        return LayerShape(
            dim=a.q_proj.in_features,
            q_dim=a.q_proj.out_features,
            kv_dim=a.k_proj.out_features,
            matrices=tuple(_matrix(n, getattr(self.mlp, n)) for n in self.names),
            qkv_biased=a.q_proj.bias is not None,
            out_biased=self.out.bias is not None,
            ffn_biased=_last(getattr(self.mlp, self.names[-1])).bias is not None,
        )


def take_apart(part: Part, layers: Sequence[nn.Module], name: str) -> list[Block]:
    """Return the blocks of a part's layers, in order.

    Raises:
        PlanError: if a layer has a structure that this version does not support.
    """
    found = []
    for i, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None) or getattr(layer, "attention", None)
        mlp = getattr(layer, "mlp", None)
        out_name = next((n for n in ("o_proj", "out_proj") if hasattr(attention, n)), None)
        names = next((n for n in (PLAIN, GATED) if all(hasattr(mlp, m) for m in n)), None)
        known = out_name and names and all(hasattr(attention, p) for p in ("q_proj", "k_proj", "v_proj", "head_dim"))
        if not known:
            raise PlanError(
                f"Layer {i} of the {part} of {name} is a {type(layer).__name__}, whose heads this version cannot find.",
                "Choose another model or another part.",
            )
        found.append(Block(part, i, attention, mlp, out_name, names, attention.head_dim))
    return found


def _matrix(name: str, module: nn.Module) -> MatrixShape:
    if isinstance(module, nn.Sequential):  # two factors, as `compressed` makes them
        first, second = module
        return MatrixShape(name, first.in_features, second.out_features, first.out_features)
    return MatrixShape(name, module.in_features, module.out_features)


def _last(module: nn.Module) -> nn.Linear:
    return module[-1] if isinstance(module, nn.Sequential) else module
