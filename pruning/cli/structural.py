"""`python -m pruning plan | train-heads | structural-bench`: the commands of weight pruning."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pruning.errors import ParameterError
from pruning.interface import Part
from pruning.records.plan import FFN_RULES, PlanRequest, StructuralPlan

PARTS = {"tower": (Part.TOWER.value,), "language": (Part.LANGUAGE_MODEL.value,),
         "both": (Part.TOWER.value, Part.LANGUAGE_MODEL.value)}  # fmt: skip
CHECKPOINTS = Path(".training") / "heads"
FIGURES = Path("assets") / "benchmarks" / "structural.json"


def add_commands(commands: Any) -> None:
    """Add the three commands to the parser's list."""
    made = commands.add_parser("plan", help="choose heads and ranks without training, and save the plan")
    made.add_argument("--score", default="infoprune", help="infoprune, magnitude or random")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the score")
    made.add_argument("--heads", type=float, default=1.0, help="share of heads kept, in (0, 1] (default: all)")
    _shared(made, n_pairs=32)
    made.set_defaults(do=_plan)

    learnt = commands.add_parser("train-heads", help="train a gate for every head, and save the plan; resumable")
    learnt.add_argument("--sparsity", type=float, default=0.3, help="share of heads taken out (default: %(default)s)")
    learnt.add_argument("--steps", type=int, default=1000)
    learnt.add_argument("--pool", type=int, default=256, help="different pairs to learn from (default: %(default)s)")
    learnt.add_argument("--batch", type=int, default=2, help="pairs a step (default: %(default)s)")
    learnt.add_argument("--rate", type=float, default=1e-2, help="of the gates; fewer steps need more (default: 0.01)")
    learnt.add_argument(
        "--sparse", type=float, default=100.0, help="weight of the planned share in the loss (default: %(default)s)"
    )
    learnt.add_argument("--task", default="kl", help="kl to the dense answers, or ce on their words")
    learnt.add_argument("--work", type=Path, default=CHECKPOINTS, help="checkpoint folder (default: %(default)s)")
    _shared(learnt, n_pairs=32)
    learnt.set_defaults(do=_train)

    judged = commands.add_parser("structural-bench", help="accuracy against FLOPs of plans, on drawn scenes; resumable")
    judged.add_argument("--model", default="demo")
    judged.add_argument("--scenes", type=int, default=500)
    judged.add_argument("--pairs", type=int, default=32, help="calibration pictures (default: %(default)s)")
    judged.add_argument("--trained", type=Path, nargs="*", default=[], help="plans that train-heads wrote")
    judged.add_argument("--parts", choices=PARTS, nargs="*", default=["tower", "both"])
    judged.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    judged.add_argument("--out", type=Path, default=FIGURES, help="default: %(default)s; goes on where it was")
    judged.set_defaults(do=_judge)


def print_plan(plan: StructuralPlan) -> None:
    """A plan in a few lines."""
    summary = plan.summary()
    print(f"{plan.title}: {plan.request.model}, digest {plan.digest[:12]}")
    for part, (kept, total) in summary.heads.items():
        after, before = summary.parameters[part]
        print(f"  {part}: {kept} of {total} heads, {after:,} of {before:,} parameters in its layers")
    print(f"  feed-forward: {summary.factorised} of {summary.matrices} matrices compressed ({plan.request.ffn})")
    for note in plan.notes:
        print(f"  note: {note}")
    for layer in plan.layers:
        ranks = [f"{m.shape.name} {m.shape.rank or 'whole'}/{m.shape.break_even:.0f}" for m in layer.matrices]
        hidden = "" if layer.hidden is None else f", {len(layer.hidden)} hidden units"
        heads = " ".join(map(str, layer.heads.tolist()))
        print(f"    {layer.part} {layer.layer}: heads {heads}{hidden}; {', '.join(ranks)}")


