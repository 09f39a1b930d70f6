"""Prune at three stages: by attention after the tower, by clusters in a shallow layer, by key norms in a deep layer.

Paper:      Luo et al., "ViTCoP: Visual and Textual Semantic Collaborative Pruning", AAAI 2026,
            https://arxiv.org/abs/2601.17818; reference code chaser682/ViTCoP @ 627f632 (LLaVA-1.5 only)
Stage:      I after the tower (before the projector), II entering a shallow, III a deep language-model layer
Needs:      [CLS] attention and keys of the tower's feature layer; language-model keys of the layers before the cuts
Symbols:    r -> keep_ratio (mean over the layers); v -> `vision_keep`; c -> `cluster_share`; s, p -> `shallow_layer`,
            `deep_layer` (0: the paper's 2 and 22 of 32, scaled to the model's depth); tau -> `tau`; d_c -> `d_c`
Differs:    a merged token is the group's mean; the code adds the hidden state of the group's middle member (`merge =
            mean plus middle member`). The code corrects quotas in one pass and may miss its count; here the pass is
            repeated until the count is met. The code's deep cut numbers positions by the index in the shortened
            sequence (`deep_positions`). v and c follow the paper's three budgets linearly in r (0.2 + 0.9 r and 0.09 +
            0.27 r), v limited so that the shallow layers use at most half of the budget and the shallow cut has a tenth
            to merge: inferred, for other depths and ratios. Tokens of different pictures are never neighbours
Cost:       one tower row, O(Nv^2 dim) clustering, keys of two layers; no attention map in the language model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from pruning.budget import n_keep as count_kept
from pruning.errors import BudgetError, ParameterError
from pruning.interface import Decision, ModelInfo, Observation, Part, PruneContext, Signal, Stage
from pruning.methods.base import BEFORE_PROJECTOR, TokenPruner
from pruning.ops.merging import group_means
from pruning.ops.scoring import best, best_ascending
from pruning.parameters import Choice, Param

MEAN, AS_CODED = "mean", "mean plus middle member"
ORIGINAL, REINDEXED = "original", "reindexed"
DEEP_DIVISOR = 5
ROOM_TO_MERGE = 1.1  # the tower keeps at least a tenth more than the shallow cut, else there is nothing to merge
PAPER_DEPTH, PAPER_SHALLOW, PAPER_DEEP = 32, 2, 22


@dataclass(frozen=True, kw_only=True)
class ViTCoP(TokenPruner):
    key: ClassVar[str] = "vitcop"
    title: ClassVar[str] = "ViTCoP"
    paper: ClassVar[str] = "https://arxiv.org/abs/2601.17818"
    idea: ClassVar[str] = "cuts by attention, by clusters, by key norms"
    acts: ClassVar[str] = "in the vision tower and twice inside the language model"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.CLS_ATTENTION, Signal.TOWER_KEYS, Signal.LANGUAGE_KEYS})
    equivariant: ClassVar[bool] = False  # a merged token is placed at its group's middle member in raster order
    merges: ClassVar[bool] = True

    vision_keep: Annotated[
        float,
        Param(0.0, 1.0, 0.01, "Kept in the tower (v)", "Share kept after the tower; 0 follows the paper's budgets."),
    ] = 0.0
    cluster_share: Annotated[
        float,
        Param(0.0, 0.5, 0.01, "Clusters (c)", "Clusters per token kept in the tower; 0 follows the paper's budgets."),
    ] = 0.0
    shallow_layer: Annotated[
        int,
        Param(
            0,
            128,
            1,
            "Shallow layer (s)",
            "Layer of the second cut; 0 scales the paper's 2 of 32.",
            Part.LANGUAGE_MODEL,
        ),
    ] = 0
    deep_layer: Annotated[
        int,
        Param(
            0, 128, 1, "Deep layer (p)", "Layer of the third cut; 0 scales the paper's 22 of 32.", Part.LANGUAGE_MODEL
        ),
    ] = 0
    tau: Annotated[float, Param(0.05, 1.5, 0.05, "tau", "Largest distance in the picture of a denser neighbour.")] = 0.6
    d_c: Annotated[float, Param(0.5, 64.0, 0.5, "d_c", "Scale of the density, in units of key distance.")] = 8.0
    merge: Annotated[str, Choice((MEAN, AS_CODED), "Merge", "Value of a merged token.")] = MEAN
    deep_positions: Annotated[
        str,
        Choice((ORIGINAL, REINDEXED), "Positions after the deep cut", "Unchanged, or renumbered with gaps, as coded."),
    ] = ORIGINAL

    def depths(self, info: ModelInfo) -> tuple[int, int]:
        """Return the layers of the second and third cut."""
        scale = info.text_layers / PAPER_DEPTH
        shallow = self.shallow_layer or max(1, round(PAPER_SHALLOW * scale))
        deep = self.deep_layer or min(info.text_layers - 1, round(PAPER_DEEP * scale))
        if not shallow < deep < info.text_layers:
            raise ParameterError(
                f"ViTCoP's cuts are before layers {shallow} and {deep}; the second must come first and both must be "
                f"below {info.text_layers}.", "Set both to 0 to scale the paper's layers to this model."
            )  # fmt: skip
        return shallow, deep

    def shares(self, info: ModelInfo) -> tuple[float, float]:
        """Return (v, c) as given, or following the paper's budgets."""
        shallow, deep = self.depths(info)
        ratio = self.keep_ratio
        least = ratio * info.text_layers / (deep + (info.text_layers - deep) / DEEP_DIVISOR)  # nothing left to merge
        most = 0.5 * ratio * info.text_layers / shallow
        vision = self.vision_keep or min(max(ROOM_TO_MERGE * least, min(0.2 + 0.9 * ratio, most)), 1.0)
        return vision, self.cluster_share or 0.09 + 0.27 * ratio

    def plan(self, info: ModelInfo, n_tokens: int) -> dict[Stage, int]:
        shallow, deep = self.depths(info)
        cuts = (Stage(Part.LANGUAGE_MODEL, shallow), Stage(Part.LANGUAGE_MODEL, deep))
        if count_kept(self.keep_ratio, n_tokens) == n_tokens:
            return {BEFORE_PROJECTOR: n_tokens, cuts[0]: n_tokens, cuts[1]: n_tokens}
        highest = (deep + (info.text_layers - deep) / DEEP_DIVISOR) / info.text_layers
        if self.keep_ratio > highest:
            raise BudgetError(
                f"ViTCoP keeps at most {highest:.0%} on average here, since its deep cut always drops four of five; "
                f"asked: {self.keep_ratio:.0%}.", "Lower the keep ratio, or keep everything."
            )  # fmt: skip
        vision, _ = self.shares(info)
        n_vision = max(1, int(vision * n_tokens))
        n_shallow, n_deep = solve_budget(self.keep_ratio, vision, n_vision, info.text_layers, shallow, deep)
        if not 1 <= n_shallow <= n_vision:
            raise BudgetError(
                f"ViTCoP cannot keep {self.keep_ratio:.0%} on average when {vision:.0%} leave the tower: "
                f"the shallow cut would have to keep {n_shallow} of {n_vision}.",
                "Change the keep ratio or the share kept in the tower.",
            )
        return {BEFORE_PROJECTOR: n_vision, cuts[0]: n_shallow, cuts[1]: max(1, n_deep)}

    def observations(self, info: ModelInfo) -> tuple[Observation, ...]:
        shallow, deep = self.depths(info)
        tower = info.feature_layer
        return (
            Observation(Signal.CLS_ATTENTION, tower),
            Observation(Signal.TOWER_KEYS, tower),
            Observation(Signal.LANGUAGE_KEYS, shallow - 1),
            Observation(Signal.LANGUAGE_KEYS, deep - 1),
        )

    def positions_at(self, stage: Stage) -> str:
        if stage == BEFORE_PROJECTOR:
            return "renumbered"  # the language model numbers the shorter sequence from scratch
        return ORIGINAL if self.deep_positions == ORIGINAL or stage.layer == 0 else self.deep_positions

    def select(self, context: PruneContext, n_keep: int) -> Decision:
        attention, keys, shallow_keys, deep_keys = self.observations(context.info)
        if context.stage == BEFORE_PROJECTOR:
            return self._coarse(context, n_keep, context.observations[attention], context.observations[keys])
        shallow, _ = self.depths(context.info)
        observation = shallow_keys if context.stage.layer == shallow else deep_keys
        norm = key_norm(context.observations[observation])
        if context.stage.layer != shallow:
            return Decision(best_ascending(-norm, n_keep), scores=-norm, summary="smallest key norms")
        return self._merge(context, n_keep, norm)

    def keep_all(self, context: PruneContext) -> Decision:
        """Return the decision that keeps every row; after the tower (v = 1) the clusters are still found."""
        if context.stage != BEFORE_PROJECTOR:
            return super().keep_all(context)
        return self.select(context, context.n_rows)

    def _coarse(self, context: PruneContext, n_keep: int, attention: torch.Tensor, keys: torch.Tensor) -> Decision:
        score = attention.float().sum(0)
        keep = best_ascending(score, n_keep)
        _, share = self.shares(context.info)
        places = context.positions.float()
        if context.pictures is not None:  # tokens of another picture are never near
            places = places + 2 * context.pictures[:, None]
        clusters = cluster(keys[keep].float(), places[keep], share, self.d_c, self.tau)
        context.memory["vitcop.labels"] = dict(zip(context.ids[keep].tolist(), clusters.labels.tolist(), strict=True))
        label = torch.full((context.n_rows,), -1, device=keep.device)
        label[keep] = clusters.labels
        extra = {
            "cluster": label,
            "centres": keep[clusters.centres],
            "density": clusters.density,
            "delta": clusters.delta,
            "gamma": clusters.gamma,
        }
        return Decision(keep, scores=score, summary=f"{len(clusters.centres)} clusters", extra=extra)

    def _merge(self, context: PruneContext, n_keep: int, norm: torch.Tensor) -> Decision:
        known = context.memory["vitcop.labels"]
        labels = torch.tensor([known[i] for i in context.ids.tolist()], device=norm.device)
        parts = elites_and_groups(labels, norm, n_keep)
        keep = torch.cat([parts.elites, parts.representatives]).sort().values
        features = context.features[keep].clone()
        merged = merge_groups(context.features, parts, as_coded=self.merge == AS_CODED)
        features[torch.searchsorted(keep, parts.representatives)] = merged.to(features.dtype)
        member = parts.group >= 0
        merged_into = torch.full_like(parts.group, -1)
        merged_into[member] = parts.representatives[parts.group[member]]
        merged_into[parts.representatives] = -1
        summary = f"{len(parts.elites)} elites, {len(parts.representatives)} merged groups"
        why = {"elite": parts.elites, "merged group": parts.representatives}
        return Decision(keep, features, merged_into, -norm, summary=summary, extra={"group": parts.group}, why=why)


