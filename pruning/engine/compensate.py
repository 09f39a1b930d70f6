"""Answer a third time: with the same kept tokens, and a caption of what was dropped in the prompt.

The pruned run comes first and is not changed: its decisions are replayed, so the caption describes exactly what that
run dropped and no pruner can choose again because it now reads a caption. (Text behind the picture cannot reach a
visual token in a causal model, so the replayed rows are what a fresh pass would give.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruning.compensation import COMPENSATORS
from pruning.compensation.accm import Accm
from pruning.compensation.base import Candidate, Compensator, Discarded, Proposal, clean_caption, inserted_text
from pruning.compensation.objective import kl_to_full
from pruning.compensation.untrained import UntrainedCaptioner
from pruning.cost import break_even, prefill_flops
from pruning.engine.results import to_answer, to_cost, to_next_words, wait_for
from pruning.errors import CaptionRejectedError, CompensatorUnavailableError
from pruning.interface import Decision, Observation, Part, PromptText, Stage
from pruning.models.base import RunCallbacks, VisionFeatures, VLMAdapter
from pruning.models.prompt import Prompt
from pruning.records.answer import Answer
from pruning.records.compensation import CandidateEntry, Compensated, Compensation, NextWord
from pruning.records.run import RunRequest

if TYPE_CHECKING:
    from pruning.engine.session import Session

BY_HAND = "written by hand"
PICTURE_MARK = "[picture]"  # for all the placeholders in a prompt that is shown


def open_compensator(
    key: str, adapter: VLMAdapter, source: Path | str | None = None, *, allow_download: bool = False
) -> Compensator:
    """A compensator of `COMPENSATORS`, ready for a loaded model.

    Args:
        source: `accm`: its folder, by default the one in `assets`. `accm_untrained`: hub id or folder of a captioner.

    Raises:
        CaptionRejectedError: for a key that is not in the table.
        CompensatorUnavailableError: if its weights are missing, or made for another model.
    """
    if key not in COMPENSATORS:
        raise CaptionRejectedError(f"There is no compensation {key!r}.", f"Known ones: {', '.join(COMPENSATORS)}.")
    if key == Accm.key:
        return Accm.open(adapter, None if source is None else Path(source))
    if not source:
        raise CompensatorUnavailableError(
            f"{COMPENSATORS[key].title} needs a captioning model.", "Name one by hub id or folder (--captioner)."
        )
    from pruning.models.captioners import load_captioner  # transformers' generic classes are slow to import

    captioner = load_captioner(str(source), adapter.device, allow_download=allow_download)
    return UntrainedCaptioner(captioner, captioner.name, adapter.tokenizer.all_special_tokens)


class Replay:
    """A decider that answers every stage as an earlier run of the same picture did."""

    def __init__(self, session: Session) -> None:
        self.stages: Sequence[Stage] = session.stages
        self.observations: Sequence[Observation] = ()
        self._decisions, self.positions_at, self.evicts = session.decisions, session.positions_at, session.evicts

    def decide(
        self,
        stage: Stage,
        features: torch.Tensor,
        ids: torch.Tensor,
        observations: Mapping[Observation, torch.Tensor],
        *,
        text: PromptText | None = None,
    ) -> Decision:
        del features, ids, observations, text
        return self._decisions[stage]


def what_was_discarded(
    session: Session, prompt: Prompt, encoded: VisionFeatures, question: str, picture: np.ndarray
) -> Discarded:
    """The complement of the run's kept set; `seen` is the full picture."""
    kept = _kept(session, prompt)
    ids = np.setdiff1d(np.arange(prompt.layout.n_tokens), kept)
    features = encoded.features[torch.from_numpy(ids).to(encoded.features.device)]
    return Discarded(features, ids, kept, question, picture, prompt.layout)


def check_pictures(compensation: Compensation | None, n_pictures: int) -> None:
    """That the pictures of a run can be put into words as asked.

    Raises:
        CaptionRejectedError: if a captioner would have to describe several.
    """
    if n_pictures > 1 and compensation is not None and compensation.caption is None:
        raise CaptionRejectedError(
            f"Captioners describe what was discarded of one picture; this run has {n_pictures}.",
            "Write the caption yourself, or bring one picture.",
        )


