"""JSON view of a compensation: candidate captions, the prompt with its insertion, cost, sentences.

Plain data, as in `viz.page.run`. Everything a captioner or a person wrote is text and never markup.
"""

from __future__ import annotations

from typing import Any

from pruning.metrics.agreement import RunComparison, compare_run, content, telling_words
from pruning.records.compensation import CandidateEntry, Compensated, NextWord
from pruning.records.run import RunRecord

CANDIDATES_HOW = (
    "log-probability: natural logarithm of the probability that the captioner gives to these words and their end; "
    "beside it the mean over the tokens, by which beams are ranked. Selector: its probability for each candidate, "
    "which add up to 1; equal captions get equal ones."
)
KL_HOW = (
    "KL: how far the answer with this caption is from the full one, in nats: Kullback-Leibler divergence of the "
    "next word's distribution, mean over the words of the full answer; 0 would be no difference. The smallest is "
    "marked closest, the largest farthest. It needs the full answer, so no deployed system can choose by it."
)
WORDS_HOW = (
    "Next words: a row is one likely token at the chosen place of the full answer, whose words before it are given "
    "to all three runs; its bars are probabilities. The KL above them is for that place alone."
)
ATTENTION_HOW = (
    "Attention: what the prompt's last token, which produces the first word of the answer, attends to in the run with "
    "the caption; softmax weights, mean over the heads of a layer. Picture, caption and all other text add up to 1. "
    "Attending is not the same as using."
)
PRICE_HOW = (
    "Estimated multiply-adds: the caption's tokens in every layer of the language model, captioner and selector, "
    "beside the pruned prompt without them. “Visual tokens”: how many more of them in every layer would cost the same."
)
GATE_HOW = "The confidence gate is an extension of this tool, not part of the paper."
AGAIN_HOW = "Dotted: a content word (no articles, no function words) that caption and answer share."


def compensation_view(record: RunRecord, compared: RunComparison | None = None) -> dict[str, Any] | None:
    """Return what the compensation panel needs; None without compensation. `compared` as in `viz.page.run`."""
    found = record.compensated
    if found is None:
        return None
    by_hand = record.request.compensation is not None and record.request.compensation.caption is not None
    marks = _kl_marks(found.candidates)
    again = telling_words(found.answer.text)
    how = [] if by_hand else [CANDIDATES_HOW]
    how += [KL_HOW, WORDS_HOW, ATTENTION_HOW] if found.kl_pruned is not None else []
    return {
        "title": found.title,
        "by_hand": by_hand,
        "candidates": [
            {
                "words": marked_words(c.text, again if found.caption and i == found.chosen else frozenset()),
                "text": c.text,
                "log_prob": c.log_prob,
                "mean": c.log_prob / c.length if c.log_prob is not None and c.length else None,
                "probability": None if by_hand else c.probability,
                "kl": c.kl,
                "mark": marks[i],
                "chosen": i == found.chosen,
            }
            for i, c in enumerate(found.candidates)
        ],
        "inserted": bool(found.caption),
        "kl_pruned": found.kl_pruned,
        "prompt": {"before": found.before, "inserted": found.inserted, "behind": found.behind},
        "caption": found.caption or (found.candidates[found.chosen].text if found.chosen is not None else ""),
        "sentences": sentences(record, found, compared),
        "price": price_view(record, found),
        "next_words": [next_word_view(w) for w in found.next_words],
        "attention": observed_view(found),
        "how": [*how, PRICE_HOW, AGAIN_HOW, GATE_HOW],
    }


def price_view(record: RunRecord, found: Compensated) -> dict[str, Any]:
    """Return the caption's estimated cost: `parts` of the prefill in multiply-adds beside the `full` one, and as a
    sentence; the vision tower's, of the full answer and of this one, apart.
    """
    side = found.captioner_flops + found.selector_flops
    plain = record.pruned_cost.prefill_flops
    return {
        "full": record.full_cost.prefill_flops,
        "parts": [
            ["pruned prompt", plain],
            ["caption's tokens", found.cost.prefill_flops - plain],
            ["captioner", found.captioner_flops],
            ["selector", found.selector_flops],
        ],
        "text": price(found) if found.caption_tokens or side else "",
        "tokens": found.caption_tokens,
        "tower": [record.full_cost.tower_flops, found.cost.tower_flops],
        "ms": found.propose_ms,
    }


