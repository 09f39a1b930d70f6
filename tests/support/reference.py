"""What a pruned run must equal, computed without a single hook: full-length sequences, masks, an own loop over layers.

The reference reads the record alone. So it also proves that the record tells what the model really saw.
"""

from __future__ import annotations

import numpy as np
import torch

from pruning.interface import Part
from pruning.records.run import RunRecord

QUESTION = "What color is the large star?"


@torch.inference_mode()
def log_probs(adapter, picture, record: RunRecord, token_ids: list[int], tiny=None) -> list[float]:
    """Log-probability of every generated token, with dropped tokens masked and merged ones averaged.

    `tiny` says what is special about a family (`families.Tiny`); without it the model is a LLaVA.
    """
    model = adapter.model
    core = model.model
    decoder = tiny.decoder(model) if tiny else core.language_model
    prompt = adapter.prompt(picture, QUESTION)
    visual = prompt.visual.nonzero()[:, 0]
    n_prompt = prompt.input_ids.shape[1]
    ids = torch.cat([prompt.input_ids[0], torch.tensor(token_ids[:-1], dtype=torch.long)])
    early = [s for s in record.steps if s.stage.part is not Part.LANGUAGE_MODEL]
    late = {s.stage.layer: s for s in record.steps if s.stage.part is Part.LANGUAGE_MODEL}

    if tiny:
        features, cls = tiny.features(model, prompt)
        rows, order = _behind_tower(features, cls, early, _method(record), lambda x: tiny.project(model, x))
    else:
        rows, order = _visual_rows(core, prompt.pixels, adapter.info.feature_layer, early, _method(record))
    policy = _policies(record)
    hidden = model.get_input_embeddings()(ids)
    separators = prompt.placeholders & ~prompt.visual
    if separators.any():
        hidden[separators.nonzero()[:, 0]] = core.image_newline
    slots = sorted(int(i) for i in order if i >= 0)
    if len(slots) < len(order):  # [CLS] stands in the first place that is free
        slots = sorted([*slots, next(i for i in range(len(visual)) if i not in slots)])
    hidden[visual[slots]] = rows
    row_ids = torch.full((len(ids),), -2)  # token id of every row: visual id, -1 for [CLS], -2 for text
    row_ids[visual[slots]] = order
    positions = tiny.positions(model, prompt, ids) if tiny else torch.arange(len(ids))
    moved = positions.clone()
    moved[..., visual[slots]] = positions[..., visual[order.clamp(min=0)]]
    stays = torch.ones(len(ids), dtype=torch.bool)
    stays[visual] = False
    stays[visual[slots]] = True
    hidden, row_ids, positions = hidden[stays][None], row_ids[stays], moved[..., stays]
    n_rows = hidden.shape[1]
    everybody = torch.ones(n_rows, dtype=torch.bool)
    if early and policy[early[-1].stage] == "renumbered":
        positions = _renumbered(positions, everybody, len(ids) - n_prompt)
    deep = tiny.deep(model, prompt) if tiny else []
    sees = torch.ones(n_rows, n_rows, dtype=torch.bool).tril()
    if getattr(_method(record), "cache", "") == "all layers":  # new tokens never see what a later layer dropped
        sees[n_rows - (len(ids) - n_prompt) :] &= (row_ids < 0) | torch.isin(row_ids, torch.tensor(record.kept))
    index_before_cut = torch.arange(n_rows)
    for layer, block in enumerate(decoder.layers):
        if 0 < layer <= len(deep):
            visual_input = row_ids >= 0
            hidden[0, visual_input] += deep[layer - 1][row_ids[visual_input]]
        if layer in late:
            step = late[layer]
            hidden = _merge(hidden, row_ids, step, _method(record))
            alive = (row_ids < 0) | torch.isin(row_ids, torch.tensor(step.selection.kept))
            if not (np.diff(step.selection.order) > 0).all():  # survivors change places, the dropped stay on theirs
                turned = torch.arange(n_rows)
                place = {int(i): row for row, i in enumerate(row_ids.tolist()) if i >= 0}
                turned[alive & (row_ids >= 0)] = torch.tensor([place[i] for i in step.selection.order.tolist()])
                hidden, row_ids, positions = hidden[:, turned], row_ids[turned], positions[..., turned]
            sees = sees & alive[None, :]
            if policy[step.stage] == "renumbered":
                positions = _renumbered(positions, alive, len(ids) - n_prompt)
            elif policy[step.stage] == "reindexed":
                positions = index_before_cut
        index_before_cut = sees.any(0).long().cumsum(0) - 1
        mask = torch.zeros(1, 1, n_rows, n_rows).masked_fill(~sees, float("-inf"))
        mask[:, :, ~sees.any(1)] = 0  # a dropped row sees anything; nobody looks at it again
        rope = decoder.rotary_emb(hidden, positions.unsqueeze(-2))
        hidden = block(hidden, attention_mask=mask, position_embeddings=rope)
    logits = model.lm_head(decoder.norm(hidden))[0].log_softmax(-1)
    first = n_rows - (len(ids) - n_prompt) - 1
    return [float(logits[first + i, token]) for i, token in enumerate(token_ids)]