def compensate(
    request: RunRequest,
    adapter: VLMAdapter,
    compensator: Compensator | None,
    picture: np.ndarray,
    prompt: Prompt,
    full: VisionFeatures,
    used: VisionFeatures,
    session: Session,
    pruned: Answer,
    full_ids: Sequence[int],
    callbacks: RunCallbacks,
    plain: tuple[VLMAdapter, VisionFeatures],
) -> Compensated:
    """Propose, choose, insert, answer.

    Args:
        full, used: the tower's pass over the full picture, and the one of the pruned run (another one where the
            method prunes in the tower).
        full_ids: token ids of the unpruned answer.
        plain: the model with all its weights and its own pass over the full picture, from whose answer KL is measured;
            another one than `adapter` where a structural plan acts.

    Raises:
        PruningError: with a sentence for the person.
    """
    wanted = request.compensation
    if wanted is None:
        raise ValueError("this run asks for no compensation")
    began = time.perf_counter()
    proposal, title = _propose(wanted, adapter, compensator, session, prompt, full, request.question, picture)
    wait_for(adapter.device)
    propose_ms = 1e3 * (time.perf_counter() - began)
    caption, why = _what_to_insert(wanted, proposal)
    captioned = adapter.insert(prompt, inserted_text(caption))
    replay = Replay(session) if session.stages else None
    rows = adapter.project(used, replay)
    callbacks = replace(callbacks, trace=callbacks.trace or wanted.measure_kl)
    out = adapter.answer(captioned, rows, replay, request.max_new_tokens, callbacks)
    # A method that prunes in the tower needs a second pass of the full picture, if the captioner reads its features.
    reads = wanted.caption is None and compensator is not None and compensator.reads_features
    twice = any(s.part is Part.TOWER for s in session.stages) and reads
    tower = [*used.tokens_per_layer, *(full.tokens_per_layer if twice else ())]
    timing = pruned.timing
    answer = to_answer(out, timing.encode_ms, timing.prune_ms, out.prefill_ms)
    n_caption = captioned.input_ids.shape[1] - prompt.input_ids.shape[1]
    info, plain_text = adapter.info, out.text_tokens - n_caption
    sizes = info.text_dim, info.text_ffn_dim, info.kv_dim
    extra: float = prefill_flops(out.visual_per_layer, out.text_tokens, *sizes)
    extra -= prefill_flops(out.visual_per_layer, plain_text, *sizes)
    extra += proposal.captioner_flops + proposal.selector_flops
    kl: list[float | None] = [None] * len(proposal.candidates)
    kl_pruned: float | None = None
    next_words: tuple[NextWord, ...] = ()
    if wanted.measure_kl and full_ids:
        truth = plain[0].score(prompt, plain[0].project(plain[1], None), None, full_ids)
        said = {
            text: adapter.score(adapter.insert(prompt, inserted_text(text)), rows, replay, full_ids)
            for text in {"", caption, *(c.text for c in proposal.candidates)}
        }
        kl = [float(kl_to_full(truth, said[c.text])) for c in proposal.candidates]
        kl_pruned = float(kl_to_full(truth, said[""]))
        next_words = to_next_words(adapter.tokenizer, full_ids, truth, said[""], said[caption])
    before, behind = _around(adapter.tokenizer, prompt, captioned)
    return Compensated(
        title=title,
        candidates=tuple(
            CandidateEntry(c.text, c.log_prob, c.length, c.probability, k)
            for c, k in zip(proposal.candidates, kl, strict=True)
        ),
        chosen=proposal.chosen,
        caption=caption,
        inserted=inserted_text(caption),
        span=captioned.inserted,
        before=before,
        behind=behind,
        n_discarded=prompt.layout.n_tokens - len(_kept(session, prompt)),
        caption_tokens=n_caption,
        captioner_flops=proposal.captioner_flops,
        selector_flops=proposal.selector_flops,
        break_even=break_even(info, out.visual_per_layer, plain_text, extra),
        propose_ms=propose_ms,
        answer=answer,
        cost=to_cost(adapter, out, tower),
        kl_pruned=kl_pruned,
        next_words=next_words,
        layer_attention=_rounded(out.prompt_attention) if wanted.measure_kl else (),
        provenance=proposal.provenance | why,
    )


def _rounded(shares: torch.Tensor | None) -> tuple[tuple[float, float, float], ...]:
    """Shares `[layers, 3]` as numbers; what rounding leaves below zero is none. Empty where nothing was recorded."""
    rows = [] if shares is None else shares.tolist()
    return tuple((_share(a), _share(b), _share(c)) for a, b, c in rows)


def _share(value: float) -> float:
    return round(max(0.0, value), 5)


def _kept(session: Session, prompt: Prompt) -> np.ndarray:
    return session.steps[-1].selection.kept if session.steps else np.arange(prompt.layout.n_tokens)


def _propose(
    wanted: Compensation, adapter: VLMAdapter, compensator: Compensator | None, session: Session, prompt: Prompt,
    full: VisionFeatures, question: str, picture: np.ndarray,
) -> tuple[Proposal, str]:  # fmt: skip
    if wanted.caption is not None:
        text = clean_caption(wanted.caption, adapter.tokenizer.all_special_tokens)
        return Proposal((Candidate(text, None, 0, 1.0),), 0, provenance={"chosen_by": BY_HAND}), BY_HAND.capitalize()
    if compensator is None or compensator.key != wanted.key:
        raise CompensatorUnavailableError(
            f"The run asks for {wanted.key!r}, and no such compensator was opened for this model.",
            "Open it with pruning.engine.compensate.open_compensator, or write a caption by hand.",
        )
    proposal = compensator(what_was_discarded(session, prompt, full, question, picture))
    named = {"captioner": compensator.source} if compensator.source else {}
    return replace(proposal, provenance=proposal.provenance | named), compensator.title


def _what_to_insert(wanted: Compensation, proposal: Proposal) -> tuple[str, dict[str, str]]:
    """The caption, or nothing, with the reason."""
    if proposal.chosen is None:
        return "", {}
    best = proposal.candidates[proposal.chosen]
    if not best.text:
        return "", {"why": "the chosen caption is empty"}
    if wanted.caption is None and best.probability <= wanted.gate:
        return "", {"why": f"probability {best.probability:.2f} is not above the gate {wanted.gate:g}"}
    return best.text, {}


def _around(tokenizer: Any, prompt: Prompt, captioned: Prompt) -> tuple[str, str]:
    """The prompt's text before and behind the place of the insertion, the picture as one mark."""
    places = prompt.visual.nonzero()
    first, last = int(places[0]), int(places[-1])
    at = captioned.inserted[0] if captioned.inserted else last + 1
    ids = prompt.input_ids[0].tolist()
    between = tokenizer.decode(ids[last + 1 : at]) if at > last + 1 else ""
    return f"{tokenizer.decode(ids[:first])} {PICTURE_MARK}{between}", tokenizer.decode(ids[at:])
