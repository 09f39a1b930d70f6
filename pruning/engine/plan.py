"""Make a structural plan from a model and pictures with questions: calibrate, score heads, choose ranks.

The counterpart of the runner for weights: the only place where head scores and models meet. Heads are ranked first and
matrices second, on the same calibration pass (InfoPrune's order, arXiv 2511.19518: heads, then feed-forward).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from pruning.engine.environment import environment
from pruning.errors import ParameterError
from pruning.inputs.questions import Pair
from pruning.interface import BlockFacts, Part
from pruning.models.base import VLMAdapter
from pruning.ops.lowrank import output_directions
from pruning.ops.spectra import effective_rank, shares
from pruning.records.plan import LayerPlan, MatrixPlan, PlanRequest, StructuralPlan, Trajectory
from pruning.structural import scorer_class
from pruning.structural.base import HeadScores, Statistic, choose_heads, n_heads_kept
from pruning.structural.ranks import below_break_even, bottleneck_rule, budget_rule, erank_rule, mass_rule

INFERRED = (
    "The paper could not be read in full: which matrix effective rank is taken of, how it is put together with the "
    "distance, and how ranks are chosen are this project's inference, and options."
)


class Pairs(Protocol):
    """Pictures with questions by number, as many as are asked for."""

    title: str

    def __getitem__(self, number: int) -> Pair: ...


def make_plan(
    adapter: VLMAdapter,
    request: PlanRequest,
    pairs: Pairs | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> StructuralPlan:
    """A plan by a static score: no training.

    Args:
        pairs: what to calibrate on; the first `request.n_pairs` are run. Not needed by scores that look at weights
            only, without whitening.

    Raises:
        ParameterError: for an option that is unknown, out of range, or needs calibration pictures that were not given.
        PlanError: if the model's layers cannot be taken apart.
    """
    scorer = scorer_class(request.score).from_parameters(request.parameters)
    needs = (scorer.needs if request.heads < 1 else frozenset()) | ffn_needs(request)
    facts = calibrate(adapter, request, needs, pairs, stop)
    if not needs:
        request = replace(request, calibration="none", n_pairs=0)
    elif pairs is not None:
        request = replace(request, calibration=pairs.title)
    scores: list[HeadScores | None] = [None] * len(facts)
    heads = [torch.arange(f.n_heads) for f in facts]
    if request.heads < 1:
        generator = torch.Generator().manual_seed(request.seed)
        found = [scorer.score(f, generator) for f in facts]
        scores = [*found]
        total = sum(f.n_heads for f in facts)
        heads = choose_heads([s.score for s in found], n_heads_kept(request.heads, total, len(facts)))
    title = scorer.title if request.heads < 1 else "Feed-forward only"
    return assemble(adapter, request, facts, scores, heads, title)


def calibrate(
    adapter: VLMAdapter,
    request: PlanRequest,
    needs: frozenset[Statistic],
    pairs: Pairs | None,
    stop: Callable[[], bool] = lambda: False,
) -> list[BlockFacts]:
    """The facts of all layers of the request's parts, after a pass of the calibration pictures where one is needed."""
    if needs and (pairs is None or request.n_pairs < 1):
        raise ParameterError(
            f"This plan needs {', '.join(sorted(needs))}, hence calibration pictures with questions; none were given.",
            "Give a folder with --data and a number with --pairs, or choose magnitude, random or matrix=OV weight.",
        )
    chosen = (pairs[i] for i in range(request.n_pairs)) if needs and pairs is not None else ()
    prompts = (adapter.prompt(p.picture, p.question) for p in chosen)
    return adapter.facts([Part(p) for p in request.parts], sorted(needs), prompts, stop)


def ffn_needs(request: PlanRequest) -> frozenset[Statistic]:
    """What a feed-forward rule must be shown."""
    wanted = request.ffn != "none" and (request.whitening or request.ffn == "bottleneck")
    return frozenset({Statistic.FFN_INPUTS} if wanted else ())


def assemble(
    adapter: VLMAdapter,
    request: PlanRequest,
    facts: Sequence[BlockFacts],
    scores: Sequence[HeadScores | None],
    heads: Sequence[torch.Tensor],
    title: str,
    training: Trajectory | None = None,
) -> StructuralPlan:
    """The plan for heads that are chosen, with the feed-forward part of the request worked out."""
    matrices, hidden = _feed_forward(request, facts)
    layers = []
    for f, s, kept, mine, units in zip(facts, scores, heads, matrices, hidden, strict=True):
        names = ("score", "erank", "ks", "spectra", "full", "without")
        found = {n: getattr(s, n) for n in names if s is not None and getattr(s, n) is not None}
        layers.append(
            LayerPlan(
                f.part, f.layer, f.shape, f.head_dim, kept.cpu().numpy(), mine,
                hidden=None if units is None else units.cpu().numpy(),
                **{n: v.detach().cpu().numpy() for n, v in found.items()},
            )
        )  # fmt: skip
    notes = (INFERRED,) if request.score in ("infoprune", "trained") or request.ffn != "none" else ()
    return StructuralPlan(adapter.fingerprint, request, tuple(layers), title, training, notes, environment(adapter))


def _feed_forward(
    request: PlanRequest, facts: Sequence[BlockFacts]
) -> tuple[list[tuple[MatrixPlan, ...]], list[torch.Tensor | None]]:
    """Per layer: what becomes of its matrices, and the hidden units that stay (None: all)."""
    hidden: list[torch.Tensor | None] = [None] * len(facts)
    if request.ffn in ("none", "bottleneck"):
        if request.ffn == "bottleneck":
            stays = [bottleneck_rule(_hidden_energy(f), request.tau) for f in facts]
            hidden = [None if len(h) == f.shape.matrices[-1].d_in else h for h, f in zip(stays, facts, strict=True)]
        return [tuple(MatrixPlan(m) for m in f.shape.matrices) for f in facts], hidden
    places = [(i, m) for i, f in enumerate(facts) for m in f.shape.matrices]
    found = [
        output_directions(facts[i].weights[m.name], facts[i].input_grams.get(m.name) if request.whitening else None)
        for i, m in places
    ]
    spectra = [values.cpu() for values, _ in found]
    if request.ffn == "budget":
        ranks = budget_rule(spectra, [m for _, m in places], request.ffn_flops)
        wanted: list[int | None] = list(ranks)
    else:
        rule, option = (erank_rule, request.erank_factor) if request.ffn == "erank" else (mass_rule, request.tau)
        asked_for = [rule(s, option) for s in spectra]
        wanted = [*asked_for]
        ranks = [below_break_even(k, m) for k, (_, m) in zip(asked_for, places, strict=True)]
    plans: list[list[MatrixPlan]] = [[] for _ in facts]
    for (i, m), (values, directions), rank, asked in zip(places, found, ranks, wanted, strict=True):
        stored = directions[:, :rank].cpu().numpy() if request.whitening and rank is not None else None
        spectrum, erank = shares(values.cpu(), power=2), float(effective_rank(values.cpu()))
        plans[i].append(MatrixPlan(replace(m, rank=rank), asked, spectrum.numpy(), erank, stored))
    return [tuple(p) for p in plans], hidden


def _hidden_energy(block: BlockFacts) -> torch.Tensor:
    """What every hidden unit brings to the output: its mean square times the squared length of its output weights."""
    last = block.shape.matrices[-1].name
    squares = block.input_grams[last].diagonal() / max(1, block.rows)
    return squares * block.weights[last].double().square().sum(0)
