"""The card beside the weights: what the model is, what it is not, how it was made, what it reached."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from pruning.demo_model.evaluation.evaluate import PROBED, importance_table, table

TEMPLATE = """# The bundled model

A small LLaVA that answers questions about drawn scenes, in the class LLaVA-1.5 uses (`LlavaForConditionalGeneration`),
so that every line of PruneScope's engine runs on it as it runs on the large ones, on a CPU and without a network.

**What it is not.** It knows drawn scenes and nothing else: eight shapes, ten colours, three sizes, digits, one to nine
objects, and {words} words. On a photograph or with other words its answers are guesses; the page says so.

## Shape

{parameters:.2f} M parameters: a CLIP vision tower (6 layers, width 192, 6 heads, 192-pixel pictures in patches of 8:
24 x 24 = 576 visual tokens, [CLS]), of which the second-to-last hidden state feeds a two-layer projector, and a Llama
language model (8 layers, width 192, 6 heads). Weights in float16, {megabytes:.1f} MB.

sha256 of `model.safetensors`: `{digest}`

## Training

Data: scenes drawn by `pruning/demo_model/world/scene.py`, questions by `questions.py`; training and evaluation seeds
belong to different splits. No other data, no other weights. Command: `python -m pruning.demo_model train` (recipe and
seeds: `training.json`).

{training}

## What it reached

On scenes that it was never trained on (split `evaluate`, seeds from 0); exact match in percent, ± one standard error.
*Blind* asks the same questions about another scene's picture; *shuffled* shows all visual tokens of the right one, in a
random order with new positions.

- By kind: {scenes} scenes, one question of every kind, all in one pass through the unpruned model; an answer is right
  when each of its tokens is the most likely one, which is when greedy decoding writes it.
- `describe`: {described} scenes, through the engine; judged by the objects named (size, colour, shape, digit).
- Pruned: one random question about each of {pruned} scenes through the engine, greedy decoding; in brackets the share
  of the evidence tokens that is left at the end, in percent. Of random tokens: the mean of three draws, with the lowest
  and the highest. Keep ratios are each method's own: what cuts inside the language model sees all tokens in its first
  layers, and for some (ViTCoP, VScan, SparseVLM, V2Drop) the count is a mean over the layers or near it; the figures
  file has the mean for each. Why some stand below random is told in docs/results_log.md.

{table}

## Two signs of importance

ViTCoP's cuts inside the language model keep tokens whose keys have a small norm; FastV keeps tokens that the last word
attends to. In this model, layer by layer, on questions about one object in {probed} scenes: the rank correlation of
the two (+1: small norms are looked at, as ViTCoP counts on; 0: unrelated), and the mean place of the evidence tokens
among all by either sign, in percent (100: they come first, 50: chance, 0: they come last).

{importance}

Where the place by norm is below 50, cutting by key norms removes the evidence sooner than chance would; that, and not a
mistake in the method's code (which agrees with the published selections in `tests/golden`), is why ViTCoP ends with so
little evidence here. It was proposed for language models a thousand times larger, and says nothing about them.

Measured with torch {torch}, transformers {transformers}, Python {python}, on {date}.
"""


def write_card(folder: Path, results: dict) -> None:
    """Write the card from the folder's own facts and the figures of `evaluate`."""
    training = json.loads((folder / "training.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    size = (folder / "model.safetensors").stat().st_size
    card = TEMPLATE.format(
        words=len(tokenizer["model"]["vocab"]),
        parameters=size / 2e6,
        megabytes=size / 1e6,
        digest=results["weights"],
        training=_training(training),
        scenes=results["scenes"],
        described=results["described_scenes"],
        pruned=results["pruned_scenes"],
        table=table(results),
        probed=min(PROBED, results["scenes"]),
        importance=importance_table(results),
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _training(facts: dict) -> str:
    recipe, phases = facts["recipe"], facts["phases"]
    windows = f"{recipe['window_steps']} steps, windows around all objects of {recipe['window_scenes']} scenes each"
    scenes = f"{recipe['scene_steps']} steps of {recipe['scene_batch']} whole scenes, dense labels and [CLS] labels"
    language = (
        f"{recipe['language_steps']} steps of {recipe['language_batch']} scenes with about ten questions each, on "
        f"{recipe['cached_scenes']} scenes encoded once by the frozen tower"
    )
    counting = (
        f"{recipe['counting_steps']} steps of {recipe['counting_batch']} scenes, three in five asking for numbers, on "
        f"{recipe['counted_scenes']} scenes; only the language model learns, from its second layer on"
    )
    rows = [("windows", windows), ("scenes", scenes), ("language", language), ("counting", counting)]
    lines = ["| phase | what | minutes |", "| --- | --- | --- |"]
    lines += [f"| {name} | {what} | {phases[name]} |" for name, what in rows]
    lines += [f"\nChanged on the way: {change}." for change in facts["changes_on_the_way"]]
    lines += ["", f"Hardware: {facts['machine']}, shared with other work; torch {facts['torch']}."]
    return "\n".join(lines)
