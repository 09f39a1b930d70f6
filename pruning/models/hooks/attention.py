"""Observe attention modules through hooks that are installed once and do nothing outside of a run.

A model is shared by all visitors, so nothing that belongs to one run may lie on it. The hooks of this package are put
on a model when its adapter is made and taken off when it is closed; without a run in `_CURRENT` they return at once.
Two threads may run the same model at the same time with different methods: each sees its own context.

Attention is observed without `output_attentions`, which would switch the full model to the eager kernel: every
attention module is given a copy of its configuration that names the function below as its kernel. That function lets
the current run look at queries and keys and then calls the kernel that the model came with.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pruning.interface import TOWER_KEY_SIGNALS, Observation

KERNEL = "prunescope"
ROWS_AT_ONCE = 512


class Observer(Protocol):
    """A run: what it is told by the attention modules it watches."""

    observed_modules: dict[nn.Module, Callable[[torch.Tensor, torch.Tensor, float], None]]


_CURRENT: ContextVar[Any] = ContextVar("prunescope_run", default=None)


@contextmanager
def active(run: Observer) -> Iterator[None]:
    """Wake the hooks for `run` in this context; they sleep again afterwards, also after an exception."""
    token = _CURRENT.set(run)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current(kind: type) -> Any:
    """The run of this context if it is of that kind, else None."""
    run = _CURRENT.get()
    return run if isinstance(run, kind) else None


class _WithConfig:
    """An attention module as its own kernel should see it: with the configuration it came with."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _observed(module: nn.Module, query, key, value, attention_mask, **kwargs):
    config = module.config.prunescope_original
    run = _CURRENT.get()
    if run is not None and module in run.observed_modules:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        run.observed_modules[module](query, key, scaling)
    # Eager attention is not in the registry; it lives in the file of the module's class.
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)
    return kernel(_WithConfig(module, config), query, key, value, attention_mask, **kwargs)


AttentionInterface.register(KERNEL, _observed)


def observe(module: nn.Module) -> Callable[[], None]:
    """Make an attention module observable. Returns the function that undoes it."""
    original = module.config
    watched = copy.copy(original)
    watched._attn_implementation_internal = KERNEL
    watched.prunescope_original = original
    module.config = watched

    def undo() -> None:
        module.config = original

    return undo


def attention_row(query: torch.Tensor, key: torch.Tensor, row: int, scaling: float) -> torch.Tensor:
    """Softmax weights of one query row that sees every key, float32 `[heads, keys]`.

    True for [CLS] (the tower is not causal) and for the last token of a prefill (it sees everything before it).

    Args:
        query: `[1, heads, queries, head_dim]`; key: `[1, kv_heads, keys, head_dim]`, heads a multiple of kv_heads.
    """
    heads, kv_heads = query.shape[1], key.shape[1]
    q = query[0, :, row].float().reshape(kv_heads, heads // kv_heads, -1) * scaling
    # In float32: half precision makes ties among hundreds of keys, and its products can overflow before scaling.
    return (q @ key[0].float().mT).reshape(heads, -1).softmax(-1)


def cut_observation(observation: Observation, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """An observation of the tower, of some rows only: attention is `[heads, rows]`, keys are `[rows, dim]`."""
    return value[rows] if observation.signal in TOWER_KEY_SIGNALS else value[:, rows]


def attention_rows(query: torch.Tensor, key: torch.Tensor, first: int, scaling: float) -> torch.Tensor:
    """Softmax weights of the query rows from `first` on, each of which sees itself and what stands before it, float32
    `[heads, rows, keys]`; shapes as in `attention_row`, as many queries as keys.
    """
    heads, kv_heads, n = query.shape[1], key.shape[1], query.shape[2]
    q = query[0, :, first:].float().reshape(kv_heads, heads // kv_heads * (n - first), -1) * scaling
    scores = (q @ key[0].float().mT).reshape(heads, n - first, n)
    later = torch.ones(n - first, n, dtype=torch.bool, device=key.device).triu(first + 1)
    return scores.masked_fill(later, float("-inf")).softmax(-1)


def attention_received(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """What each key gets, mean over all query rows, where every row sees every key, float32 `[heads, keys]`; shapes as
    in `attention_row`.
    """
    heads, kv_heads, n = query.shape[1], key.shape[1], query.shape[2]
    q, k = query[0].float().reshape(kv_heads, heads // kv_heads, n, -1) * scaling, key[0].float().mT[:, None]
    total = torch.zeros(heads, k.shape[-1], device=q.device)
    for rows in q.split(ROWS_AT_ONCE, 2):  # a large picture has thousands of rows, and a map of them all is gigabytes
        total += (rows @ k).softmax(-1).sum(2).reshape(heads, -1)
    return total / n


def rows_of(ids: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Where each id stands in `among` (every id once, in any order)."""
    order = among.argsort()
    return order[torch.searchsorted(among[order], ids)]
