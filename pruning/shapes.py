"""Sizes of a transformer layer and of its feed-forward matrices, on which its cost and its memory depend."""

from __future__ import annotations

from dataclasses import dataclass


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
        """The rank from which two thin matrices are no smaller than the full matrix (819.2 for 1024 x 4096)."""
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

    @property
    def parameters(self) -> int:
        """Numbers in the matrices and biases of attention and feed-forward; norms are not counted."""
        biases = self.qkv_biased * (self.q_dim + 2 * self.kv_dim) + self.out_biased * self.dim
        biases += self.ffn_biased * sum(m.d_out for m in self.matrices)
        return 2 * self.dim * (self.q_dim + self.kv_dim) + sum(m.weights for m in self.matrices) + biases
