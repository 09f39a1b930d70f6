"""Decisions of methods on given arrays, without a model, to check an implementation against published selections.

Kinds, inputs, parameters and outputs are named as in `tests/golden/README.md`. Where a paper and its released code
differ, this follows the code, which the published selections come from (merged features of VisionZip and ViTCoP, one
corrective pass in ViTCoP's quotas).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pruning.arrays.language_model import LANGUAGE_KINDS
from pruning.arrays.vision_tower import TOWER_KINDS
from pruning.errors import ParameterError
from pruning.methods.fastv import last_row_score
from pruning.methods.resprune import text_relevance
from pruning.methods.visionzip import dominant_and_contextual, merge_contextual
from pruning.methods.vispruner import important_and_diverse
from pruning.methods.vitcop import (
    Clusters,
    Groups,
    cluster,
    elites_and_groups,
    key_norm,
    merge_groups,
    solve_budget,
)
from pruning.ops.scoring import best, best_ascending, farthest_first, greedy_residual
from pruning.ops.spectra import effective_rank, ks_two_sample, mass_curve
from pruning.shapes import MatrixShape
from pruning.structural.ranks import erank_rule, mass_rule

Arrays = dict[str, np.ndarray]


def select(kind: str, inputs: Mapping[str, Any], params: Mapping[str, Any]) -> Arrays:
    """Return the decision of a method on arrays.

    Args:
        kind: a key of `KINDS`, such as `resprune` or `vitcop_stage2`.
        inputs: arrays by name; raster order, float or integer.
        params: parameters by name.

    Returns:
        Arrays by name: `kept` (ascending ids, int32) and the method's other outputs.

    Raises:
        NotImplementedError: for an unknown kind.
        ParameterError: if an input or a parameter is missing or does not fit.
    """
    if kind not in KINDS:
        raise NotImplementedError(f"{kind!r} is not served; served kinds: {', '.join(sorted(KINDS))}.")
    arrays = {name: np.array(value) for name, value in inputs.items()}
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items() if a.dtype.kind in "biuf"}
    try:
        found = KINDS[kind](tensors, dict(params))
    except KeyError as error:
        raise ParameterError(f"{kind} needs {error.args[0]!r} among its inputs or parameters.", "Add it.") from error
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ParameterError(
            f"{kind} cannot decide on these inputs: {first}.", "Compare tests/golden/README.md."
        ) from error
    kept = found.get("kept")
    if kept is not None and (not kept.numel() or (kept.ndim == 1 and len(kept.unique()) < len(kept))):
        raise ParameterError(f"{kind} was asked to keep more tokens than there are, or none.", "Check the counts.")
    return {name: _to_numpy(value) for name, value in found.items()}


def _to_numpy(value: Any) -> np.ndarray:
    array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return array.astype(np.int32) if array.dtype.kind in "iu" else array


def _fastv(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    attention = inputs["last_token_attention"]
    start, length = int(inputs["image_start"]), int(inputs["image_length"])
    score = last_row_score(attention[:, start : start + length])
    count = params.get("n_keep")
    if count is None:
        count = round(length * (1 - params["prune_ratio"]))
    kept = best_ascending(score, int(count))
    return {"kept": kept, "score": score, "position_ids_out": _positions_left(kept, start, length, attention.shape[1])}


def _positions_left(kept: torch.Tensor, start: int, length: int, total: int) -> torch.Tensor:
    """Return the original positions of the shortened sequence: all but the dropped visual tokens."""
    return torch.cat([torch.arange(start), start + kept, torch.arange(start + length, total)])


def _resprune(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    features = inputs["visual_features"]
    relevance = text_relevance(features, inputs["text_embeddings"].float())
    weight = relevance ** float(params["alpha"])
    picks = greedy_residual(features, weight, int(params["n_keep"]))
    return {
        "kept": picks.order.sort().values,
        "pick_order": picks.order,
        "relevance": relevance,
        "weight": weight,
        "gain": picks.gain,
        "residual_energy": picks.residual,
    }


def _visionzip(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    hidden, keys, attention = inputs["hidden_states"], inputs["keys"], inputs["cls_attention"]
    if hidden.ndim == 3:  # several pictures, each decided independently
        one = [
            _visionzip({"hidden_states": h, "keys": k, "cls_attention": a}, params)
            for h, k, a in zip(hidden, keys, attention, strict=True)
        ]
        return {name: torch.stack([o[name] for o in one]) for name in one[0]}
    n_dominant, n_contextual = int(params["dominant"]), int(params["contextual"])
    parts = dominant_and_contextual(attention, keys[1:], n_dominant, n_contextual)
    dominant = parts.keep[:n_dominant]
    merged = merge_contextual(hidden[1:], parts.targets, parts.contextual_of, as_coded=True)
    return {
        "kept": dominant,
        "score_order": parts.score_order,
        "contextual_targets": parts.targets,
        "contextual_of": parts.contextual_of,
        "merged_features": merged,
        "tokens_out": torch.cat([hidden[:1].float(), hidden[1:][dominant].float(), merged]),
    }


def _clusters(found: Clusters) -> dict[str, Any]:
    return {
        "cluster_labels": found.labels,
        "centres": found.centres.sort().values,
        "density": found.density,
        "delta": found.delta,
        "gamma": found.gamma,
        "parent": found.parent,
    }


def _vitcop_vic(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    found = cluster(
        inputs["cluster_features"].float(), inputs["positions"].float(),
        float(params["cluster_fraction"]), float(params["dc"]), float(params["tau"]),
    )  # fmt: skip
    return _clusters(found)


def _vitcop_stage1(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    score = inputs["cls_attention"].float().sum(0)
    kept = best_ascending(score, int(float(params["vision_keep_ratio"]) * len(score)))
    rows, cols = inputs["grid_hw"].tolist()
    place = torch.stack([kept // cols / rows, kept % cols / cols], 1).float()
    dc, tau = float(params.get("dc", 8)), float(params.get("tau", 0.6))
    found = cluster(inputs["keys"][kept].float(), place, float(params["cluster_fraction"]), dc, tau)
    return {"kept": kept, **_clusters(found)}


# The release hard-codes the depth of LLaVA-1.5-7B and the layers of its cuts.
_RELEASED = {"layers": 32, "shallow": 2, "deep": 22}


def _vitcop_stage2(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    labels, hidden = inputs["cluster_labels"].long(), inputs["hidden_states_shallow"]
    start, n = int(inputs["image_start"]), len(labels)
    ratio, vision = float(params["overall_keep_ratio"]), float(params["vision_keep_ratio"])
    n_shallow, _ = solve_budget(ratio, vision, n, **_RELEASED)
    norm = key_norm(inputs["keys_shallow"][:, start : start + n])
    parts = elites_and_groups(labels, norm, n_shallow, passes=1)
    features = hidden[start : start + n].float()
    out, rows = _stage2_rows(features, parts)
    return {
        "kept": out,
        "n_shallow": n_shallow,
        "key_norm": norm,
        "elite": parts.elites,
        "merged_group_of": parts.group,
        "merged_position": parts.representatives,
        "out_index": out,
        "n_out": len(out),
        "image_features_out": rows,
        "position_ids_out": _positions_left(out, start, n, len(hidden)),
    }


def _stage2_rows(features: torch.Tensor, parts: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens in output order and their rows, merged as in the released code."""
    index = torch.cat([parts.elites, parts.representatives])
    rows = torch.cat([features[parts.elites], merge_groups(features, parts, as_coded=True)])
    order = index.argsort()
    return index[order], rows[order]


