"""`python -m pruning list | run | select | bench | plan | train-heads | structural-bench | train-accm`: no page.

Writes records, plans and figures, draws nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.budget import mean_per_layer
from pruning.catalogue import (
    list_compensators,
    list_methods,
    list_models,
    list_scores,
    methods_table,
    models_table,
    scores_table,
)
from pruning.compensation import COMPENSATORS
from pruning.compensation.base import Compensator
from pruning.errors import ParameterError, PruningError
from pruning.help_record import Compensated, Compensation
from pruning.measured import speed_section
from pruning.methods import METHODS
from pruning.models import MODELS
from pruning.plans import StructuralPlan
from pruning.records import RunRecord, RunRequest
from pruning.structural_cli import add_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: something the person can change)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.do(arguments)
    except PruningError as error:
        print(error, file=sys.stderr)
        return 2
    except NotImplementedError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pruning", description="Visual-token pruning, headless.")
    commands = parser.add_subparsers(
        required=True, metavar="list | run | select | bench | plan | train-heads | structural-bench | train-accm"
    )

    shown = commands.add_parser("list", help="methods and head scores with their parameters, and models")
    shown.add_argument("--json", action="store_true", help="for machines")
    shown.add_argument("--markdown", action="store_true", help="the generated parts of the README")
    shown.set_defaults(do=_list)

    ran = commands.add_parser("run", help="answer a question with the whole picture and with the pruned one")
    ran.add_argument("image", type=Path)
    ran.add_argument("question")
    ran.add_argument("--method", default="resprune", help=f"one of: {', '.join(METHODS)}")
    ran.add_argument("--keep-ratio", type=_number, default=1 / 9, help="share of visual tokens kept, in (0, 1]")
    ran.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the method")
    ran.add_argument("--plan", type=Path, help="take out of the weights what this file says, for the pruned answer")
    ran.add_argument("--positions", default="method", help="method, original or renumbered")
    ran.add_argument("--seed", type=int, default=0)
    ran.add_argument("--max-new-tokens", type=int, default=64)
    ran.add_argument("--model", default="demo", help=f"one of: {', '.join(MODELS)}; or a hub id; or a folder")
    ran.add_argument("--device", default="auto")
    ran.add_argument("--dtype", default="auto")
    ran.add_argument("--allow-download", action="store_true", help="fetch missing weights from the hub")
    ran.add_argument("--compensation", help=f"give back in words what was dropped: {', '.join(COMPENSATORS)}")
    ran.add_argument("--captioner", help="its folder or hub id, if not the bundled one")
    ran.add_argument("--caption", help="a caption written by hand instead")
    ran.add_argument("--gate", type=_number, default=0.0, help="insert only above this probability (an extension)")
    ran.add_argument("--measure-kl", action="store_true", help="how far each caption's answer is from the unpruned one")
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
    timed = commands.add_parser("bench", help="how fast it is here, as ratios")
    timed.add_argument("--device", default="auto")
    timed.add_argument("--repeats", type=int, default=7)
    timed.add_argument("--out", type=Path, help="write the figures as JSON")
    timed.set_defaults(do=_bench)
    add_commands(commands)

    taught = commands.add_parser("train-accm", help="train the captioner and selector of ACCM, or go on with it")
    taught.add_argument("--model", default="demo", help="the frozen model that will read the captions")
    taught.add_argument("--device", default="auto")
    taught.add_argument("--work", type=Path, default=Path(".training/accm"), help="checkpoints (default: %(default)s)")
    taught.add_argument("--out", type=Path, default=Path("assets/models/accm"), help="default: %(default)s")
    taught.add_argument("--features", type=Path, help="folder with tower features of the training scenes, if there is")
    taught.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    taught.add_argument("--warm-steps", type=int, default=4000)
    taught.add_argument("--warm-batch", type=int, default=16, help="scenes a step (default: %(default)s)")
    taught.add_argument("--scenes", type=int, default=20_000, help="training scenes (default: %(default)s)")
    taught.add_argument("--steps", type=int, default=600, help="of the second stage; 0: warm start alone")
    taught.add_argument("--lessons", type=int, default=2, help="pictures a step of it (default: %(default)s)")
    taught.add_argument("--objective", default="dpo", help="dpo (paper) or bestof (released code)")
    taught.add_argument("--data", type=Path, help="folder of pictures with questions.json, instead of drawn scenes")
    taught.set_defaults(do=_train_accm)
    return parser


def _train_accm(arguments: argparse.Namespace) -> int:
    import torch

    from pruning.demo_model.train_accm import AccmRecipe, train_accm
    from pruning.models import load

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    adapter = load(arguments.model, device=arguments.device, dtype="float32")
    names = ("warm_steps", "warm_batch", "scenes", "steps", "lessons", "objective")
    recipe = AccmRecipe(**{name: getattr(arguments, name) for name in names})
    train_accm(adapter, arguments.work, arguments.out, recipe, arguments.features, arguments.data)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from pruning.bench import bench, table
    from pruning.models.loading import choose_device

    found = bench(choose_device(arguments.device), max(1, arguments.repeats))
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
        print(methods_table(), scores_table(), models_table(), speed_section(), sep="\n\n")
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
        print(f"{s['key']:16} {s['title']}, {s['memory']}  ({s['source']})")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from pruning.models import load
    from pruning.pictures import read_picture
    from pruning.questions import clean_question
    from pruning.runner import Compressed, run

    plan = StructuralPlan.load(arguments.plan) if arguments.plan else None
    request = RunRequest(
        model=arguments.model,
        method=arguments.method,
        keep_ratio=arguments.keep_ratio,
        question=clean_question(arguments.question),
        parameters=settings(arguments.set),
        positions=arguments.positions,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        compensation=_compensation(arguments),
    )
    picture = read_picture(arguments.image)
    adapter = load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, allow_download=arguments.allow_download
    )
    compressed = Compressed(plan, adapter.compressed(plan)) if plan else None
    compensator = _compensator(arguments, request, adapter)
    record = run(request, adapter, picture, compressed=compressed, compensator=compensator)
    saved = written(arguments.out, record.save) if arguments.out else None
    if arguments.json:
        print(json.dumps(record.to_parts()[0], ensure_ascii=False))
    else:
        _print_record(record, saved)
    return 0


def _compensation(arguments: argparse.Namespace) -> Compensation | None:
    key, caption = arguments.compensation, arguments.caption
    if key is None and caption is None:
        return None
    return Compensation(key or "accm", gate=arguments.gate, caption=caption, measure_kl=arguments.measure_kl)


def _compensator(arguments: argparse.Namespace, request: RunRequest, adapter: Any) -> Compensator | None:
    """Opened only where the caption is not written by hand."""
    from pruning.give_back import open_compensator

    wanted = request.compensation
    if wanted is None or wanted.caption is not None:
        return None
    return open_compensator(wanted.key, adapter, arguments.captioner, allow_download=arguments.allow_download)


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
    mean = mean_per_layer(list(record.pruned.visual_per_layer))
    print(f"{record.method_title} ({record.variant}), positions {record.positions}")
    for step in record.steps:
        rows = step.selection.n_rows
        print(
            f"  {step.stage}: {len(step.selection.alive)} -> {rows} tokens in {step.select_ms:.1f} ms; {step.summary}"
        )
    print(f"  full   ({n}): {record.full.text}")
    print(f"  pruned ({record.pruned.visual_per_layer[-1]}): {record.pruned.text}")
    if record.compensated:
        _print_compensated(record.compensated)
    print(f"  mean per layer {mean:.1f} of {n}; prefill {saved:.0%} fewer multiply-adds (estimated)")
    if record.structure:
        tower = 1 - record.pruned_cost.tower_flops / record.full_cost.tower_flops
        print(f"  vision tower {tower:.0%} fewer multiply-adds (estimated)")
    times = record.full.timing.read_ms, record.pruned.timing.read_ms, record.pruned.timing.prune_ms
    print(
        "  read {:.0f} -> {:.0f} ms, pruning {:.1f} ms (measured once, {})".format(
            *times, record.environment["machine"]
        )
    )
    for note in record.notes:
        print(f"  note: {note}")
    if saved_at:
        print(f"  record: {saved_at} and its .npz")


def _print_compensated(found: Compensated) -> None:
    for i, c in enumerate(found.candidates):
        mark = "*" if i == found.chosen else " "
        score = "" if c.log_prob is None else f", log-probability {c.log_prob:.2f}"
        kl = "" if c.kl is None else f", KL {c.kl:.4f}"
        print(f"  {mark} caption {i + 1}: {c.text or '(empty)'}  [probability {c.probability:.2f}{score}{kl}]")
    if found.kl_pruned is not None:
        print(f"    no caption: KL {found.kl_pruned:.4f}")
    print(f"  {found.title} ({found.caption_tokens} caption tokens): {found.answer.text}")
    side = (found.captioner_flops + found.selector_flops) / 1e6
    print(
        f"  caption, captioner and selector ({side:.0f} M multiply-adds) cost as much as "
        f"{found.break_even:.1f} visual tokens (estimated)"
    )
    if "why" in found.provenance:
        print(f"  nothing inserted: {found.provenance['why']}")


def _select(arguments: argparse.Namespace) -> int:
    from pruning.arrays import select

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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
