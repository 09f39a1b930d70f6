"""JSON views of a run record: canvas, answers, cost strip and layer chart.

Everything that the browser shows on hover, scrub or switch is included, so that none of it needs a request. Arrays are
encoded as base64: one byte a token for its fate, four for its score.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from pruning.budget import mean_per_layer
from pruning.inputs.content import VideoClip, VisualInput, images_of
from pruning.interface import Part
from pruning.layout import TokenLayout
from pruning.metrics.agreement import RULE, RunComparison, Verdict, compare_run, telling_words
from pruning.metrics.token_fates import KEPT, answer_region_kept, fates
from pruning.records.answer import Answer
from pruning.records.run import RunRecord
from pruning.records.selection import PruningStep
from viz.page.compensation import compensation_view
from viz.page.structure import weights_words
from viz.text_diff import first_difference, word_diff

MAX_DRAWN_SIDE = 1024
SCORE_HOW = (
    "Score colours show ranks, not values: yellow is the most important of those that were compared. The most similar "
    "kept token is the one with the largest cosine between the embeddings that the language model would get of the two."
)
CERTAINTY_HOW = (
    "The bar under a word is the probability that the model gave it; for a word of several text tokens, their product."
)
ATTENTION_HOW = (
    "Pointing at a word shows what the token that produced it attends to, in the run of its own card: the mean over "
    "all heads and layers, after softmax, relative to that word's strongest visual token, on a square-root scale. "
    "Attending is not the same as using."
)


SIGNALS_HOW = (
    "Signal of ONLY: in the first layer of the language model, each head's entropy over the text divided by that over "
    "the picture; ONLY would silence heads below the mean. Signal of ReVisiT: the visual token whose prediction "
    "(output head, plausible words) is nearest to that of the word's own token. Neither changes an answer or prunes."
)


def picture_url(picture: np.ndarray) -> tuple[str, tuple[int, int]]:
    """Return a data URL of the picture, shrunk to screen size, and its original size `(width, height)`."""
    height, width = picture.shape[:2]
    scale = min(1.0, MAX_DRAWN_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise ValueError("the picture could not be encoded")
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}", (width, height)


def run_view(
    record: RunRecord, pictures: Sequence[str], *, recorded: bool, how: Sequence[str] = (), truth: str = "",
    model: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return everything that the page shows of one run.

    Args:
        pictures: data URLs, of a video one for each frame. recorded: the run was made earlier. how: sentences on how
            the method decides. truth: the correct answer, where it is known. model: display name of the model.
    """
    compared = compare_run(record)
    return {
        "canvas": canvas_view(record, pictures, recorded=recorded, how=how, model=model, compared=compared),
        "answers": answers_view(record, truth=truth, compared=compared),
        "compensation": compensation_view(record, compared),
        "cost": cost_view(record),
        "chart": chart_view(record),
    }


