"""Second stage of ACCM's training: captioner and selector learn from the frozen model which caption helps it.

For every question three captions are searched, the frozen model says how far each brings the pruned answer from the
unpruned one, and one of the two objectives of `compensation.objective` does the rest. The mapper stays frozen, as in
the authors' code. Lessons and dropout follow from the number of the step, so a stopped run goes on exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pruning.compensation.accm import BEAMS, selector_text
from pruning.compensation.base import clean_caption
from pruning.compensation.beam import beam_search, pad_left
from pruning.compensation.captioner import Captioner
from pruning.compensation.objective import losses
from pruning.compensation.selector import Selector
from pruning.demo_model.accm.lessons import Lesson
from pruning.demo_model.training.optim import Trainer

CAPTIONER_RATE = 0.05  # of the selector's; [code] 1e-6 against 2e-5


def tune(
    captioner: Captioner,
    selector: Selector,
    tokenizer: Any,
    read_text: Callable[[list[str]], tuple[torch.Tensor, int]],
    lessons: Callable[[int], Lesson],
    objective: str,
    steps: int,
    per_step: int,
    rate: float,
    folder: Path,
) -> None:
    """Run the phase `tune-<objective>` to its end, or go on with it. `per_step` lessons make one step."""
    before = copy.deepcopy(captioner).requires_grad_(False).eval()  # the warm-started captioner
    captioner.mapper.requires_grad_(False)
    modules = {"captioner": captioner, "selector": selector}
    trainer = Trainer(f"tune-{objective}", modules, steps, rate, folder, slower={"captioner": CAPTIONER_RATE})
    if trainer.done:
        return
    sums: dict[str, float] = {}
    for number in trainer.loop():
        torch.manual_seed(number)  # dropout of the selector
        captioner.eval()
        selector.train()
        found = [
            _one(captioner, before, selector, tokenizer, read_text, lessons(number * per_step + i), objective)
            for i in range(per_step)
        ]
        loss = sum(f[0] for f in found) / per_step
        if loss.requires_grad and bool(torch.isfinite(loss)):
            trainer.step(loss, number)
        for _, figures in found:
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value
        if trainer.time_to_log(number):
            n = sums.pop("samples")
            trainer.log(number, samples=int(n), **{k: round(v / n, 4) for k, v in sums.items()})
            sums = {}
    captioner.mapper.requires_grad_(True)
    selector.eval()


def _one(
    captioner, before, selector, tokenizer, read_text, lesson: Lesson, objective: str
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one lesson, and its figures summed over its questions."""
    end = tokenizer.eos_token_id
    plain = {"add_special_tokens": False}
    device = captioner.prefix.device
    asked = [tokenizer(q, **plain)["input_ids"] for q in lesson.questions]
    question, n_pad = pad_left(asked, tokenizer.pad_token_id or 0, device)
    memory = captioner.look(lesson.features[None].to(device))
    beams = beam_search(captioner, memory, question, n_pad, end, BEAMS)
    rows = range(len(asked))
    control = tokenizer.all_special_tokens
    texts = [[clean_caption(tokenizer.decode(beams.ids(r, j, end)), control) for j in range(BEAMS)] for r in rows]
    divergence = lesson.divergences([[*t, ""] for t in texts]).to(device)
    divergence, without = divergence[:, :BEAMS], divergence[:, BEAMS]
    spoken = _log_probs(captioner, memory, question, n_pad, beams)
    with torch.no_grad():
        reference = _log_probs(before, before.look(lesson.features[None].to(device)), question, n_pad, beams)
    vectors, _ = read_text([selector_text(q, t) for q, mine in zip(lesson.questions, texts, strict=True) for t in mine])
    means = beams.log_probs / beams.lengths
    log_pi = selector(vectors.clone().to(device).unflatten(0, (-1, BEAMS)), means)
    caption, chosen, weight = losses(objective, divergence, spoken, reference, beams.lengths, log_pi)
    pick = log_pi.argmax(-1, keepdim=True)
    n = len(asked)
    figures = {
        "samples": n,
        "weight": n * float(weight),
        "loss_captioner": n * float(caption.detach()),
        "loss_selector": n * float(chosen.detach()),
        "selector_is_best": float((divergence.gather(1, pick) <= divergence.amin(1, keepdim=True)).sum()),
        "first_is_best": float((divergence[:, 0] <= divergence.amin(1)).sum()),
        "kl_without": float(without.sum()),
        "kl_first": float(divergence[:, 0].sum()),
        "kl_chosen": float(divergence.gather(1, pick).sum()),
        "kl_best": float(divergence.amin(1).sum()),
    }
    return caption + chosen, figures


def _log_probs(captioner: Captioner, memory, question: torch.Tensor, n_pad: torch.Tensor, beams) -> torch.Tensor:
    """Log-probability of every beam as a whole, `[rows, beams]`."""
    n, width, length = beams.tokens.shape
    tokens = beams.tokens.flatten(0, 1)
    logits = captioner(
        memory, question.repeat_interleave(width, 0), n_pad.repeat_interleave(width, 0), tokens[:, : length - 1]
    )
    each = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    real = torch.arange(length, device=tokens.device) < beams.lengths.flatten()[:, None]
    return (each * real).sum(-1).unflatten(0, (n, width))
