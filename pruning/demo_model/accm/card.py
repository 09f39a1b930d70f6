"""Write the model card of the captioner: what it is, how it was made, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.checkpoints import WEIGHTS
from pruning.compensation.accm import BEAMS
from pruning.compensation.captioner import captioner_flops
from pruning.compensation.checkpoint import Parts
from pruning.compensation.selector import selector_flops
from pruning.cost import layer_flops, prefill_flops
from pruning.demo_model.training.architecture import COLS, ROWS
from pruning.interface import ModelInfo

N_QUESTION, N_CAPTION, N_PROMPT, KEPT = 9, 14, 40, 36  # an ordinary case, for the card's account of costs

TEMPLATE = """# Captioner and selector of ACCM

Made by this project for the model with the tower and language model named in `config.json`; it refuses any other.
Method: ACCM (arXiv 2508.01236), written from the paper and from reading the authors' code; nothing was copied.

**What it is not.** Not the paper's captioner (ClipCap with GPT-2) and not its text encoder (Long-CLIP): both know words
that the bundled model does not, and cost more than it. It says true or false things about drawn scenes, nothing else.

## Shape

Captioner: {captioner:.2f} M parameters (width {width}, {layers} layers, {heads} heads, {prefix} prefix rows). It reads
`[question ; prefix ; caption]`; prefix and caption look at the discarded tokens, which carry no added position, so one
captioner serves every budget. Candidates: {beams} beams, all of them. Selector: {selector}.

{megabytes:.1f} MB in float32. sha256 of `{weights}`: `{digest}`

## What it costs

An ordinary case: {kept} of {tokens} tokens kept, {n_question} words of question, a caption of {n_caption}.

| part | million multiply-adds |
| --- | --- |
| captioner | {cost_captioner:.0f} ({share:.1%} of the unpruned prefill) |
| selector with its text encoder | {cost_selector:.0f} |
| language model, unpruned prompt | {cost_full:.0f} |
| language model, pruned prompt | {cost_pruned:.0f} |
| language model, pruned prompt with the caption | {cost_compensated:.0f} |

## Training

`python -m pruning train-accm`. First stage: true descriptions by the scene generator of what was discarded, for
discarded sets that are drawn (random, grids, whole objects, complements of a few tokens), never a pruner's. Second
stage: no labels and no descriptions, only the frozen model's own answers; objective: {objective} (`dpo` is the paper's,
with beta and reference inferred; `bestof` that of the authors' released code). All logged figures: `curves.json`.

| stage | steps | minutes | last figures |
| --- | --- | --- | --- |
{stages}

Hardware: {machine}; torch {torch}.

In the second stage `selector_is_best` is how often the selector picks the candidate with the least KL divergence to
the unpruned answer, `first_is_best` how often that is the best beam; `kl_*` are mean divergences in nats: without a
caption, of the best beam, of the chosen one, and of the best of three.
"""


def write_card(folder: Path, parts: Parts, digest: str, info: ModelInfo, curves: list[dict[str, Any]]) -> None:
    """Write README.md beside the weights."""
    shape, n_tokens = parts.captioner.shape, ROWS * COLS
    sizes = (info.text_dim, info.text_ffn_dim, info.kv_dim)
    cost = captioner_flops(shape, n_tokens - KEPT, N_QUESTION, N_CAPTION, BEAMS)
    chooser, chooser_cost = "none yet (the best beam is taken)", 0
    if parts.selector is not None:
        s = parts.selector.shape
        chooser = (
            f"{_millions(parts.selector):.2f} M parameters (width {s.width}, {s.layers} layers), on vectors of the\n"
            "language model's frozen first layer"
        )
        read = BEAMS * layer_flops(N_QUESTION + 3 + N_CAPTION, *sizes)
        chooser_cost = read + selector_flops(s, BEAMS)
    full = prefill_flops([n_tokens] * info.text_layers, N_PROMPT, *sizes)
    pruned, compensated = (prefill_flops([KEPT] * info.text_layers, N_PROMPT + n, *sizes) for n in (0, N_CAPTION + 4))
    recipe, minutes = parts.facts["recipe"], parts.facts["minutes"]
    objective = f"`{recipe['objective']}`" if parts.selector else "not run"
    rows = []
    for stage in parts.facts["stages"]:
        lines = [line for line in curves if line["phase"] == stage]
        last = {k: v for k, v in lines[-1].items() if k not in ("phase", "step", "of", "minutes_left")} if lines else {}
        steps = recipe["warm_steps"] if stage == "captions" else recipe["steps"]
        rows.append(f"| {stage} | {steps} | {minutes[stage]} | {', '.join(f'{k} {v}' for k, v in last.items())} |")
    text = TEMPLATE.format(
        captioner=_millions(parts.captioner), width=shape.width, layers=shape.layers, heads=shape.heads,
        prefix=shape.prefix, beams=BEAMS, selector=chooser, weights=WEIGHTS, digest=digest, kept=KEPT, tokens=n_tokens,
        megabytes=(folder / WEIGHTS).stat().st_size / 1e6, n_question=N_QUESTION, n_caption=N_CAPTION,
        cost_captioner=cost / 1e6, cost_selector=chooser_cost / 1e6, cost_full=full / 1e6, share=cost / full,
        cost_pruned=pruned / 1e6, cost_compensated=compensated / 1e6, objective=objective,
        stages="\n".join(rows), machine=parts.facts["machine"], torch=parts.facts["torch"],
    )  # fmt: skip
    (folder / "README.md").write_text(text, encoding="utf-8")


def _millions(module: Any) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6
