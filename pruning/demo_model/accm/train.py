"""Training of ACCM in two stages (`python -m pruning train-accm`): true captions, then the frozen model's answers.

Both stages save checkpoints in the folder `--work` and are resumed where they stopped. The folder `--out` is written at
the end. The second stage with the other objective starts from the same first stage and has its own checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pruning.compensation.captioner import Captioner, CaptionerShape
from pruning.compensation.checkpoint import Parts, save
from pruning.compensation.objective import OBJECTIVES
from pruning.compensation.selector import Selector, SelectorShape
from pruning.demo_model.accm.card import write_card
from pruning.demo_model.accm.lessons import DrawnLessons, FolderLessons
from pruning.demo_model.accm.tune import tune
from pruning.demo_model.accm.warmup import warm_up
from pruning.demo_model.training.language import FeatureCache
from pruning.demo_model.training.optim import same_sizes
from pruning.engine.environment import processor_and_threads
from pruning.errors import ParameterError
from pruning.models.base import VLMAdapter


@dataclass(frozen=True, slots=True)
class AccmRecipe:
    """Sizes of the two stages. A step of the first is a batch of `warm_batch` scenes with 4 to 8 questions each; a step
    of the second is `lessons` pictures (drawn ones with 8 questions each). `warm_steps` 0: no first stage.
    """

    warm_steps: int = 4000
    warm_batch: int = 16
    warm_rate: float = 2e-3
    scenes: int = 20_000
    check_scenes: int = 32
    steps: int = 600
    lessons: int = 2
    rate: float = 5e-4
    objective: str = OBJECTIVES[0]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ParameterError(f"The objective is {self.objective!r}.", f"Known ones: {', '.join(OBJECTIVES)}.")


WARM = ("warm_steps", "warm_batch", "warm_rate", "scenes", "seed")
TUNED = ("steps", "lessons", "rate")


def train_accm(
    adapter: VLMAdapter,
    work: Path,
    out: Path,
    recipe: AccmRecipe,
    features: Path | None = None,
    data: Path | None = None,
) -> Parts:
    """Run or resume the stages in the folder `work`.

    Args:
        features: a folder with tower features (see `pruning.demo_model.training.language.FeatureCache`); by default
            `work` itself, filled when needed.
        data: a folder of pictures and questions instead of drawn scenes; then there is no first stage, because the
            pictures have no true captions, and the captioner starts untrained.

    Raises:
        ParameterError: if the folder holds checkpoints of other sizes, or `data` is not such a folder.
    """
    lessons = None if data is None else FolderLessons(adapter, data)
    work.mkdir(parents=True, exist_ok=True)
    sizes = asdict(recipe)
    phase = f"tune-{recipe.objective}"
    same_sizes(work / "captions.json", {k: sizes[k] for k in WARM} | {"data": str(data)})
    if recipe.steps:
        same_sizes(work / f"{phase}.json", {k: sizes[k] for k in TUNED})
    torch.manual_seed(recipe.seed)
    shape = CaptionerShape(adapter.info.token_dim, len(adapter.tokenizer))
    captioner = Captioner(shape).to(adapter.device)
    selector = Selector(SelectorShape(2 * adapter.info.text_dim)).to(adapter.device)
    stages = []
    if lessons is None:
        cache = FeatureCache(features or work, recipe.scenes)
        tower = adapter.model.model.vision_tower
        if cache.done < recipe.scenes:
            cache.fill(tower, adapter.device)
        lessons = DrawnLessons(adapter, cache)
        if recipe.warm_steps:
            warm_up(
                captioner, tower, adapter.tokenizer, cache, recipe.warm_steps, recipe.warm_batch, recipe.warm_rate,
                work, recipe.check_scenes,
            )  # fmt: skip
            stages.append("captions")
    parts = Parts(captioner.eval(), None, adapter.identity(), {})
    if recipe.steps:
        tune(
            captioner, selector, adapter.tokenizer, adapter.encode_text, lessons, recipe.objective, recipe.steps,
            recipe.lessons, recipe.rate, work,
        )  # fmt: skip
        stages.append(phase)
        parts.selector = selector.eval()
    parts.facts = _facts(work, recipe, adapter, stages)
    digest = save(out, parts)
    curves = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    curves = [line for line in curves if line["phase"] in stages]
    (out / "curves.json").write_text(json.dumps(curves, indent=0) + "\n")
    write_card(out, parts, digest, adapter.info, curves)
    return parts


def _facts(work: Path, recipe: AccmRecipe, adapter: VLMAdapter, stages: list[str]) -> dict[str, object]:
    """Return the facts of the training, for configuration and card."""
    saved = {phase: torch.load(work / f"{phase}.pt", map_location="cpu", weights_only=True) for phase in stages}
    return {
        "stages": stages,
        "recipe": asdict(recipe),
        "minutes": {phase: round(state["seconds"] / 60, 1) for phase, state in saved.items()},
        "machine": processor_and_threads(),
        "device": str(adapter.device),
        "torch": torch.__version__,
    }
