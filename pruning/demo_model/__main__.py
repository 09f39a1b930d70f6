"""Commands that make and evaluate the bundled model: `python -m pruning.demo_model train | evaluate | ...`."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pruning.benchmarks.reports import accm_table
from pruning.demo_model.accm.evaluate import evaluate_accm
from pruning.demo_model.evaluation.card import write_card
from pruning.demo_model.evaluation.evaluate import Evaluation, table
from pruning.demo_model.examples import record_examples, record_more, write_examples
from pruning.demo_model.pruners.covipal import CoViPALRecipe, CoViPALTraining
from pruning.demo_model.pruners.meteor import MeteorRecipe, MeteorTraining
from pruning.demo_model.pruners.training import learn
from pruning.demo_model.pruners.vistog import VisToGRecipe, VisToGTraining
from pruning.demo_model.training.language import FeatureCache
from pruning.demo_model.training.recipe import Recipe, train
from pruning.methods import METHODS
from pruning.models import load

ASSETS = Path("assets")
OUT = ASSETS / "models" / "demo"
FIGURES = ASSETS / "benchmarks" / "demo_model.json"
PRUNERS = {
    "covipal": (CoViPALTraining, CoViPALRecipe),
    "vistog": (VisToGTraining, VisToGRecipe),
    "meteor": (MeteorTraining, MeteorRecipe),
}


def main() -> None:
    """Entry point."""
    arguments = _parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.do(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pruning.demo_model", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice")
    commands = parser.add_subparsers(required=True, metavar="train | evaluate | evaluate-accm | examples | record")

    learn = commands.add_parser("train", help="train from scratch, or go on where an earlier call stopped")
    learn.add_argument("--work", type=Path, default=Path(".training"), help="checkpoints (default: %(default)s)")
    learn.add_argument("--out", type=Path, default=OUT, help="where the model goes (default: %(default)s)")
    learn.add_argument("--begin", type=Path, help="folder of a finished model: only the last phase, counting, is run")
    learn.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    _add_sizes(learn, Recipe)
    learn.set_defaults(do=_train)

    judge = commands.add_parser("evaluate", help="accuracy on fresh scenes, whole and pruned; writes figures and card")
    judge.add_argument("--model", type=Path, default=OUT)
    judge.add_argument("--scenes", type=int, default=1000, help="for accuracy by kind (default: %(default)s)")
    judge.add_argument("--described", type=int, default=300, help="described in words (default: %(default)s)")
    judge.add_argument("--pruned", type=int, default=500, help="for every method and budget (default: %(default)s)")
    judge.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    judge.add_argument("--out", type=Path, default=FIGURES, help="figures (default: %(default)s); goes on where it was")
    judge.set_defaults(do=_evaluate)

    with_captions = commands.add_parser("evaluate-accm", help="accuracy with captions, beside as many visual tokens")
    with_captions.add_argument("--model", default="demo")
    with_captions.add_argument("--captioner", type=Path, default=ASSETS / "models" / "accm")
    with_captions.add_argument("--scenes", type=int, default=1000, help="one question each (default: %(default)s)")
    with_captions.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    with_captions.add_argument(
        "--out", type=Path, default=ASSETS / "benchmarks" / "accm.json", help="default: %(default)s"
    )
    with_captions.set_defaults(do=_evaluate_accm)

    taught = commands.add_parser("train-pruner", help="train what a pruner decides with, for the bundled model")
    pruners = taught.add_subparsers(required=True, dest="method", metavar=" | ".join(PRUNERS))
    for key, (_, recipe) in PRUNERS.items():
        one = pruners.add_parser(key)
        one.add_argument(
            "--work", type=Path, default=Path(".training") / key, help="checkpoints (default: %(default)s)"
        )
        one.add_argument("--features", type=Path, help="folder with tower features of the training scenes, if there is")
        one.add_argument("--out", type=Path, default=ASSETS / "models" / key, help="default: %(default)s")
        _add_sizes(one, recipe)
    taught.set_defaults(do=_train_pruner)

    drawn = commands.add_parser("examples", help="write the example pictures of the page")
    drawn.set_defaults(do=lambda _: write_examples(ASSETS / "examples"))

    recorded = commands.add_parser("record", help="write the recorded runs that open the page")
    which = recorded.add_mutually_exclusive_group()
    which.add_argument("--more", action="store_true", help="only the run with a caption and the one with a plan")
    which.add_argument(
        "--method", nargs="+", metavar="KEY", choices=METHODS, help="only runs of these methods; all others stay"
    )
    recorded.set_defaults(do=_record)
    return parser


def _record(arguments: argparse.Namespace) -> None:
    adapter, models = load("demo"), ASSETS / "models"
    if not arguments.more:
        record_examples(adapter, ASSETS / "examples", ASSETS / "recordings", arguments.method or tuple(METHODS))
    if arguments.method:
        return
    assets = ASSETS / "examples", ASSETS / "recordings", models / "accm", models / "demo_gates" / "plan.zip"
    record_more(adapter, *assets)


def _add_sizes(parser: argparse.ArgumentParser, recipe: type) -> None:
    """An option for every size of a recipe."""
    for f in fields(recipe):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)


def _recipe(kind: type, arguments: argparse.Namespace) -> Any:
    return kind(**{f.name: getattr(arguments, f.name) for f in fields(kind)})


def _train(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    train(arguments.work, arguments.out, _recipe(Recipe, arguments), device, arguments.begin)


def _train_pruner(arguments: argparse.Namespace) -> None:
    adapter, (training, recipe) = load("demo", device="cpu", dtype="float32"), PRUNERS[arguments.method]
    adapter.model.requires_grad_(False)
    arguments.work.mkdir(parents=True, exist_ok=True)
    cache = FeatureCache(arguments.features or arguments.work, Recipe().cached_scenes)
    cache.fill(adapter.model.model.vision_tower, adapter.device)
    torch.manual_seed(0)
    learn(training(adapter, cache, _recipe(recipe, arguments)), adapter, arguments.work, arguments.out)


def _evaluate(arguments: argparse.Namespace) -> None:
    sizes = arguments.scenes, arguments.described, arguments.pruned
    results = Evaluation(str(arguments.model), arguments.out, *sizes, arguments.jobs).run()
    write_card(arguments.model, results)
    print(table(results))


def _evaluate_accm(arguments: argparse.Namespace) -> None:
    wanted = arguments.model, arguments.captioner, arguments.out, arguments.scenes, arguments.jobs
    print(accm_table(evaluate_accm(*wanted)))


if __name__ == "__main__":
    main()
