"""Estimate the cost of a run from token counts: multiply-adds of the prefill and bytes of the KV cache.

Nothing here is measured; every figure is an estimate and is labelled so. The prefill formula is the one of the
FastV / PyramidDrop / SparseVLM / ViTCoP tables: with n tokens entering a layer of width d and feed-forward width m,
`F(n) = 4 n d^2 + 2 n^2 d + 3 n d m` (gated feed-forward, three matrices), summed over the layers with each layer's
own n. These are multiply-adds although tables print "FLOPs". With grouped-query attention the key and value
projections are narrower: `2 n d^2 + 2 n d d_kv` replaces `4 n d^2`. Where a structural plan took weights out, every
layer is counted by its own shape: `4 n d^2 f + 2 n^2 d f` with a share f of the heads, `n k (d_in + d_out)` for a
matrix of rank k.
"""

from __future__ import annotations

from collections.abc import Sequence

from pruning.interface import ModelInfo
from pruning.records.answer import Cost
from pruning.shapes import LayerShape

FORMULA = "sum over layers of 2nd^2 + 2nd*d_kv + 2n^2d + 3ndm, n = visual + text tokens entering the layer"
COMPRESSED = "; d and m as left by the structural plan, layer by layer"


def layer_flops(n_tokens: int, dim: int, ffn_dim: int, kv_dim: int | None = None, matrices: int = 3) -> int:
    """Multiply-adds of one transformer layer for `n_tokens` entering it; `matrices` is 2 for a plain feed-forward."""
    return _layer(n_tokens, dim, dim, dim if kv_dim is None else kv_dim, matrices * dim * ffn_dim)


def shape_flops(shape: LayerShape, n_tokens: int) -> int:
    """Multiply-adds of one transformer layer of this shape for `n_tokens` entering it."""
    return _layer(n_tokens, shape.dim, shape.q_dim, shape.kv_dim, sum(m.weights for m in shape.matrices))


def _layer(n: int, dim: int, q_dim: int, kv_dim: int, ffn_weights: int) -> int:
    """The formula: projections, attention, feed-forward."""
    return 2 * n * dim * (q_dim + kv_dim) + 2 * n**2 * q_dim + n * ffn_weights


def prefill_flops(
    visual_per_layer: Sequence[int], text_tokens: int, dim: int, ffn_dim: int, kv_dim: int | None = None
) -> int:
    """Multiply-adds of the language model's prefill; one entry of `visual_per_layer` per layer."""
    return sum(layer_flops(n + text_tokens, dim, ffn_dim, kv_dim) for n in visual_per_layer)


def kv_bytes(visual_per_layer: Sequence[int], text_tokens: int, kv_dim: int, bytes_per_value: int) -> int:
    """Bytes that keys and values of the prompt take in the cache."""
    return sum(2 * (n + text_tokens) * kv_dim * bytes_per_value for n in visual_per_layer)


def shaped_flops(shapes: Sequence[LayerShape], tokens_per_layer: Sequence[int]) -> int:
    """Multiply-adds of layers that differ in shape; one count of entering tokens for each."""
    return sum(shape_flops(shape, n) for shape, n in zip(shapes, tokens_per_layer, strict=True))


def estimate(
    info: ModelInfo,
    visual_per_layer: Sequence[int],
    text_tokens: int,
    tower_per_layer: Sequence[int],
    value_bytes: int,
    cached_per_layer: Sequence[int] | None = None,
) -> Cost:
    """The estimate for one answer.

    Args:
        tower_per_layer: tokens ([CLS] included) that entered each tower layer, tile after tile.
        cached_per_layer: visual tokens in every cache; None: those that entered the layer.
    """
    cached_per_layer = visual_per_layer if cached_per_layer is None else cached_per_layer
    if info.tower_shapes:
        tiles = len(tower_per_layer) // len(info.tower_shapes)
        tower = shaped_flops(info.tower_shapes * tiles, tower_per_layer)
    else:
        sizes = info.vision_dim, info.vision_ffn_dim, None, info.vision_matrices
        tower = sum(layer_flops(n, *sizes) for n in tower_per_layer)
    if info.text_shapes:
        total = [n + text_tokens for n in visual_per_layer]
        return Cost(
            prefill_flops=float(shaped_flops(info.text_shapes, total)),
            tower_flops=float(tower),
            kv_bytes=sum(
                kv_bytes([n], text_tokens, s.kv_dim, value_bytes)
                for s, n in zip(info.text_shapes, cached_per_layer, strict=True)
            ),
            formula=FORMULA + COMPRESSED,
        )
    return Cost(
        prefill_flops=float(
            prefill_flops(visual_per_layer, text_tokens, info.text_dim, info.text_ffn_dim, info.kv_dim)
        ),
        tower_flops=float(tower),
        kv_bytes=kv_bytes(cached_per_layer, text_tokens, info.kv_dim, value_bytes),
        formula=FORMULA,
    )


def break_even(info: ModelInfo, visual_per_layer: Sequence[int], text_tokens: int, extra_flops: float) -> float:
    """How many more visual tokens in every layer would cost `extra_flops` (multiply-adds), with a fraction; 0 for 0.

    `text_tokens` are those of the prompt without what is being compared.
    """

    def cost(more: int) -> int:
        longer = [n + more for n in visual_per_layer]
        return prefill_flops(longer, text_tokens, info.text_dim, info.text_ffn_dim, info.kv_dim)

    target, high = cost(0) + extra_flops, 1
    if extra_flops <= 0:
        return 0.0
    while cost(high) < target:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= target else (low, middle)
    return low + (target - cost(low)) / (cost(low + 1) - cost(low))
