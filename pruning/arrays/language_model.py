"""Decisions on arrays of the methods that act inside the language model (see `pruning.arrays.kinds`)."""

from __future__ import annotations

from typing import Any

import torch

from pruning.methods.dart import l1_norm, least_alike, visited_as_coded
from pruning.methods.ivcprune import anchor_places, seeds_and_foreground
from pruning.methods.sparsevlm import COUNTS, FIRST, SECOND, rater_score, recycle, text_raters, voting_heads
from pruning.methods.v2drop import CODED, LAYERS, variation
from pruning.ops.merging import group_means
from pruning.ops.scoring import best, best_ascending, cosine

Inputs = dict[str, torch.Tensor]
VERSIONS = {"1_0": FIRST, "2_0": SECOND}
CODED_LAYERS = (2, 6, 15)  # after which SparseVLM prunes
CODED_HEADS = 14
IVC_SHARES = {"position": 0.05, "seeds": 0.01, "foreground": 0.2}  # of the released LLaVA code
ROPE_BASE = 10_000.0


def _image(inputs: Inputs) -> tuple[int, int]:
    return int(inputs["image_start"]), int(inputs["image_length"])


def rotary(places: torch.Tensor, dim: int) -> torch.Tensor:
    """Return cosines and sines of positions, float32 `[2, places, dim]`, in the rotate-half layout."""
    angle = places[:, None].float() / ROPE_BASE ** (torch.arange(0, dim, 2).float() / dim)
    angle = torch.cat([angle, angle], -1)
    return torch.stack([angle.cos(), angle.sin()])


def turn(vectors: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Return vectors `[..., places, dim]` rotated by `rotary` angles."""
    first, second = vectors.chunk(2, -1)
    return vectors * angles[0] + torch.cat([-second, first], -1) * angles[1]


def _sparsevlm_count(params: dict[str, Any], n_tokens: int) -> int:
    table = COUNTS[VERSIONS[str(params["version"])]][int(params["target"])]
    return min(table[CODED_LAYERS.index(int(params["layer"]))], n_tokens - 1)


def _sparsevlm_attention(inputs: Inputs) -> torch.Tensor:
    start, length = _image(inputs)
    return inputs["text_attention"][:, inputs["rater_index"].long(), start : start + length]


def _sparsevlm_rank(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    attention, found = _sparsevlm_attention(inputs), {}
    if VERSIONS[str(params["version"])] == SECOND:
        found["heads"] = voting_heads(attention, CODED_HEADS)
        attention = attention[found["heads"]]
    score = rater_score(attention)
    return {"kept": best_ascending(score, _sparsevlm_count(params, len(score))), "score": score, **found}


def _sparsevlm_raters(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    del params
    raters, weight = text_raters(inputs["visual_embeddings"], inputs["text_embeddings"])
    return {"rater_index": raters, "rater_weight": weight}


def _sparsevlm_stage(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    start, length = _image(inputs)
    hidden = inputs["hidden_states"]
    features = hidden[start : start + length]
    score = rater_score(_sparsevlm_attention(inputs))
    kept = best_ascending(score, _sparsevlm_count(params, length))
    parts = recycle(features, score, kept)
    merged = group_means(parts.features, parts.labels, len(parts.centres))
    cluster_of = torch.full((length,), -1)
    cluster_of[parts.recycled] = parts.labels
    return {
        "kept": kept,
        "recycled": parts.recycled.sort().values,
        "n_groups": len(parts.centres),
        "cluster_of": cluster_of,
        "cluster_centres": parts.centres,
        "merged_features": merged,
        "image_features_out": torch.cat([features[kept].float(), merged]),
        "position_ids_out": torch.arange(len(hidden) - length + len(kept) + len(parts.centres)),
    }


def _pyramiddrop(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    """Decide as the release does, which renumbers positions before every stage."""
    start, length = _image(inputs)
    kept, found = torch.arange(length), {}
    behind = torch.arange(start + length, inputs["keys_stage1"].shape[1])
    for number, ratio in enumerate(params["stage_ratios"], 1):
        keys, query = inputs[f"keys_stage{number}"], inputs[f"query_stage{number}"]
        rows = torch.cat([torch.arange(start), start + kept, behind])
        angles = rotary(torch.arange(len(rows)), keys.shape[-1])
        scores = turn(query[:, None], angles[:, -1:]) @ turn(keys[:, rows], angles).mT / keys.shape[-1] ** 0.5
        attention = scores[:, 0].float().softmax(-1)
        if number == 1:
            found["last_token_attention"] = attention
        score = attention[:, start : start + len(kept)].mean(0)
        kept = kept[best_ascending(score, int(length * float(ratio)))]
        found |= {f"score_stage{number}": score, f"kept_stage{number}": kept}
    return found | {"kept": kept}


def _dart(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    start, length = _image(inputs)
    states, norm = inputs["hidden_states"], l1_norm(inputs["keys"])
    pivot_image = best(norm[start : start + length], int(params["pivot_image_token"]))
    pivot_text = best(norm[start + length :], int(params["pivot_text_token"])) + start + length
    visited = visited_as_coded([*(pivot_image + start).tolist(), *pivot_text.tolist()])
    most = params.get("max_num_trunction")
    most = length * (1 - float(params["reduction_ratio"])) if most is None else most
    each = int(most // len(visited))
    similarity = cosine(states[visited], states[start : start + length])
    return {
        "kept": least_alike(similarity, pivot_image, [each] * len(visited)),
        "pivot_image": pivot_image,
        "pivot_text": pivot_text,
        "pivot_visit_order": torch.tensor(visited),
        "t_per_pivot": each,
    }


def _v2drop(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    """Decide by the released schedule: half, half of the rest, one token."""
    del params
    kept, found = torch.arange(len(inputs[f"hidden_current_layer{LAYERS[0]}"])), {}
    n_total = len(kept)
    for layer, share in zip(LAYERS, CODED, strict=True):
        earlier, later = (inputs[f"hidden_{when}_layer{layer}"][kept] for when in ("previous", "current"))
        score = variation(earlier, later)
        kept = kept[best_ascending(score, max(1, int(share * n_total)))]
        found |= {f"variation_layer{layer}": score, f"kept_layer{layer}": kept}
    return found | {"kept": kept}


def _ivcprune(inputs: Inputs, params: dict[str, Any]) -> dict[str, Any]:
    start, length = _image(inputs)
    seeds, score = seeds_and_foreground(inputs["values"], start, length, IVC_SHARES["seeds"])
    foreground = best_ascending(score, round(IVC_SHARES["foreground"] * length))
    angles = rotary(torch.arange(start, start + length), int(params["rope_dim"]))
    by_cosine, by_sine = anchor_places(angles, round(IVC_SHARES["position"] * length))
    return {
        "kept": torch.cat([foreground, by_cosine, by_sine]).unique(),
        "seeds": seeds,
        "foreground": foreground,
        "position_cos": by_cosine,
        "position_sin": by_sine,
    }


LANGUAGE_KINDS = {
    "dart": _dart,
    "ivcprune": _ivcprune,
    "pyramiddrop": _pyramiddrop,
    "sparsevlm_rank_v1": _sparsevlm_rank,
    "sparsevlm_rank_v2": _sparsevlm_rank,
    "sparsevlm_raters": _sparsevlm_raters,
    "sparsevlm_stage": _sparsevlm_stage,
    "v2drop": _v2drop,
}
