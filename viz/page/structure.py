"""JSON views of a structural plan: head maps, one head, ranks, sums and gates.

Everything that the threshold slider needs is in the plan's view, so that moving it needs no request; the curves of a
head are computed when it is clicked. No torch: a plan is arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruning.interface import Part
from pruning.metrics.plan_cost import PlanCost
from pruning.ops.ks import ks_two_sample
from pruning.records.plan import LayerPlan, MatrixPlan, PlanRequest, StructuralPlan, StructureSummary

MOST_POINTS, MANY_GATES = 96, 256  # points of a curve on the page; gates above which each gets fewer
FFN_WORDS = {
    "none": "feed-forward matrices at full rank",
    "erank": "ranks: {erank_factor:g} × effective rank",
    "mass": "ranks: at most {tau:g} of the squared spectrum given up",
    "budget": "ranks: {ffn_flops:.0%} of the feed-forward multiply-adds in all",
    "bottleneck": "hidden units: at most {tau:g} of their energy given up",
}
HOW = (
    "Effective rank: exp of the entropy of the singular values of a head's output over the calibration tokens, divided "
    "by the largest value it could have. KS: the largest gap between two cumulative curves, the spectrum of all heads "
    "of the layer together, with and without this head; mass-weighted. Score: what the plan ranked by; the lowest "
    "is removed first, whatever the layer, but every layer keeps its best head.",
    "A head is the unit that can be removed alone; with grouped-query attention that is one group.",
)
PITFALL = (
    "Plain KS between this spectrum and its own first k values is 1 − k/n for every head, whatever the spectrum: here "
    "{plain:.2f} for k = {k} of {n}. It says nothing about where to cut. Mass-weighted, the same cut is {mass:.2f}: "
    "the share of the spectrum that is cut off, and that differs from head to head."
)
SINK = "Low effective rank and high KS: few directions, but removing it changes the layer, as for an attention sink."


def weights_words(summary: StructureSummary) -> str:
    """Return what is left of the weights, as text."""
    kept, total = (sum(two[i] for two in summary.heads.values()) for i in (0, 1))
    found = [f"{kept} of {total} heads"] if kept < total else []
    if summary.factorised:
        found.append(f"{summary.factorised} of {summary.matrices} matrices factorised")
    return ", ".join(found) or "all heads and matrices"


def plan_view(plan: StructuralPlan, cost: PlanCost, model: str) -> dict[str, Any]:
    """Return everything that the tab shows of a plan, except the curves of single heads.

    Args:
        model: display name of the model.
    """
    summary = plan.summary()
    return {
        "digest": plan.digest,
        "trained": plan.training is not None,
        "model": model,
        "headline": f"{plan.title}: {weights_words(summary)}.",
        "facts": _facts(plan),
        "notes": list(plan.notes),
        "maps": maps_view(plan),
        "ranks": ranks_view(plan),
        "sums": sums_view(plan, cost),
        "gates": gates_view(plan),
        "how": list(HOW),
    }


def maps_view(plan: StructuralPlan) -> dict[str, Any]:
    """Return layer x head values of the plan: `parts` with `layers`, each with `score`, `erank`, `ks` (None where not
    computed) and `kept`; `modes`: the values that can be shown; `curves`: whether heads have curves.
    """
    parts: dict[Part, list[dict[str, Any]]] = {}
    for layer in plan.layers:
        values = {name: _numbers(getattr(layer, name)) for name in ("score", "erank", "ks")}
        parts.setdefault(layer.part, []).append(
            {"layer": layer.layer, "heads": layer.n_heads, "kept": layer.heads.tolist()} | values
        )
    modes = [name for name in ("score", "erank", "ks") if all(getattr(p, name) is not None for p in plan.layers)]
    return {"parts": [{"part": part.value, "layers": layers} for part, layers in parts.items()], "modes": modes,
            "curves": all(p.full is not None and p.without is not None for p in plan.layers)}  # fmt: skip


def head_view(plan: StructuralPlan, part: str, layer: int, head: int) -> dict[str, Any]:
    """Return one head: its spectrum, the curves whose gap is its KS, the plain KS, and its values.

    Raises:
        KeyError: if the plan has no such head, or no curves of it.
    """
    found = next((p for p in plan.layers if (p.part.value, p.layer) == (part, layer)), None)
    if found is None or not 0 <= head < found.n_heads:
        raise KeyError((part, layer, head))
    view = {
        "part": part,
        "layer": layer,
        "head": head,
        "of": found.n_heads,
        "kept": head in found.heads,
        "values": {n: None if getattr(found, n) is None else float(getattr(found, n)[head])
                   for n in ("score", "erank", "ks")},
        "spectrum": None,
    }  # fmt: skip
    if found.spectra is None or found.full is None or found.without is None:
        return view
    return view | _curves(found, head, plan.request)


def ranks_view(plan: StructuralPlan) -> list[dict[str, Any]]:
    """Return one entry per feed-forward matrix: its rank, the rank of the rule, break-even, and a sentence."""
    return [_rank(p, m) for p in plan.layers for m in p.matrices]


def sums_view(plan: StructuralPlan, cost: PlanCost) -> dict[str, Any]:
    """Return heads, parameters and estimated multiply-adds before and after, by part and for the full model."""
    summary = plan.summary()
    rows = [
        {"name": part.value, "heads": list(summary.heads[part]), "parameters": list(summary.parameters[part])[::-1],
         "flops": list(cost.parts[part])}
        for part in summary.heads
    ]  # fmt: skip
    return {
        "rows": rows,
        "full": list(cost.full),
        "tokens": f"{cost.tower} tokens in the tower, {cost.visual} visual and {cost.text} text tokens in the language "
        "model, no token pruned",
    }


def gates_view(plan: StructuralPlan) -> dict[str, Any] | None:
    """Return the training curves of the gates, thinned out for the screen; None without a training."""
    t = plan.training
    if t is None:
        return None
    picks = _picks(len(t.steps), most=MOST_POINTS if t.gates.shape[1] <= MANY_GATES else MOST_POINTS // 4)
    kept = [head in p.heads for p in plan.layers for head in range(p.n_heads)]
    names = [f"{p.part.value}, layer {p.layer}, head {head}" for p in plan.layers for head in range(p.n_heads)]
    terms = {name: _numbers(values[picks]) for name, values in t.terms.items()}
    return {
        "steps": t.steps[picks].tolist(),
        "gates": [_numbers(column) for column in t.gates[picks].T],
        "kept": kept,
        "names": names,
        "terms": terms,
        "recipe": ", ".join(f"{name} {value}" for name, value in t.recipe.items()),
    }


def _curves(layer: LayerPlan, head: int, request: PlanRequest) -> dict[str, Any]:
    """Return the curves of one head; only for layers that hold them."""
    if layer.spectra is None or layer.full is None or layer.without is None:
        raise ValueError("this layer holds no spectra")
    spectrum, full, without = layer.spectra[head], layer.full, layer.without[head]
    n = len(spectrum)
    one, other = np.cumsum(full), np.cumsum(without)
    gap = int(np.abs(one - other).argmax())
    mass_cut = 1 - np.cumsum(spectrum)
    share = layer.erank[head] if layer.erank is not None else 0.5
    k = int(min(max(1, round(float(share) * n)), n - 1)) if n > 1 else 1
    plain = [ks_two_sample(spectrum, spectrum[:i]) for i in range(1, n + 1)]
    said = PITFALL.format(plain=plain[k - 1], k=k, n=n, mass=float(mass_cut[k - 1]))
    erank, ks = layer.erank, layer.ks
    sink = False
    if erank is not None and ks is not None:
        sink = bool(erank[head] < np.median(erank) and ks[head] > np.median(ks))
    two_sample = request.parameters.get("ks") == "two-sample"
    return {
        "spectrum": _thin(spectrum),
        "n": n,
        "full": _thin(one, keep=gap),
        "without": _thin(other, keep=gap),
        "gap": {"at": gap + 1, "of": len(one), "full": float(one[gap]), "without": float(other[gap])},
        "plain": _thin(np.array(plain)),
        "cut": _thin(mass_cut.clip(0)),
        "k": k,
        "pitfall": said,
        "sink": SINK if sink else "",
        "matrix": str(request.parameters.get("matrix", "head output")),
        "ranked_by": "two-sample" if two_sample else "mass",
    }


def _rank(layer: LayerPlan, m: MatrixPlan) -> dict[str, Any]:
    s, hidden = m.shape, layer.hidden
    most = min(s.d_in, s.d_out)
    entry = {"part": layer.part.value, "layer": layer.layer, "name": s.name, "size": [s.d_in, s.d_out], "most": most,
             "break_even": s.break_even, "rank": s.rank, "wanted": m.wanted, "erank": m.erank}  # fmt: skip
    if hidden is not None:
        units = layer.shape.matrices[-1].d_in
        return entry | {"fill": len(hidden) / units, "says": f"{len(hidden)} of {units} hidden units"}
    if s.rank is not None:
        saved = 1 - s.weights / (s.d_in * s.d_out)
        return entry | {"fill": s.rank / most, "says": f"rank {s.rank} of {most}, {saved:.0%} saved"}
    if m.wanted is None:
        return entry | {"fill": 1.0, "says": "full rank"}
    return entry | {"fill": 1.0, "says": f"full rank: rank {m.wanted} saves nothing"}


def _facts(plan: StructuralPlan) -> list[str]:
    r, environment = plan.request, plan.environment
    ranks = FFN_WORDS[r.ffn].format(erank_factor=r.erank_factor, tau=r.tau, ffn_flops=r.ffn_flops)
    changed = "".join(f", {name} = {value}" for name, value in r.parameters.items())
    calibration = "no pictures" if r.n_pairs == 0 else f"{r.n_pairs} pictures with questions ({r.calibration})"
    return [
        f"heads kept: {r.heads:.0%}{changed}",
        f"{ranks}{', whitened' if r.whitening and r.ffn != 'none' else ''}",
        f"calibrated on {calibration}",
        f"made {environment.get('date', 'at an unknown time')}",
        f"plan {plan.digest[:12]}, weights {plan.fingerprint[:12]}",
    ]


def _picks(n: int, keep: int = 0, most: int = MOST_POINTS) -> list[int]:
    """Return at most about `most` of n indices, the first, the last and `keep` among them."""
    return sorted({*np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist(), keep})


def _thin(values: np.ndarray, keep: int = 0) -> list[list[float]]:
    """Return a curve as [index from 1, value] pairs."""
    return [[i + 1, round(float(values[i]), 6)] for i in _picks(len(values), keep)]


def _numbers(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else [float(v) for v in values]
