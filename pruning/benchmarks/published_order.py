"""The cost of selection in the order of published implementations: their dominant operations alone, on random numbers.

Nothing is selected here and none of their code is run; `python -m pruning bench` divides the time of our full decision
by this time, in the same process on the same thread, so that the machine cancels out. The orders: CDPruner and DivPrune
one product of all tokens with all tokens and, for each pick, a step over the tokens picked so far; HoloV sixteen
products of a part with itself (its code concatenates the tiles of a picture before it splits the row into sixteen);
DART eight pivots against all tokens. Normalising tokens is counted where it matters beside the products: for HoloV,
whose code does it for each part, and for DART.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

HOLOV_PARTS, DART_PIVOTS = 16, 8


def cdpruner(features: torch.Tensor, count: int) -> None:
    kernel = features @ features.T
    factor = torch.zeros(count, len(features))
    for step in range(count):
        factor[step] = kernel[step] - factor[:step, step] @ factor[:step]


def divprune(features: torch.Tensor, count: int) -> None:
    distance = 1 - features @ features.T
    for step in range(1, count):
        distance[:step].amin(0).argmax()


def holov(features: torch.Tensor, count: int) -> None:
    del count
    for part in features.split(max(1, len(features) // HOLOV_PARTS)):
        unit = part / part.norm(dim=-1, keepdim=True)
        (unit @ unit.T).square().sum(1)


def dart(features: torch.Tensor, count: int) -> None:
    for pivot in features[:DART_PIVOTS]:
        unit = features / features.norm(dim=-1, keepdim=True)
        (unit @ pivot).topk(max(1, count // DART_PIVOTS), largest=False)


ORDERS: dict[str, Callable[[torch.Tensor, int], None]] = {
    "cdpruner": cdpruner, "divprune": divprune, "holov": holov, "dart": dart,
}  # fmt: skip


def order_ms(key: str, features: torch.Tensor, count: int) -> float:
    """Return the milliseconds of one pass through the published order of a method.

    Args:
        features: `[tokens, dim]` float32.
    """
    began = time.perf_counter()
    ORDERS[key](features, count)
    return 1e3 * (time.perf_counter() - began)