def solve_budget(ratio: float, vision: float, n_vision: int, layers: int, shallow: int, deep: int) -> tuple[int, int]:
    """Return the tokens kept by the shallow and deep cut so that the mean over the layers is `ratio` of all tokens."""
    weight = (deep - shallow) + (layers - deep) / DEEP_DIVISOR
    n_shallow = round((layers * ratio / vision - shallow) / weight * n_vision)
    return n_shallow, round(n_shallow / DEEP_DIVISOR)


def key_norm(keys: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm of the head-mean key, float32 `[tokens]`, from `[heads, tokens, head_dim]`. Small means
    important.
    """
    return keys.float().mean(0).norm(dim=-1)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Density-peak clusters: `labels` `[n]`, `centres` `[c]`, `density`, `delta`, `gamma` `[n]`, `parent` `[n]` (the
    nearest admissible denser token, -1 where there is none).
    """

    labels: torch.Tensor
    centres: torch.Tensor
    density: torch.Tensor
    delta: torch.Tensor
    gamma: torch.Tensor
    parent: torch.Tensor


def cluster(features: torch.Tensor, positions: torch.Tensor, share: float, d_c: float, tau: float) -> Clusters:
    """Cluster tokens by density peaks in key space, with neighbours limited to `tau` in the picture (the paper's VIC).

    Equal densities are ordered by index, so that the parents form a forest; a peak that is not a centre joins the
    nearest centre.

    Args:
        features: `[n, dim]` keys. positions: `[n, 2]` in 0 .. 1. share: centres per token.
    """
    n = len(features)
    exact = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(features, features, compute_mode=exact)
    density = torch.exp(-((distance / d_c) ** 2)).sum(1)
    index = torch.arange(n, device=features.device)
    denser = (density[None, :] > density[:, None]) | (
        (density[None, :] == density[:, None]) & (index[None, :] < index[:, None])
    )
    admissible = denser & (torch.cdist(positions, positions, compute_mode=exact) <= tau)
    delta, parent = distance.masked_fill(~admissible, float("inf")).min(1)
    peak = delta.isinf()
    parent = parent.masked_fill(peak, -1)
    gamma = density * delta
    centres = best(gamma, max(1, int(share * n)))
    is_centre = torch.zeros(n, dtype=torch.bool, device=features.device)
    is_centre[centres] = True
    stray = peak & ~is_centre
    root = torch.where(is_centre, index, parent)
    root[stray] = centres[distance[stray][:, centres].argmin(1)]
    for _ in range(n.bit_length()):  # pointer jumping: every step doubles the distance travelled
        root = root[root]
    number = torch.full_like(index, -1)
    number[centres] = torch.arange(len(centres), device=index.device)
    return Clusters(number[root], centres, density, delta, gamma, parent)


@dataclass(frozen=True, slots=True)
class Groups:
    """`elites`: tokens kept as they are. `group` `[n]`: number of the merged group of every other token, -1 for elites.
    `representatives` `[groups]`: token at whose position a group's row is placed (ascending with the number).
    """

    elites: torch.Tensor
    group: torch.Tensor
    representatives: torch.Tensor


def elites_and_groups(labels: torch.Tensor, norm: torch.Tensor, n_keep: int, passes: int | None = None) -> Groups:
    """Partition `n` tokens into elites and merged groups, together `n_keep` rows.

    Args:
        labels: `[n]` cluster of every token. norm: `[n]` key norm, small means important.
        passes: corrective passes over the quotas; None repeats until the count is met, the published code does 1.
    """
    device = norm.device
    _, labels = labels.unique(return_inverse=True)
    size = torch.bincount(labels)
    n_clusters, n = len(size), len(labels)
    weight = torch.zeros(n_clusters, dtype=torch.float32, device=device).index_add_(0, labels, norm.float())
    if n_keep < n_clusters:
        single = best_ascending(-weight, n_keep - 1)
        number = torch.full((n_clusters,), n_keep - 1, device=device)
        number[single] = torch.arange(n_keep - 1, device=device)
        return _grouped(number[labels])
    quota = _quotas(size, weight, n_keep, n, passes)
    order = torch.sort(norm, stable=True).indices
    order = order[torch.sort(labels[order], stable=True).indices]  # by cluster, important ones first
    first = torch.cat([size.new_zeros(1), size.cumsum(0)[:-1]])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n, device=device) - first[labels[order]]
    return _grouped(torch.where(rank < quota[labels], -1, labels))


