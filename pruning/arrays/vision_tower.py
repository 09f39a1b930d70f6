"""Decisions on arrays of the methods that act in or after the vision tower (see `pruning.arrays.kinds`)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from pruning.arrays.language_model import rotary, turn
from pruning.methods.accm_pruner import picks_of
from pruning.methods.cdpruner import conditional_dpp, scaled_relevance
from pruning.methods.holov import holistic_score, in_quota, quotas, runs
from pruning.methods.prumerge import outliers, stepped, sum_of, take_in
from pruning.methods.tome import strongest_edges
from pruning.methods.vscan import capped, global_picks, in_turns, merge_rest, window_of
from pruning.ops.merging import merge_by_size
from pruning.ops.scoring import best, best_ascending, cosine, square_parts

Inputs, Params = dict[str, torch.Tensor], dict[str, Any]


def _accm_pruner(inputs: Inputs, params: Params) -> dict[str, Any]:
    attention = _headless_cls_row(inputs)
    alike = cosine(inputs["image_embeddings"], inputs["text_embeddings"]).mean(1)
    picks = picks_of(-alike, attention, int(params["n_keep"]), int(params["text_num"]))
    union = torch.cat([picks.text, picks.outliers]).sort().values
    return {
        "text_picks": picks.text.sort().values,
        "union": union,
        "uniform_fill": picks.even,
        "kept_without_random": picks.kept.sort().values,
        "n_random_fill": int(params["n_keep"]) - len(picks.kept),
        "union_before_cut": picks.n_before_cut,
        "cls_attention": attention,
        "reduction_ratio_used": outliers(attention) / len(attention),
    }


def _cdpruner(inputs: Inputs, params: Params) -> dict[str, Any]:
    relevance = scaled_relevance(inputs["image_embeddings"], inputs["text_embeddings"], minus=True)
    order = conditional_dpp(inputs["visual_features"], relevance, int(params["n_keep"]))
    return {"kept": order.sort().values, "pick_order": order, "relevance": relevance}


def _holov(inputs: Inputs, params: Params) -> dict[str, Any]:
    attention, count = inputs["cls_attention_mean"], int(params["n_keep"])
    run = runs(len(attention), int(params["num_runs"]), attention.device)
    _, score = holistic_score(inputs["visual_features"], attention, run)
    quota = quotas(score, torch.bincount(run), count)
    order = in_quota(run, attention, quota)
    return {"kept": order.sort().values, "kept_order": order, "run_quota": quota, "run_score": score, "n_pad": 0}


def _prumerge(inputs: Inputs, params: Params) -> dict[str, Any]:
    keys, features, attention = inputs["keys"], inputs["visual_features"], _headless_cls_row(inputs)
    n = len(attention)
    ratio = outliers(attention) / n if params["adaptive"] else float(params["reduction_ratio"])
    order = best(attention, int(n * ratio))
    if params["variant"] == "plus":
        step = int(1 / ratio)
        sample = stepped(order, n) if params["adaptive"] else torch.arange(step // 2, n - 1, step)
        order = torch.cat([order, sample])
    rows, _ = take_in(features, keys[1:], attention, order)
    pruned = torch.ones(n, dtype=torch.bool)
    pruned[order] = False
    rows = torch.cat([rows, sum_of(features, attention, pruned)[None]])
    return {
        "kept": order.sort().values,
        "kept_order": order,
        "cls_attention": attention,
        "reduction_ratio_used": ratio,
        "tokens_out": rows,
        "merged_features": rows,
    }


def _headless_cls_row(inputs: Inputs) -> torch.Tensor:
    """Return the attention of [CLS] to every patch, computed without heads."""
    keys, query = inputs["keys"], inputs["query_cls"]
    return (keys @ query * len(query) ** -0.5).softmax(0)[1:]


def _vscan_stage1(inputs: Inputs, params: Params) -> dict[str, Any]:
    rows, cols = inputs["grid_hw"].tolist()
    index = torch.arange(rows * cols)
    window = square_parts(torch.stack([index // cols / rows, index % cols / cols], 1), 4)
    near, far = (inputs[f"cls_attention_{depth}"].mean(0) for depth in ("shallow", "deep"))
    local = in_turns(near, window, int(params["n_keep"]) // 2)
    return _two_halves(inputs["visual_features"], local, far, int(params["n_keep"]))


def _vscan_qwen(inputs: Inputs, params: Params) -> dict[str, Any]:
    rows, cols = inputs["grid_hw"].tolist()
    index = torch.arange(rows * cols)
    window = window_of(torch.stack([index // cols, index % cols], 1), rows, cols, int(params["window_size"]))
    near, count = inputs["patch_attention_local"], int(params["n_keep"])
    if params["part"] == "window":
        order = capped(near, window, count)
        return {"kept": order.sort().values, "kept_order": order}
    local = capped(near, window, count // 2)
    return _two_halves(inputs["visual_features"], local, inputs["patch_attention_global"], count)


def _two_halves(features: torch.Tensor, local: torch.Tensor, far: torch.Tensor, count: int) -> dict[str, Any]:
    overall = global_picks(far, local, count - len(local))
    keep = torch.cat([local, overall]).sort().values
    merged, _ = merge_rest(features, keep)
    return {"kept": keep, "local": local, "global": overall, "merged_features": merged}


def _vscan_stage2(inputs: Inputs, params: Params) -> dict[str, Any]:
    keys, query = inputs["keys"], inputs["query"]
    start, length = int(inputs["image_start"]), int(inputs["image_length"])
    angles = rotary(torch.arange(keys.shape[1]), keys.shape[2])
    row = (turn(keys, angles) @ turn(query[:, None], angles[:, -1:]).mT)[:, :, 0] * keys.shape[2] ** -0.5
    attention = row.softmax(-1)
    score = attention.mean(0)[start : start + length]
    return {"kept": best_ascending(score, int(params["n_keep"])), "last_token_attention": attention, "score": score}


def _tome_step(inputs: Inputs, params: Params) -> dict[str, Any]:
    metric, features, sizes = inputs["keys_metric"], inputs["token_features"], inputs["token_size"].float()
    with_cls = bool(params["class_token"])
    n, protected = len(metric), int(with_cls)
    count = min(int(params["r"]), (n - protected) // 2)
    edges = strongest_edges(metric[protected:], count, first=protected, sort_rest=with_cls)
    source, target, left = (x + protected for x in (edges.source, edges.target, edges.left))
    order = F.pad(left, (protected, 0))  # [CLS] stays the first
    representative = torch.arange(n)
    representative[source] = target
    mean, _ = merge_by_size(features, torch.ones(n), source, target)
    weighted, size = merge_by_size(features, sizes, source, target)
    return {
        "kept": order.sort().values,
        "kept_order": order,
        "representative_of": representative,
        "merged_source": source,
        "merged_target": target,
        "merged_features_mean": mean[order],
        "merged_features_weighted": weighted[order],
        "merged_size": size[order],
    }


TOWER_KINDS = {
    "accm_pruner": _accm_pruner,
    "cdpruner": _cdpruner,
    "holov": _holov,
    "prumerge": _prumerge,
    "prumergeplus": _prumerge,
    "tome_step": _tome_step,
    "vscan_qwen": _vscan_qwen,
    "vscan_stage1": _vscan_stage1,
    "vscan_stage2": _vscan_stage2,
}
