"""The words of structural pruning that models, scores, plans and costs share: what a layer is made of.

A head is the unit that can be taken out by itself: an attention head, or with grouped-query attention a whole group
(one key/value head with all its query heads). Torch is named in annotations only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pruning.errors import RecordFormatError
from pruning.interface import Part

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class MatrixShape:
    """One feed-forward matrix `[d_in, d_out]`; with a `rank` it is two thin ones, `d_in x rank` and `rank x d_out`."""

    name: str
    d_in: int
    d_out: int
    rank: int | None = None

    @property
    def weights(self) -> int:
        """Numbers in it, which is also its multiply-adds per token."""
        return self.d_in * self.d_out if self.rank is None else self.rank * (self.d_in + self.d_out)

    @property
    def break_even(self) -> float:
        """The rank from which two thin matrices are no smaller than the whole one (819.2 for 1024 x 4096)."""
        return self.d_in * self.d_out / (self.d_in + self.d_out)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of one transformer layer: all that its cost depends on.

    Attributes:
        dim: width of the residual stream; q_dim, kv_dim: widths of all queries and of all keys of the layer.
        matrices: its feed-forward matrices, in the order of the computation.
        qkv_biased, out_biased, ffn_biased: which of its matrices have a bias.
    """

    dim: int
    q_dim: int
    kv_dim: int
    matrices: tuple[MatrixShape, ...]
    qkv_biased: bool = False
    out_biased: bool = False
    ffn_biased: bool = False

    def flops(self, n_tokens: int) -> int:
        """Multiply-adds for `n_tokens` entering: `2nd(q + kv) + 2n^2 q + n * sum of feed-forward weights`, which is
        `4 n d^2 f + 2 n^2 d f + ...` where a share f of the heads is left.
        """
        attention = 2 * n_tokens * self.dim * (self.q_dim + self.kv_dim) + 2 * n_tokens**2 * self.q_dim
        return attention + n_tokens * sum(m.weights for m in self.matrices)

    @property
    def parameters(self) -> int:
        """Numbers in the matrices and biases of attention and feed-forward; norms are not counted."""
        biases = self.qkv_biased * (self.q_dim + 2 * self.kv_dim) + self.out_biased * self.dim
        biases += self.ffn_biased * sum(m.d_out for m in self.matrices)
        return 2 * self.dim * (self.q_dim + self.kv_dim) + sum(m.weights for m in self.matrices) + biases


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


@dataclass(frozen=True, slots=True)
class StructureSummary:
    """What a run's record says of the plan it ran under: enough to show it and to find the plan's file again.

    Attributes:
        digest: sha256 of everything in the plan that changes the model.
        heads: (kept, all) by part; parameters: (after, before) of the layers' matrices, by part.
        factorised: feed-forward matrices that became two thin ones, or whose hidden units were cut; of `matrices`.
        request: the plan's recipe.
    """

    digest: str
    title: str
    heads: dict[str, tuple[int, int]]
    parameters: dict[str, tuple[int, int]]
    factorised: int
    matrices: int
    request: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        by_part = {name: {p.value: two for p, two in getattr(self, name).items()} for name in ("heads", "parameters")}
        return asdict(self) | by_part  # plain names: not every writer of JSON takes the members of an enumeration

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StructureSummary:
        """The inverse of `to_dict`.

        Raises:
            RecordFormatError: if a number or a name is missing or is none.
        """
        pairs = {}
        for name in ("heads", "parameters"):
            pairs[name] = {Part(part): tuple(two) for part, two in data[name].items()}
            for two in pairs[name].values():
                if len(two) != 2 or any(type(n) is not int or n < 0 for n in two):
                    raise RecordFormatError(f"A structure's {name} are {two!r}; two counts belong there.")
        texts = [data["digest"], data["title"]]
        if not all(isinstance(t, str) for t in texts) or not isinstance(data["request"], dict):
            raise RecordFormatError("A structure needs a digest, a title and its request.")
        return cls(*texts, pairs["heads"], pairs["parameters"], int(data["factorised"]), int(data["matrices"]),
                   data["request"])  # fmt: skip
