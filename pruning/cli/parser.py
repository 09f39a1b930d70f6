"""`python -m pruning list | run | budgets | select | bench | fetch-pair | plan | train-heads | ...`.

No page: writes records, plans and figures, draws nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pruning.benchmarks.judged import accm_section, structural_section
from pruning.benchmarks.reports import speed_section
from pruning.budget import check_count
from pruning.catalogue import (
    list_compensators,
    list_methods,
    list_models,
    list_scores,
    methods_table,
    models_table,
    scores_table,
)
from pruning.cli import budgets as budgets_cli
from pruning.cli import compensation as compensation_cli
from pruning.cli import structural as structural_cli
from pruning.errors import ParameterError, PruningError
from pruning.inputs.content import Shown
from pruning.methods import METHODS
from pruning.methods.imported import Imported
from pruning.methods.published_budgets import layers_in_words
from pruning.models import MODELS
from pruning.models.loading import fetch_pair as pretrained
from pruning.records.decisions import read_decision
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord, RunRequest, kept_by_picture

SEVERAL = ("--image", "--video")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: something the person can change)."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(several=any(w.split("=")[0] in SEVERAL for w in words)).parse_args(words)
    try:
        return arguments.do(arguments)
    except PruningError as error:
        print(error, file=sys.stderr)
        return 2
    except NotImplementedError as error:
        print(error, file=sys.stderr)
        return 2


def _parser(*, several: bool) -> argparse.ArgumentParser:
    """`several`: what is shown comes by options, so that the one positional argument of `run` is the question."""
    parser = argparse.ArgumentParser(prog="python -m pruning", description="Visual-token pruning, headless.")
    commands = parser.add_subparsers(
        required=True, metavar="list | run | budgets | select | bench | fetch-pair | plan | train-heads | ..."
    )

    shown = commands.add_parser("list", help="methods and head scores with their parameters, and models")
    shown.add_argument("--json", action="store_true", help="for machines")
    shown.add_argument("--markdown", action="store_true", help="the generated parts of the README")
    shown.set_defaults(do=_list)

    ran = commands.add_parser("run", help="answer a question with the whole picture and with the pruned one")
    if not several:
        ran.add_argument("image", type=Path)
    ran.add_argument("question")
    ran.add_argument("--image", dest="images", type=Path, action="append", help="a picture; several make one prompt")
    ran.add_argument("--video", type=Path, help="a video file, or a folder of frames, instead of pictures")
    ran.add_argument("--frames", type=int, default=8, help="how many frames of a video are taken, evenly")
    ran.add_argument("--fps", type=number, default=1.0, help="frames a second in a folder of frames")
    ran.add_argument("--method", default="resprune", help=f"one of: {', '.join(METHODS)}")
    ran.add_argument("--keep-ratio", type=number, default=1 / 9, help="share of visual tokens kept, in (0, 1]")
    ran.add_argument("--budget", type=int, help="as a count instead, of this picture's visual tokens on this model")
    ran.add_argument("--kept", type=Path, help="do what was decided elsewhere: JSON or NPZ with kept, mask or groups")
    ran.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the method")
    ran.add_argument("--plan", type=Path, help="take out of the weights what this file says, for the pruned answer")
    ran.add_argument("--positions", default="method", help="method, original or renumbered")
    ran.add_argument("--seed", type=int, default=0)
    ran.add_argument("--max-new-tokens", type=int, default=64)
    ran.add_argument("--model", default="demo", help=f"one of: {', '.join(MODELS)}; or a hub id; or a folder")
    ran.add_argument("--device", default="auto")
    ran.add_argument("--dtype", default="auto")
    ran.add_argument("--allow-download", action="store_true", help="fetch missing weights from the hub")
    ran.add_argument("--trace", action="store_true", help="also record and tell what every word looks at")
    compensation_cli.add_options(ran)
    ran.add_argument(
        "--diagnostics",
        action="store_true",
        help="coverage, position bias, effective rank, overlap with the other methods; also what every word attends to",
    )
    ran.add_argument("--out", type=Path, help="write the record to OUT.json and OUT.npz")
    ran.add_argument("--json", action="store_true", help="print the record's JSON")
    ran.set_defaults(do=_run)

    picked = commands.add_parser("select", help="a method's decision on arrays that you bring, without a model")
    picked.add_argument("kind", help="for example resprune or vitcop_stage2; see tests/golden/README.md")
    picked.add_argument("arrays", type=Path, help="NPZ file with the inputs")
    picked.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter")
    picked.add_argument("--out", type=Path, help="NPZ file for the outputs")
    picked.add_argument("--json", action="store_true", help="print the outputs as JSON")
    picked.set_defaults(do=_select)
    fetched = commands.add_parser(
        "fetch-pair", help="download and join two small pretrained parts, for mechanics and times at real scale"
    )
    fetched.set_defaults(do=_fetch_pair)
    timed = commands.add_parser("bench", help="how fast it is here, as ratios")
    timed.add_argument("--model", default="", help="prefill and recording of this model only (default: everything)")
    timed.add_argument("--device", default="auto")
    timed.add_argument("--repeats", type=int, default=7)
    timed.add_argument("--out", type=Path, help="write the figures as JSON")
    timed.set_defaults(do=_bench)
    budgets_cli.add_command(commands)
    structural_cli.add_commands(commands)
    compensation_cli.add_command(commands)
    return parser


def _fetch_pair(arguments: argparse.Namespace) -> int:
    del arguments
    pretrained.fetch(say=lambda sentence: print(sentence, flush=True))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from pruning.benchmarks.speed import bench, bench_model, table
    from pruning.models.loading.devices import choose_device

    device, repeats = choose_device(arguments.device), max(1, arguments.repeats)
    found = bench_model(arguments.model, device, repeats) if arguments.model else bench(device, repeats)
    if arguments.out:
        written(arguments.out, lambda path: path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))
    print(table(found))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    methods, scores, models = list_methods(), list_scores(), list_models()
    if arguments.json:
        lists = {"methods": methods, "scores": scores, "models": models, "compensators": list_compensators()}
        print(json.dumps(lists, indent=1))
        return 0
    if arguments.markdown:
        found = speed_section(), accm_section(), structural_section()
        print(methods_table(), scores_table(), models_table(), *found, sep="\n\n")
        return 0
    for m in methods + scores:
        print(f"{m['key']:16} {m['title']}: {m['idea']}  ({m['paper']})")
        for p in m["parameters"]:
            allowed = " | ".join(p["options"]) if "options" in p else f"{p['low']:g} .. {p['high']:g}"
            print(f"{'':18}{p['name']} = {p['default']}  [{allowed}]  {p['help']}")
    print()
    for c in list_compensators():
        print(f"{c['key']:16} {c['title']}: {c['idea']}  ({c['paper']})")
    print()
    for s in models:
        disk = f"{s['disk']} to download, " if s["disk"] else ""
        print(f"{s['key']:22} {s['title']}: {s['parameters']} parameters, {disk}memory: {s['memory']}  ({s['source']})")
        print(f"{'':24}licence: {s['licence']}{'  (checked: ' + s['checked'] + ')' if s['checked'] else ''}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pruning.engine.run import Compressed, Listener, run
    from pruning.inputs.questions import clean_question
    from pruning.models import load

    decided = read_decision(arguments.kept) if arguments.kept else {}
    plan = StructuralPlan.load(arguments.plan) if arguments.plan else None
    request = RunRequest(
        model=arguments.model,
        method=Imported.key if arguments.kept else arguments.method,
        keep_ratio=arguments.keep_ratio,
        question=clean_question(arguments.question),
        parameters=settings(arguments.set) | decided,
        positions=arguments.positions,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        compensation=compensation_cli.compensation_of(arguments),
    )
    shown = _shown(arguments)
    adapter = load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, allow_download=arguments.allow_download
    )
    if arguments.budget is not None:
        n = adapter.prompt(shown, request.question).layout.n_tokens
        request = replace(request, keep_ratio=check_count(arguments.budget, n) / n)
    compressed = Compressed(plan, adapter.compressed(plan)) if plan else None
    compensator = compensation_cli.compensator_of(arguments, request, adapter)
    listener = Listener(trace=arguments.trace or arguments.diagnostics)
    record = run(request, adapter, shown, compressed=compressed, compensator=compensator, listener=listener)
    if arguments.diagnostics:
        from pruning.engine.overlap import with_overlaps
        from pruning.metrics.diagnostics import diagnose, told

        record = with_overlaps(record, compressed.view if compressed else adapter, shown)
    saved = written(arguments.out, record.save) if arguments.out else None
    if arguments.json:
        more = {"diagnostics": diagnose(record).figures()} if arguments.diagnostics else {}
        print(json.dumps(record.to_parts()[0] | more, ensure_ascii=False))
    else:
        _print_record(record, saved)
        if arguments.diagnostics:
            print(*told(record), sep="\n")
    return 0


def _shown(arguments: argparse.Namespace) -> Shown:
    from pruning.inputs.images import read_picture
    from pruning.inputs.video import read_clip

    if arguments.video:
        if arguments.images:
            raise ParameterError("--image and --video came together.", "Show pictures or a video.")
        return read_clip(arguments.video, arguments.frames, arguments.fps)
    return [read_picture(path) for path in arguments.images or [arguments.image]]


def written(path: Path, write: Callable[[Path], Any]) -> Any:
    try:
        return write(path)
    except OSError as error:
        raise ParameterError(f"{path} cannot be written ({error.strerror}).", "Choose another --out.") from error


def _print_record(record: RunRecord, saved_at: Path | None) -> None:
    n = record.layout.n_tokens
    if record.structure:
        s = record.structure
        heads = ", ".join(f"{kept} of {total} heads in the {part}" for part, (kept, total) in s.heads.items())
        print(f"{s.title}: {heads}, {s.factorised} of {s.matrices} feed-forward matrices compressed ({s.digest[:12]})")
    saved = 1 - record.pruned_cost.prefill_flops / record.full_cost.prefill_flops
    told = "asked for {asked}, kept {kept} rows of {unique} different tokens, average over layers {average:.1f}"
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
    times = record.full.timing.read_ms, record.pruned.timing.read_ms, record.pruned.timing.prune_ms
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


def _select(arguments: argparse.Namespace) -> int:
    from pruning.arrays.kinds import select

    try:
        with np.load(arguments.arrays, allow_pickle=False) as file:
            inputs = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ParameterError(
            f"{arguments.arrays} cannot be read as NPZ ({error}).", "Write it with numpy.savez."
        ) from error
    found = select(arguments.kind, inputs, settings(arguments.set))
    if arguments.out:
        written(arguments.out, lambda path: np.savez_compressed(path, **found))
    if arguments.json:
        print(json.dumps({name: value.tolist() for name, value in found.items()}))
    else:
        for name, value in found.items():
            print(f"{name} {value.dtype} {list(value.shape)}")
        if "kept" in found:
            print("kept:", *found["kept"].ravel().tolist())
    return 0


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is JSON where it can be read as such, else text."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"{pair!r} is not NAME=VALUE.", "Write for example --set alpha=0.5.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def number(text: str) -> float:
    """A number from the command line, or a sentence about it."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
