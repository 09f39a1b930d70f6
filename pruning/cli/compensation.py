"""Options of `python -m pruning run` for captions, and the command `train-accm`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pruning.compensation import COMPENSATORS
from pruning.compensation.base import Compensator
from pruning.records.compensation import Compensated, Compensation
from pruning.records.run import RunRequest


def add_options(ran: argparse.ArgumentParser) -> None:
    """Add what `run` takes for its third answer."""
    from pruning.cli.options import number  # which builds its parser with this function

    ran.add_argument("--compensation", help=f"compensate with a caption what was dropped: {', '.join(COMPENSATORS)}")
    ran.add_argument("--captioner", help="its folder or hub id, if not the bundled one")
    ran.add_argument("--caption", help="a caption written by hand instead")
    ran.add_argument("--gate", type=number, default=0.0, help="insert only above this probability (an extension)")
    ran.add_argument("--measure-kl", action="store_true", help="how far each caption's answer is from the unpruned one")


def add_command(commands: Any) -> None:
    """Add `train-accm` to the parser's list."""
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


def compensation_of(arguments: argparse.Namespace) -> Compensation | None:
    """What the options ask for; nothing without --compensation and --caption."""
    key, caption = arguments.compensation, arguments.caption
    if key is None and caption is None:
        return None
    return Compensation(key or "accm", gate=arguments.gate, caption=caption, measure_kl=arguments.measure_kl)


def compensator_of(arguments: argparse.Namespace, request: RunRequest, adapter: Any) -> Compensator | None:
    """Opened only where the caption is not written by hand."""
    from pruning.engine.compensate import open_compensator

    wanted = request.compensation
    if wanted is None or wanted.caption is not None:
        return None
    return open_compensator(wanted.key, adapter, arguments.captioner, allow_download=arguments.allow_download)


def print_compensated(found: Compensated) -> None:
    """Captions, the third answer and its price in a few lines."""
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


def _train_accm(arguments: argparse.Namespace) -> int:
    import torch

    from pruning.demo_model.accm.train import AccmRecipe, train_accm
    from pruning.models import load

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    adapter = load(arguments.model, device=arguments.device, dtype="float32")
    names = ("warm_steps", "warm_batch", "scenes", "steps", "lessons", "objective")
    recipe = AccmRecipe(**{name: getattr(arguments, name) for name in names})
    train_accm(adapter, arguments.work, arguments.out, recipe, arguments.features, arguments.data)
    return 0