def _quotas(size: torch.Tensor, weight: torch.Tensor, n_keep: int, n: int, passes: int | None) -> torch.Tensor:
    n_clusters, spare = len(size), n_keep - len(size)
    most = size - 1
    if n == n_clusters:
        return torch.zeros_like(size)
    quota = torch.minimum((most.float() / (n - n_clusters) * spare).round().long(), most)
    done = 0
    while int(quota.sum()) != spare and (passes is None or done < passes):
        done += 1
        short = spare - int(quota.sum())
        order = torch.sort(weight, descending=short < 0, stable=True).indices
        able = (quota < most) if short > 0 else (quota > 0)
        chosen = order[able[order]][: abs(short)]
        quota[chosen] += 1 if short > 0 else -1
    return quota


def _grouped(group: torch.Tensor) -> Groups:
    """Number the groups by the position of their middle member, which represents them."""
    elites = (group < 0).nonzero()[:, 0]
    numbers = group[group >= 0].unique().tolist()
    middle = [members[len(members) // 2] for members in ((group == g).nonzero()[:, 0] for g in numbers)]
    if not middle:
        return Groups(elites, group, elites.new_zeros(0))
    representatives = torch.stack(middle)
    order = representatives.argsort()
    renumber = torch.full((max(numbers) + 1,), -1, device=group.device)
    renumber[torch.tensor(numbers, device=group.device)[order]] = torch.arange(len(numbers), device=group.device)
    return Groups(elites, torch.where(group >= 0, renumber[group.clamp(min=0)], -1), representatives[order])


def merge_groups(features: torch.Tensor, parts: Groups, *, as_coded: bool) -> torch.Tensor:
    """Return the rows of the merged groups, float32 `[groups, dim]`: the mean, or (as coded) the mean plus the middle
    member.
    """
    mean = group_means(features, parts.group, len(parts.representatives))
    return mean + features[parts.representatives].float() if as_coded else mean
