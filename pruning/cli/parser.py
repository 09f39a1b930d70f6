"""`python -m pruning list | run | budgets | select | bench | fetch-pair | plan | train-heads | ...`.

No page: writes records, plans and figures, draws nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pruning.cli import budgets as budgets_cli
from pruning.cli import compensation as compensation_cli
from pruning.cli import docs as docs_cli
from pruning.cli import structural as structural_cli
from pruning.cli.listing import print_list
from pruning.cli.options import number, written
from pruning.cli.run import run_once
from pruning.cli.select import select_on_arrays
from pruning.errors import PruningError
from pruning.methods import METHODS
from pruning.models import MODELS
from pruning.models.loading import fetch_pair as pretrained

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

    listing = commands.add_parser("list", help="methods and head scores with their parameters, and models")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(do=print_list)

    ran = commands.add_parser("run", help="answer a question with the full picture and with the pruned one")
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
    ran.set_defaults(do=run_once)

    picked = commands.add_parser("select", help="a method's decision on arrays that you bring, without a model")
    picked.add_argument("kind", help="for example resprune or vitcop_stage2; see tests/golden/README.md")
    picked.add_argument("arrays", type=Path, help="NPZ file with the inputs")
    picked.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter")
    picked.add_argument("--out", type=Path, help="NPZ file for the outputs")
    picked.add_argument("--json", action="store_true", help="print the outputs as JSON")
    picked.set_defaults(do=select_on_arrays)
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
    docs_cli.add_command(commands)
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
