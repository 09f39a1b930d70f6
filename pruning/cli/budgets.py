"""`python -m pruning budgets`: paper budgets, and what each means in every layer for each method."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pruning.budget import check_count
from pruning.methods import METHODS, method_class
from pruning.methods.published_budgets import meaning, presets
from pruning.models import load


def add_command(commands: Any) -> None:
    """Declare the command."""
    told = commands.add_parser("budgets", help="what the published budgets mean for a picture, a model and a method")
    told.add_argument("image", type=Path)
    told.add_argument("--method", help="only this one")
    told.add_argument("--budget", type=int, action="append", help="only this many visual tokens; may be repeated")
    told.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the method")
    told.add_argument("--model", default="demo")
    told.add_argument("--device", default="auto")
    told.add_argument("--dtype", default="auto")
    told.add_argument("--allow-download", action="store_true", help="fetch missing weights from the hub")
    told.set_defaults(do=_budgets)


def _budgets(arguments: argparse.Namespace) -> int:
    from pruning.cli.options import settings
    from pruning.inputs.images import read_image

    picture = read_image(arguments.image)
    given = settings(arguments.set)
    chosen = [method_class(arguments.method)] if arguments.method else list(METHODS.values())
    adapter = load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, allow_download=arguments.allow_download
    )
    n = adapter.layout(picture.shape[1::-1]).n_tokens
    counts = [check_count(count, n) for count in arguments.budget or presets(n)]
    print(f"{adapter.info.name}: {n} visual tokens of this picture, {adapter.info.text_layers} layers")
    for method in chosen:
        print(method.title)
        for count in counts:
            print(f"  {count:5}: {meaning(method.from_parameters(count / n, given), adapter.info, n).text}")
    return 0
