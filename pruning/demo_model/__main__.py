"""`python -m pruning.demo_model train | evaluate`: the recipe of the bundled model, and what it reached."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from pruning.demo_model.train import Recipe, train

OUT = Path("assets/models/demo")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pruning.demo_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="train from scratch, or go on where an earlier call stopped")
    learn.add_argument(
        "--work", type=Path, default=Path(".training"), help="checkpoints and log (default: %(default)s)"
    )
    learn.add_argument("--out", type=Path, default=OUT, help="where the model goes (default: %(default)s)")
    learn.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    learn.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    for f in fields(Recipe):
        learn.add_argument(f"--{f.name.replace('_', '-')}", type=int, default=f.default)
    arguments = parser.parse_args()
    if arguments.command == "train":
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        recipe = Recipe(**{f.name: getattr(arguments, f.name) for f in fields(Recipe)})
        train(arguments.work, arguments.out, recipe, torch.device(arguments.device))


if __name__ == "__main__":
    main()