def _renumbered(positions, alive, n_new):
    """Plain text: 0, 1, 2, ... With several axes: numbers that no living row of the prompt has on any axis are left
    out, and the `n_new` rows behind it go on from its last one.
    """
    if positions.ndim == 1:
        return alive.long().cumsum(0) - 1
    n = positions.shape[1] - n_new
    used = sorted({int(p) for p in positions[:, :n][:, alive[:n]].flatten()})
    given = torch.tensor([[sum(u < int(p) for u in used) for p in axis] for axis in positions[:, :n]])
    return torch.cat([given, given[:, -1:] + torch.arange(1, n_new + 1)], 1)


def _method(record: RunRecord):
    from pruning.methods import method_class

    return method_class(record.request.method).from_parameters(record.request.keep_ratio, record.request.parameters)


def _policies(record: RunRecord) -> dict:
    method = _method(record)
    if record.request.positions != "method":
        return {s.stage: record.request.positions for s in record.steps}
    return {s.stage: method.positions_at(s.stage) for s in record.steps}


def _visual_rows(core, pixels, feature_layer, early, method):
    """Rows of the picture as the language model reads them, and their token ids (-1 for [CLS])."""
    tower = getattr(core.vision_tower, "vision_model", core.vision_tower)
    hidden = getattr(tower, "pre_layrnorm", torch.nn.Identity())(tower.embeddings(pixels))
    layers = tower.encoder.layer if hasattr(tower.encoder, "layer") else tower.encoder.layers
    each = hidden.shape[1] - 1
    n = len(hidden) * each
    alive = torch.ones(n, dtype=torch.bool)
    sizes = torch.ones(n)
    order = torch.arange(n)
    in_tower = {s.stage.layer: s for s in early if s.stage.part is Part.TOWER}
    for layer, block in enumerate(layers[: feature_layer + 1]):
        if layer in in_tower:
            step = in_tower[layer]
            hidden[:, 1:] = _merge(hidden[:, 1:], torch.arange(n), step, method, sizes)
            alive = torch.isin(order, torch.tensor(step.selection.kept))
        mask = torch.zeros(1, 1, each + 1, each + 1)
        if n == each:  # rows leave inside the tower only where there is one picture
            mask[..., 1:] = sizes.log()
            mask[..., 1:].masked_fill_(~alive, float("-inf"))
        hidden = block(hidden, attention_mask=mask)
    features, cls = hidden[:, 1:].flatten(0, 1), hidden[0, 0]
    return _behind_tower(
        features, cls, early, method, lambda x: core.multi_modal_projector(x[None])[0], order[alive], sizes
    )


def _behind_tower(features, cls, early, method, project, order=None, sizes=None):
    order = torch.arange(len(features)) if order is None else order
    for step in (s for s in early if s.stage.part is Part.PROJECTOR):
        features = _merge(features[None], torch.arange(len(features)), step, method, sizes)[0]
        order = torch.tensor(step.selection.order, dtype=torch.long)
    rows = (features if cls is None else torch.cat([features, cls[None]]))[order]  # -1 picks [CLS]
    return project(rows), order


def _merge(hidden, row_ids, step, method, sizes=None):
    """Every kept row takes in what the record says was merged into it: the mean of all, their sum, or as the released
    codes do. ToMe weighs by `sizes`, how many tokens every row stands for, and these are brought up to date.
    """
    selection, how = step.selection, getattr(method, "merge", "")
    values, hidden = hidden[0], hidden.clone()
    place = {int(i): row for row, i in enumerate(row_ids.tolist()) if i >= 0}
    group_of = step.extra.get("group")
    if method.key == "prumerge":
        return _weighted_sums(values, step)[None]
    for kept in selection.kept.tolist():
        joined = np.flatnonzero(selection.merged_into == kept).tolist()
        rows = values[[place[i] for i in joined]]
        if method.key == "tome":
            weight = sizes[[kept, *joined]]
            new = weight @ values[[kept, *joined]] / weight.sum()
            sizes[kept] = weight.sum()
        elif how == "sum of target and mean":  # VisionZip: the target, and the mean of those that joined it
            new = values[place[kept]] + (rows.mean(0) if joined else 0)
        elif how == "sum":
            new = values[[place[i] for i in (kept, *joined)]].sum(0)
        else:
            new = values[[place[i] for i in (kept, *joined)]].mean(0)
            in_group = group_of is not None and group_of[selection.alive.tolist().index(kept)] >= 0
            if how == "mean plus middle member" and in_group:  # ViTCoP: the middle member once more
                new = new + values[place[kept]]
        hidden[0, place[kept]] = new
    return hidden


def _weighted_sums(values, step):
    """PruMerge: attention-weighted neighbours on top of every kept row, and one row of all the others."""
    attention, near = torch.tensor(step.selection.scores), step.extra["neighbours"]
    order = step.selection.order.tolist()
    new = values.clone()
    for token, neighbours in zip(order, near, strict=False):
        new[token] = values[token] + sum(attention[j] * values[j] for j in neighbours.tolist())
    if len(order) > len(near):
        others = [i for i in range(len(values)) if i not in order[:-1]]
        new[order[-1]] = sum(attention[j] * values[j] for j in others)
    return new