def _shared(parser: argparse.ArgumentParser, n_pairs: int) -> None:
    parser.add_argument("--model", default="demo", help="a key of the table, a hub id, or a folder")
    parser.add_argument("--data", type=Path, help="folder with pictures and questions.json; without: drawn scenes")
    parser.add_argument("--pairs", type=int, default=n_pairs, help="calibration pictures (default: %(default)s)")
    parser.add_argument("--parts", choices=PARTS, default="tower", help="where to prune (default: %(default)s)")
    parser.add_argument("--ffn", choices=FFN_RULES, default="none", help="rule for feed-forward ranks")
    parser.add_argument("--erank-factor", type=float, default=1.0, help="of --ffn erank, 1 to 2")
    parser.add_argument("--tau", type=float, default=0.1, help="of --ffn mass and bottleneck: mass given up")
    parser.add_argument("--ffn-flops", type=float, default=0.5, help="of --ffn budget: share of multiply-adds kept")
    parser.add_argument("--whitening", action="store_true", help="weight matrices by what comes in (an extension)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--allow-download", action="store_true", help="fetch missing weights from the hub")
    parser.add_argument("--out", type=Path, required=True, help="the plan's file")


def _request(a: argparse.Namespace, **more: Any) -> PlanRequest:
    return PlanRequest(
        model=a.model, ffn=a.ffn, erank_factor=a.erank_factor, tau=a.tau, ffn_flops=a.ffn_flops, whitening=a.whitening,
        parts=PARTS[a.parts], seed=a.seed, n_pairs=a.pairs, **more,
    )  # fmt: skip


def _open(a: argparse.Namespace) -> tuple[Any, Any]:
    """The model, and the pairs to show it."""
    from pruning.demo_model.pairs import DrawnPairs
    from pruning.inputs.questions import FolderPairs
    from pruning.models import find_spec, load

    if a.data is None and not find_spec(a.model).bundled:
        raise ParameterError(
            f"{a.model} does not live in the drawn world; it needs pictures and questions of its own.",
            "Give a folder with --data.",
        )
    pairs = DrawnPairs() if a.data is None else FolderPairs(a.data)
    return load(a.model, device=a.device, dtype=a.dtype, allow_download=a.allow_download), pairs


def _plan(a: argparse.Namespace) -> int:
    from pruning.cli.options import settings, written
    from pruning.engine.plan import make_plan

    request = _request(a, score=a.score, heads=a.heads, parameters=settings(a.set))
    needs_none = request.score in ("magnitude", "random") and not request.whitening and request.ffn != "bottleneck"
    if needs_none and a.data is None:
        from pruning.models import load

        adapter, pairs = load(a.model, device=a.device, dtype=a.dtype, allow_download=a.allow_download), None
    else:
        adapter, pairs = _open(a)
    plan = make_plan(adapter, request, pairs)
    written(a.out, plan.save)
    print_plan(plan)
    print(f"  plan: {a.out}")
    return 0


def _train(a: argparse.Namespace) -> int:
    import json

    from pruning.cli.options import written
    from pruning.engine.train_gates import HeadRecipe, HeadTraining

    recipe = HeadRecipe(
        sparsity=a.sparsity,
        steps=a.steps,
        pool=a.pool,
        batch=a.batch,
        rate=a.rate,
        sparse=a.sparse,
        task=a.task,
        seed=a.seed,
    )  # before the model is opened: a bad recipe should not cost a minute
    request = _request(a)
    adapter, pairs = _open(a)
    checkpoint = a.work / f"{a.out.stem}.pt"
    every = max(1, a.steps // 20)
    training = HeadTraining(
        adapter, pairs, recipe, request, checkpoint,
        say=lambda line: print(json.dumps(line), flush=True) if line["step"] % every == 0 else None,
    )  # fmt: skip
    plan = training.run()
    written(a.out, plan.save)
    print_plan(plan)
    print(f"  plan: {a.out}; checkpoint: {checkpoint}")
    return 0


def _judge(a: argparse.Namespace) -> int:
    from pruning.demo_model.evaluation.structural import StructuralBench, table

    trained = {path.stem: StructuralPlan.load(path) for path in a.trained}
    parts = [PARTS[p] for p in a.parts]
    print(table(StructuralBench(a.model, a.out, a.scenes, a.pairs, parts, trained, a.jobs).run()))
    return 0
