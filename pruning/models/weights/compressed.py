"""Make a private view of a shared model: the same tensors in a module tree of its own, with some modules smaller.

The copy shares every parameter and buffer that it does not replace (no memory but the module objects), carries none of
the original's hooks, and belongs to whoever asked for it. So a structural plan, a calibration pass and a training of
gates never touch the model that other visitors are using.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from pruning.errors import PlanError
from pruning.models.weights.blocks import Block
from pruning.ops.lowrank import output_directions, thin_pair
from pruning.records.plan import LayerPlan

_SEEN_BY_LIBRARY = "_output_capturing_hooks_installed"  # transformers hooks a model once; the copy has no hooks yet


def shared_copy(module: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """The module tree once more, without hooks, around the same tensors. Gradients do not reach the shared tensors."""
    memo = {} if memo is None else memo
    if id(module) in memo:
        return memo[id(module)]
    copied = module.__new__(type(module))
    memo[id(module)] = copied
    state = {k: v for k, v in module.__dict__.items() if k != _SEEN_BY_LIBRARY}
    for name in state:
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            state[name] = OrderedDict()
    config = state.get("config")
    if config is not None:  # an observed attention module has a configuration of its own; see `models.capture`
        state["config"] = getattr(config, "prunescope_original", config)
    state["_parameters"] = {n: p if p is None else _alias(p, memo) for n, p in module._parameters.items()}
    state["_buffers"] = dict(module._buffers)
    state["_modules"] = {n: m if m is None else shared_copy(m, memo) for n, m in module._modules.items()}
    copied.__dict__.update(state)
    return copied


def _alias(parameter: nn.Parameter, memo: dict[int, object]) -> nn.Parameter:
    if id(parameter) not in memo:  # tied weights stay tied
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return memo[id(parameter)]


def check_fits(block: Block, plan: LayerPlan) -> None:
    """Refuse a layer's plan that was made for another shape.

    Raises:
        PlanError.
    """
    if block.shape != plan.shape or block.head_dim != plan.head_dim:
        raise PlanError(
            f"The plan was made for another model: layer {plan.layer} of the {plan.part} has other sizes there.",
            "Make a plan for this model, or load the model that the plan names.",
        )


@torch.no_grad()
def compress(block: Block, plan: LayerPlan) -> None:
    """Replace the modules of one block of a private copy by the smaller ones of a plan."""
    check_fits(block, plan)
    if len(plan.heads) < plan.n_heads:
        _slice_heads(block, plan)
    if plan.hidden is not None:
        hidden = torch.from_numpy(plan.hidden.astype("int64"))
        *first, last = block.names
        for name in first:
            setattr(block.mlp, name, _rows(getattr(block.mlp, name), hidden))
        setattr(block.mlp, last, _columns(getattr(block.mlp, last), hidden))
    for m in plan.matrices:
        if m.shape.rank is not None:
            full = getattr(block.mlp, m.shape.name)
            if m.directions is None:
                directions = output_directions(full.weight)[1][:, : m.shape.rank]
            else:
                directions = torch.from_numpy(m.directions.copy()).to(full.weight.device)
            setattr(block.mlp, m.shape.name, _thin(full, directions))


def _slice_heads(block: Block, plan: LayerPlan) -> None:
    heads = torch.from_numpy(plan.heads.astype("int64"))
    attention, width = block.attention, plan.shape.q_dim // plan.n_heads
    queries, keys = _span(heads, width), _span(heads, plan.head_dim)
    attention.q_proj = _rows(attention.q_proj, queries)
    attention.k_proj = _rows(attention.k_proj, keys)
    attention.v_proj = _rows(attention.v_proj, keys)
    setattr(attention, block.out_name, _columns(block.out, queries))
    if hasattr(attention, "num_heads"):
        attention.num_heads = len(queries) // plan.head_dim


def _span(heads: torch.Tensor, width: int) -> torch.Tensor:
    """Rows of all these heads, where head h has rows `h * width` to `(h + 1) * width`."""
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def _rows(linear: nn.Linear, rows: torch.Tensor) -> nn.Linear:
    rows = rows.to(linear.weight.device)
    return _linear(linear.weight[rows], None if linear.bias is None else linear.bias[rows])


def _columns(linear: nn.Linear, columns: torch.Tensor) -> nn.Linear:
    """The bias stays: it belongs to the output."""
    return _linear(linear.weight[:, columns.to(linear.weight.device)].contiguous(), linear.bias)


def _thin(linear: nn.Linear, directions: torch.Tensor) -> nn.Sequential:
    first, second = thin_pair(linear.weight, directions)
    kind = linear.weight.dtype
    return nn.Sequential(_linear(first.to(kind), None), _linear(second.to(kind), linear.bias))
