"""Factorise a matrix into two thin ones; shared by rank rules and compressed models.

Every factorisation here is a projection of the matrix's outputs onto `k` directions. With the left singular vectors of
the matrix itself that is the truncated SVD (Eckart-Young: the smallest error in the matrix). Weighted by what really
comes in, it is activation-aware whitening: the left singular vectors of `W C`, with `C C^T` the second moment of the
inputs, are the eigenvectors of `W C C^T W^T`, so no Cholesky factor of a perhaps singular matrix is needed, and
`(U U^T W C) C^-1 = U U^T W`. Its discarded squares are the squared error of the outputs on the calibration tokens.
"""

from __future__ import annotations

import torch


def output_directions(
    weight: torch.Tensor, input_gram: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values, descending `[n]`, and the output directions they belong to `[d_out, n]`, n = min(d_in, d_out).

    Args:
        weight: `[d_out, d_in]`, any floating type; worked on in float32 (float64 with a Gram matrix).
        input_gram: `[d_in, d_in]` sum of x x^T over inputs x (whitening), or None for the plain SVD.
    """
    if input_gram is None:
        left, values, _ = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        return values, left
    w = weight.detach().double()
    squares, directions = torch.linalg.eigh(w @ input_gram.double().to(w.device) @ w.T)
    n = min(w.shape)
    return squares.flip(0)[:n].clamp(min=0).sqrt().float(), directions.flip(1)[:, :n].float()


def thin_pair(weight: torch.Tensor, directions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two thin matrices `[k, d_in]` and `[d_out, k]` whose product is `weight` projected onto `directions`
    `[d_out, k]` (orthonormal columns); float32, with the square root of every direction's size on either side.
    """
    first = directions.T @ weight.detach().float()
    size = first.norm(dim=1).sqrt().clamp(min=1e-12)
    return first / size[:, None], directions * size
