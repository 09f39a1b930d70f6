"""`python -m pruning train-accm`: warm start of the captioner, then its training against the frozen model.

Both stages checkpoint into the folder `--work` and go on where they stopped. The folder `--out` is written after each
stage, so that a warm start alone can be looked at.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pruning.compensation.captioner import Captioner, CaptionerShape
from pruning.compensation.storage import Parts, save
from pruning.demo_model.caption_warmup import warm_up
from pruning.demo_model.language import FeatureCache
from pruning.errors import ParameterError
from pruning.models.base import VLMAdapter
from pruning.runner import processor_name


@dataclass(frozen=True, slots=True)
class AccmRecipe:
    """Sizes of the two stages. A warm step is a batch of `warm_batch` scenes with 4 to 8 questions each."""

    warm_steps: int = 4000
    warm_batch: int = 16
    warm_rate: float = 2e-3
    scenes: int = 20_000
    check_scenes: int = 32
    seed: int = 0


def train_accm(adapter: VLMAdapter, work: Path, out: Path, recipe: AccmRecipe, features: Path | None = None) -> Parts:
    """Run or resume the stages in the folder `work`; `features` is a folder with tower features that are already there
    (see `language.FeatureCache`; by default `work` itself, filled when needed).

    Raises:
        ParameterError: if the folder holds checkpoints of other sizes.
    """
    work.mkdir(parents=True, exist_ok=True)
    _same_sizes(work / "accm.json", {k: v for k, v in asdict(recipe).items() if k != "check_scenes"})
    torch.manual_seed(recipe.seed)
    shape = CaptionerShape(adapter.info.vision_dim, len(adapter.tokenizer))
    captioner = Captioner(shape).to(adapter.device)
    tower = adapter.model.model.vision_tower
    cache = FeatureCache(features or work, recipe.scenes)
    cache.fill(tower, adapter.device)
    warm_up(
        captioner, tower, adapter.tokenizer, cache, recipe.warm_steps, recipe.warm_batch, recipe.warm_rate, work,
        recipe.check_scenes,
    )  # fmt: skip
    parts = Parts(captioner.eval(), None, adapter.identity(), facts(work, recipe, adapter))
    save(out, parts)
    return parts


def facts(work: Path, recipe: AccmRecipe, adapter: VLMAdapter) -> dict[str, object]:
    """How it was trained, for the folder's configuration and card."""
    seconds = {}
    for phase in ("captions",):
        path = work / f"{phase}.pt"
        if path.exists():
            seconds[phase] = round(torch.load(path, map_location="cpu", weights_only=True)["seconds"] / 60, 1)
    machine = f"{processor_name()}, {torch.get_num_threads()} threads"
    return {
        "recipe": asdict(recipe), "minutes": seconds, "machine": machine, "device": str(adapter.device),
        "torch": torch.__version__,
    }  # fmt: skip


def _same_sizes(note: Path, now: dict[str, object]) -> None:
    """A folder's checkpoints belong to one recipe."""
    before = json.loads(note.read_text()) if note.exists() else now
    for name, value in now.items():
        if before.get(name, value) != value:
            raise ParameterError(
                f"{note.parent} holds checkpoints made with {name} = {before[name]}; now it is {value}.",
                "Use the same sizes, or another --work folder.",
            )
    note.write_text(json.dumps(before | now))