def canvas_view(
    record: RunRecord, pictures: Sequence[str], *, recorded: bool, how: Sequence[str] = (), model: str = "",
    compared: RunComparison | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the canvas needs. `compared`, here and below: as `compare_run` returned them, if it was called."""
    n = record.layout.n_tokens
    return {
        "pictures": list(pictures),
        "layout": _layout_view(record.layout),
        "n_tokens": n,
        "model": model,
        "method": record.method_title,
        "variant": record.variant,
        "positions": record.positions,
        "recorded": recorded,
        "date": record.environment["date"],
        "machine": record.environment["machine"],
        "stops": [_full_stop(n), *(_stop(step) for step in record.steps)],
        "answer_region": None if record.answer_region is None else record.answer_region.tolist(),
        "answer_region_kept": answer_region_kept(record),
        "attention": {name: attention_view(answer) for name, answer in answers_of(record).items()},
        "nearest": _nearest_view(record),
        "headline": headline(record, compared),
        "weights": "" if record.structure is None else f"{record.structure.title}: {weights_words(record.structure)}",
        "how": [*how, SCORE_HOW],
    }


def answers_of(record: RunRecord) -> dict[str, Answer]:
    """Return a run's answers by name; `compensated` is the one with a caption."""
    third = {} if record.compensated is None else {"compensated": record.compensated.answer}
    return {"full": record.full, "pruned": record.pruned} | third


def attention_view(answer: Answer) -> dict[str, Any] | None:
    """Return what every word attends to: `weights`, one byte per visual token relative to the word's strongest one, and
    `shares`, the part of its attention that goes to the picture. With it, where they were recorded, the signals of
    ONLY (`ratios`, a number for each head) and of ReVisiT (`nearest`, a token).
    """
    if answer.attention is None:
        return None
    parts = [w["tokens"] for w in _words_of(answer)]
    rows = [answer.attention[p].astype(np.float32).mean(0) for p in parts]
    if not rows:
        return None
    stacked = np.stack(rows)
    top = stacked.max(1, keepdims=True)
    weights = np.rint(255 * np.divide(stacked, top, out=np.zeros_like(stacked), where=top > 0)).astype(np.uint8)
    found = {"weights": _pack(weights), "shares": [round(float(s), 4) for s in stacked.sum(1)]}
    if answer.head_ratios is not None:
        found["ratios"] = [np.round(answer.head_ratios[p].mean(0).astype(float), 4).tolist() for p in parts]
    if answer.nearest is not None:
        found["nearest"] = [int(answer.nearest[p[0]]) for p in parts]
    return found


def chart_view(record: RunRecord) -> dict[str, Any]:
    """Return what the chart of visual tokens per layer needs."""
    return {
        "full": list(record.full.visual_per_layer),
        "pruned": list(record.pruned.visual_per_layer),
        "text": record.pruned.text_tokens,
    }


def picture_view(
    pictures: Sequence[str],
    visual_input: VisualInput,
    layout: TokenLayout | None,
) -> dict[str, Any]:
    """Return pictures, or a video, without a run, for the canvas.

    Args:
        pictures: data URLs. layout: the model's token layout; None while it is not known.
    """
    n, view = layout.n_tokens if layout else 0, _layout_view(layout) if layout else _uncut(visual_input)
    return {"pictures": list(pictures), "layout": view, "n_tokens": n, "stops": [_full_stop(n)], "headline": ""}


def _uncut(visual_input: VisualInput) -> dict[str, Any]:
    """Return the same as `_layout_view`, without tokens, while no model is loaded."""
    sizes = [[p.shape[1], p.shape[0]] for p in images_of(visual_input)]
    names = [f"picture {i + 1}" for i in range(len(sizes))]
    if isinstance(visual_input, VideoClip):
        names = [f"frame {i + 1}, {second:.1f} s" for i, second in enumerate(visual_input.seconds)]
    frames = [[i] for i in range(len(sizes))]
    return {"pictures_wh": sizes, "names": names, "frames": frames, "tiles": [], "views": []}


def _layout_view(layout: TokenLayout) -> dict[str, Any]:
    """Return the layout, which of its tiles can be drawn together, the names of its pictures, and for a video the
    frames of each temporal step.
    """
    tiles = [t | {"picture": t.get("picture", 0)} for t in layout.to_dict()["tiles"]]
    sizes = [list(wh) for wh in layout.pictures_wh]
    names, frames = layout.names(), layout.frames()
    return {"pictures_wh": sizes, "names": names, "frames": frames, "tiles": tiles, "views": layout.views()}


def answers_view(record: RunRecord, *, truth: str = "", compared: RunComparison | None = None) -> dict[str, Any]:
    """Return what the answer cards need."""
    compared = compared or compare_run(record)
    return {
        "state": "done",
        "full": _answer_view(record.full, str(record.layout.n_tokens)),
        "pruned": _answer_view(record.pruned, tokens_left(record)),
        **_against(record.full, record.pruned, compared.pruned.verdict),
        "compensated": _compensated_view(record, compared),
        "question": record.request.question,
        "truth": truth,
        "notes": list(record.notes),
        "weights": "" if record.structure is None else weights_words(record.structure),
        "how": [RULE, CERTAINTY_HOW, ATTENTION_HOW, SIGNALS_HOW],
    }


def cost_view(record: RunRecord) -> dict[str, Any]:
    """Return what the cost strip needs, by how a figure was obtained: counted, computed, estimated or measured."""
    full, pruned = record.full, record.pruned
    entering = list(pruned.visual_per_layer)
    leaving = [*entering[1:], entering[-1]]
    times = {
        name: {
            "encode": answer.timing.encode_ms,
            "prune": answer.timing.prune_ms,
            "prefill": answer.timing.prefill_ms,
            "decode": answer.timing.decode_ms_per_token,
        }
        for name, answer in (("full", full), ("pruned", pruned))
    }
    return {
        "counted": record.counts
        | {
            "kept_at_end": tokens_left(record),
            "mean_entering": mean_per_layer(entering),
            "mean_leaving": mean_per_layer(leaving),
            "total": record.layout.n_tokens,
            "text": pruned.text_tokens,
        },
        "computed": {"kv_full": record.full_cost.kv_bytes, "kv_pruned": record.pruned_cost.kv_bytes},
        "estimated": {
            "full": record.full_cost.prefill_flops,
            "pruned": record.pruned_cost.prefill_flops,
            "compensated": None if record.compensated is None else record.compensated.total_flops,
            "tower_full": record.full_cost.tower_flops,
            "tower_pruned": record.pruned_cost.tower_flops,
            "formula": record.full_cost.formula,
        },
        "measured": times,
        "reused": list(record.reused),
        "environment": record.environment,
    }


def headline(record: RunRecord, compared: RunComparison | None = None) -> str:
    """Return the finding as one sentence."""
    n, rows = record.layout.n_tokens, record.pruned.visual_per_layer
    if not record.steps and record.structure is None:
        return f"All {n} visual tokens kept: nothing to compare. Keep fewer visual tokens."
    tokens = f"{len(record.kept)} of {n} visual tokens" if record.steps else f"all {n} visual tokens"
    if rows[-1] > len(record.kept):
        tokens += " and [CLS]"
    if len(set(rows)) > 1:  # naming only what is left at the end would flatter methods that cut late
        average = mean_per_layer(list(rows))
        tokens = f"{average:.0f} of {n} visual tokens per layer on average, {tokens_left(record)} at the end"
    if record.structure is not None:
        tokens += f", {weights_words(record.structure)}"
    outcome = (compared or compare_run(record)).pruned.verdict
    if outcome is Verdict.SAME:
        return f"Answered the same with {tokens}."
    if outcome is Verdict.WORDING:
        return f"Worded differently with {tokens}."
    return f"The answer changes with {tokens}."


def tokens_left(record: RunRecord) -> str:
    """Return the visual tokens that enter the last layer, as text; a [CLS] token is counted apart."""
    kept = len(record.kept)
    return f"{kept} and [CLS]" if record.pruned.visual_per_layer[-1] > kept else str(kept)


def _full_stop(n: int) -> dict[str, Any]:
    everything = np.full(n, KEPT, np.uint8)
    return {
        "name": "picture", "title": "The full picture", "part": "picture", "layer": None, "rows": n or "–",
        "fate": _pack(everything), "score": None, "merged_into": None, "summary": "", "ms": None, "why": None,
    }  # fmt: skip


def _nearest_view(record: RunRecord) -> dict[str, str] | None:
    if record.nearest_kept is None or record.nearest_cosine is None:
        return None
    return {"token": _pack(record.nearest_kept.astype("<i4")), "cosine": _pack(record.nearest_cosine.astype("<f4"))}


def _stop(step: PruningStep) -> dict[str, Any]:
    s = step.selection
    return {
        "name": _short_name(step),
        "title": _title(step),
        "part": step.stage.part.value,
        "layer": step.stage.layer,
        "rows": s.n_rows,
        "fate": _pack(fates(s)),
        "score": None if s.scores is None else _pack(s.scores.astype("<f4")),
        "merged_into": _pack(s.merged_into.astype("<i4")) if len(s.merged) else None,
        "summary": step.summary,
        "ms": step.select_ms,
        "why": _reasons(step),
    }


def _reasons(step: PruningStep) -> dict[str, Any] | None:
    """Return the names of the reasons for which tokens were kept, and the number of each token's reason (255: none)."""
    if not step.why:
        return None
    reason = np.full(step.selection.n_total, 255, np.uint8)
    for number, ids in enumerate(step.why.values()):
        reason[ids] = number
    return {"names": list(step.why), "of": _pack(reason)}


def stop_titles(record: RunRecord) -> list[str]:
    """Return the titles of all stages, the full picture first."""
    return ["The full picture", *(_title(step) for step in record.steps)]


def _title(step: PruningStep) -> str:
    return f"{str(step.stage)[0].upper()}{str(step.stage)[1:]}"


def _short_name(step: PruningStep) -> str:
    if step.stage.part is Part.TOWER:
        return f"vision encoder layer {step.stage.layer}"
    if step.stage.part is Part.PROJECTOR:
        return "vision encoder output"
    return "before LLM" if step.stage.layer == 0 else f"layer {step.stage.layer}"


def _answer_view(answer: Answer, visual_tokens: str) -> dict[str, Any]:
    return {
        "words": _words_of(answer),
        "visual_tokens": visual_tokens,
        "stopped": answer.stopped,
    }


def _against(full: Answer, other: Answer, verdict: Verdict) -> dict[str, Any]:
    """Return how an answer differs from the full one."""
    return {
        "diff": [{"text": w.text, "fate": w.fate} for w in word_diff(full.text, other.text)],
        "verdict": verdict.value,
        "parts_at": first_difference(full.text, other.text),
    }


def _compensated_view(record: RunRecord, compared: RunComparison) -> dict[str, Any] | None:
    """Return the answer with a caption; in its diff, `again` marks words that its caption has too."""
    found = record.compensated
    if found is None:
        return None
    view = _answer_view(found.answer, tokens_left(record)) | _against(
        record.full, found.answer, compared.compensated.verdict
    )
    view["tokens"] = found.caption_tokens
    said = telling_words(found.caption)
    view["diff"] = [w | {"again": w["fate"] != "gone" and bool(telling_words(w["text"]) & said)} for w in view["diff"]]
    return view


def _words_of(answer: Answer) -> list[dict[str, Any]]:
    """Join text tokens to words; a word's log-probability is the sum of its tokens'. `tokens` are their indices."""
    words: list[dict[str, Any]] = []
    open_parts: list[int] = []  # parts of a character that a later text token completes
    for number, (text, log_prob) in enumerate(zip(answer.words, answer.log_probs, strict=True)):
        if not text:
            open_parts.append(number)
            continue
        earlier, open_parts = open_parts, []
        log_prob += sum(answer.log_probs[i] for i in earlier)
        if words and not text.startswith((" ", "\n")) and text.strip():
            words[-1]["text"] += text
            words[-1]["log_prob"] += log_prob
            words[-1]["tokens"] += [*earlier, number]
        elif text.strip():
            words.append({"text": text.strip(), "log_prob": log_prob, "tokens": [*earlier, number]})
    return words


def _pack(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