def next_word_view(found: NextWord) -> dict[str, Any]:
    """Return probabilities at one place of the full answer: `rows` of [token, full, pruned, with caption]."""
    rows = zip(found.words, found.full, found.pruned, found.compensated, strict=True)
    return {
        "word": visible(found.word),
        "rows": [[visible(word), *shares] for word, *shares in rows],
        "kl": [found.kl_pruned, found.kl_compensated],
    }


def observed_view(found: Compensated) -> dict[str, Any] | None:
    """Return, per layer, the attention of the prompt's last token to picture, caption and other text; None where it was
    not recorded or nothing was inserted.
    """
    if not found.layer_attention or not found.caption:
        return None
    picture, caption, other = (list(column) for column in zip(*found.layer_attention, strict=True))
    return {"picture": picture, "caption": caption, "other": other, "tokens": found.caption_tokens,
            "rows": list(found.answer.visual_per_layer)}  # fmt: skip


def visible(token: str) -> str:
    """Return a token's text, or a placeholder for white space."""
    return token.strip() or "(blank)"


def price(found: Compensated) -> str:
    """Return the break-even cost as a sentence."""
    what = "This caption costs" if found.caption else "Asking for a caption that is not inserted costs"
    n = found.break_even
    many = f"{n:.0f} visual token{'' if round(n) == 1 else 's'}" if n >= 1 else "less than one visual token"
    return f"{what} as much as {many} (estimated)."


def sentences(record: RunRecord, found: Compensated, compared: RunComparison | None = None) -> list[str]:
    """Return sentences on what was done with the caption, and how it changed the answer."""
    said = [why] if (why := _why_not(record, found)) else []
    texts = {c.text for c in found.candidates}
    if len(found.candidates) > 1 and len(texts) == 1:
        said.append(
            f"All {len(found.candidates)} candidates are the same, so there is nothing to choose; the first is taken."
        )
    if not found.caption:
        return said
    requested = record.request.compensation.caption if record.request.compensation else None
    if requested is not None and content(requested) != content(found.caption):
        said.append("Role names, picture placeholders and control marks were taken out of the caption first.")
    said.append(_outcome(compared or compare_run(record)))
    full, pruned, compensated = (telling_words(a.text) for a in (record.full, record.pruned, found.answer))
    back = (telling_words(found.caption) & full & compensated) - pruned
    if back:
        said.append(f"Brought back by the caption: {', '.join(sorted(back))}.")
    return said


def marked_words(text: str, shared: frozenset[str]) -> list[dict[str, Any]]:
    """Return the words of a text; `again` marks content words that are among `shared`."""
    return [{"text": w, "again": bool(telling_words(w) & shared)} for w in text.split()]


def _why_not(record: RunRecord, found: Compensated) -> str:
    if found.caption:
        return ""
    if not found.candidates:
        return "Nothing was dropped, so there is nothing to caption. Keep fewer visual tokens."
    chosen = found.candidates[found.chosen or 0]
    if not chosen.text:
        return "The caption is empty, so nothing was inserted: the answer is that of the pruned picture."
    gate = record.request.compensation.gate if record.request.compensation else 0.0
    return (
        f"Rejected by the confidence gate: the selector gives the best caption {chosen.probability:.2f}, "
        f"and the gate asks for more than {gate:.2f}. Nothing was inserted."
    )


def _outcome(compared: RunComparison) -> str:
    """Return what the caption changed, without a claim about which answer is correct."""
    without, with_it = compared.pruned.agrees, compared.compensated.agrees
    if with_it and not without:
        return (
            "The caption compensates: with it the answer agrees with that of the full picture, without it it does not."
        )
    if without and not with_it:
        return "The caption does harm: without it the answer agrees with that of the full picture, with it it does not."
    if with_it:
        return "The caption was not needed: the answer agrees with that of the full picture without it too."
    return "The caption does not compensate: the answer still differs from that of the full picture."


def _kl_marks(candidates: tuple[CandidateEntry, ...]) -> list[str]:
    values = [c.kl for c in candidates if c.kl is not None]
    if len(set(values)) < 2:
        return [""] * len(candidates)
    names = {min(values): "closest", max(values): "farthest"}
    return [names.get(c.kl, "") for c in candidates]