def _vitcop_stage3(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    keys, start = inputs["keys_deep"], int(inputs["image_start"])
    ratio, vision = float(params["overall_keep_ratio"]), float(params["vision_keep_ratio"])
    n_shallow, n_deep = solve_budget(ratio, vision, int(inputs["n_after_stage1"]), **_RELEASED)
    norm = key_norm(keys[:, start : start + n_shallow])
    kept = best_ascending(-norm, n_deep)
    return {
        "kept": kept,
        "n_shallow": n_shallow,
        "n_deep": n_deep,
        "key_norm": norm,
        "position_ids_out": _positions_left(kept, start, n_shallow, keys.shape[1]),
    }


def _fastervlm(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    score = inputs["cls_attention"].float().mean(0)
    order = best(score, int(params["n_keep"]))
    return {"kept": order.sort().values, "score_order": order, "score": score}


def _vispruner(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    score = inputs["cls_attention"].float().mean(0)
    ratio = float(params["important_ratio"])
    important, diverse = important_and_diverse(score, inputs["visual_features"], int(params["n_keep"]), ratio)
    kept = torch.cat([important, diverse]).sort().values
    return {"kept": kept, "important": important.sort().values, "diverse": diverse.sort().values}


def _divprune(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    features = inputs["visual_features"]
    count = params.get("n_keep")
    if count is None:
        count = round(float(params["threshold_ratio"]) * len(features))
    order, _ = farthest_first(features, int(count))
    return {"kept": order.sort().values, "pick_order": order}


POWER = {"sigma": 1, "sigma2": 2}


def _infoprune_spectrum(inputs: dict[str, torch.Tensor], params: dict[str, Any]) -> dict[str, Any]:
    matrix, power = inputs["matrix"].double(), POWER[params["mass"]]
    values = torch.linalg.svdvals(matrix)
    rank = mass_rule(values, float(params["tau"]), power)
    return {
        "singular_values": values,
        "erank": float(effective_rank(values)),
        "mass_ks": (1 - mass_curve(values, len(values), power)).clamp(min=0),
        "rank_by_mass_ks": rank,
        "rank_by_erank": erank_rule(values, float(params["c"])),
        "truncation_error": float(values[rank:].square().sum()),
        "two_sample_ks_of_truncation": float(ks_two_sample(values, values[:rank])),
        "break_even_rank": MatrixShape("matrix", *matrix.shape).break_even,
    }


KINDS: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], dict[str, Any]]] = {
    "divprune": _divprune,
    "fastervlm": _fastervlm,
    "fastv": _fastv,
    "resprune": _resprune,
    "visionzip": _visionzip,
    "vispruner": _vispruner,
    "vitcop_vic": _vitcop_vic,
    "vitcop_stage1": _vitcop_stage1,
    "vitcop_stage2": _vitcop_stage2,
    "vitcop_stage3": _vitcop_stage3,
    **TOWER_KINDS,
    "infoprune_spectrum": _infoprune_spectrum,
    **LANGUAGE_KINDS,
}
