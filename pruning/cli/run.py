"""`python -m pruning run`: one question, answered with all visual tokens and with the pruned ones."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from pruning.budget import check_count
from pruning.cli import compensation as compensation_cli
from pruning.cli.options import settings, written
from pruning.errors import ParameterError
from pruning.inputs.content import VisualInput
from pruning.methods.imported import Imported
from pruning.methods.published_budgets import layers_in_words
from pruning.records.decisions import read_decision
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord, RunRequest, kept_by_picture


def run_once(arguments: argparse.Namespace) -> int:
    from pruning.engine.run import run
    from pruning.engine.session import Compressed, RunContext
    from pruning.models import load
    from pruning.models.base import RunCallbacks

    decided = read_decision(arguments.kept) if arguments.kept else {}
    plan = StructuralPlan.load(arguments.plan) if arguments.plan else None
    request = RunRequest(
        model=arguments.model,
        method=Imported.key if arguments.kept else arguments.method,
        keep_ratio=arguments.keep_ratio,
        question=arguments.question,
        parameters=settings(arguments.set) | decided,
        positions=arguments.positions,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        compensation=compensation_cli.compensation_of(arguments),
    )
    visual_input = _visual_input(arguments)
    adapter = load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, allow_download=arguments.allow_download
    )
    if arguments.budget is not None:
        n = adapter.prompt(visual_input, request.question).layout.n_tokens
        request = replace(request, keep_ratio=check_count(arguments.budget, n) / n)
    compressed = Compressed(plan, adapter.compressed(plan)) if plan else None
    compensator = compensation_cli.compensator_of(arguments, request, adapter)
    callbacks = RunCallbacks(trace=arguments.trace or arguments.diagnostics)
    context = RunContext(callbacks, compressed=compressed, compensator=compensator)
    record = run(request, adapter, visual_input, context)
    if arguments.diagnostics:
        from pruning.engine.overlap import with_overlaps
        from pruning.metrics.diagnostics import diagnose, told

        record = with_overlaps(record, compressed.view if compressed else adapter, visual_input)
    saved = written(arguments.out, record.save) if arguments.out else None
    if arguments.json:
        more = {"diagnostics": diagnose(record).figures()} if arguments.diagnostics else {}
        print(json.dumps(record.to_parts()[0] | more, ensure_ascii=False))
    else:
        _print_record(record, saved)
        if arguments.diagnostics:
            print(*told(record), sep="\n")
    return 0


def _visual_input(arguments: argparse.Namespace) -> VisualInput:
    from pruning.inputs.images import read_image
    from pruning.inputs.video import read_video

    if arguments.video:
        if arguments.images:
            raise ParameterError("--image and --video came together.", "Show pictures or a video.")
        return read_video(arguments.video, arguments.frames, arguments.fps)
    return [read_image(path) for path in arguments.images or [arguments.image]]


def _print_record(record: RunRecord, saved_at: Path | None) -> None:
    n = record.layout.n_tokens
    if record.structure:
        s = record.structure
        heads = ", ".join(f"{kept} of {total} heads in the {part}" for part, (kept, total) in s.heads.items())
        print(f"{s.title}: {heads}, {s.factorised} of {s.matrices} feed-forward matrices compressed ({s.digest[:12]})")
    saved = 1 - record.pruned_cost.prefill_flops / record.full_cost.prefill_flops
    told = "requested {requested}, passed on {kept} rows of {distinct} distinct tokens, mean over layers {average:.1f}"
    print(f"{record.method_title} ({record.variant}), positions {record.positions}")
    for step in record.steps:
        rows = step.selection.n_rows
        print(
            f"  {step.stage}: {len(step.selection.alive)} -> {rows} tokens in {step.select_ms:.1f} ms; {step.summary}"
        )
    for name, kept, of in kept_by_picture(record):
        print(f"  {name}: {kept} of {of} tokens kept")
    print(f"  full   ({n}): {record.full.text}")
    print(f"  pruned ({record.pruned.visual_per_layer[-1]}): {record.pruned.text}")
    if record.compensated:
        compensation_cli.print_compensated(record.compensated)
    print(f"  {told.format(**record.counts)} of {n}: {layers_in_words(record.pruned.visual_per_layer)}")
    print(f"  prefill {saved:.0%} fewer multiply-adds (estimated)")
    if record.structure:
        tower = 1 - record.pruned_cost.tower_flops / record.full_cost.tower_flops
        print(f"  vision tower {tower:.0%} fewer multiply-adds (estimated)")
    times = record.full.timing.prefill_ms, record.pruned.timing.prefill_ms, record.pruned.timing.prune_ms
    print(
        "  read {:.0f} -> {:.0f} ms, pruning {:.1f} ms (measured once, {})".format(
            *times, record.environment["machine"]
        )
    )
    _print_words(record)
    for note in record.notes:
        print(f"  note: {note}")
    if saved_at:
        print(f"  record: {saved_at} and its .npz")


def _print_words(record: RunRecord) -> None:
    """The signals of ONLY and ReVisiT for the words of the full answer, where they were recorded."""
    answer = record.full
    if answer.head_ratios is None or answer.nearest is None:
        return
    print("  word of the full answer: nearest token (signal of ReVisiT); heads below the mean ratio (signal of ONLY)")
    kept, steps = set(record.kept.tolist()), record.steps
    for word, near, ratios in zip(answer.words, answer.nearest.tolist(), answer.head_ratios, strict=True):
        merged = any(step.selection.merged_into[near] >= 0 for step in steps)
        fate = "kept" if near in kept else "merged" if merged else "removed by pruning"
        below = int((ratios < ratios.mean()).sum())
        print(f"    {word.strip()!r}: {near}, {fate}; {below} of {len(ratios)} below {ratios.mean():.2f}")
