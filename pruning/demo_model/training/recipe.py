"""The recipe of the bundled model, from random weights to a folder that `from_pretrained` opens.

Every phase saves checkpoints and is resumed where it stopped, so running the command again is always safe. The same
command uses a GPU if there is one.

At the end, statistics of the mean tower features of drawn scenes are saved beside the weights
(`measure_familiarity`). By the Mahalanobis distance of a picture's mean feature to them, `pruning.models.bundled` tells
that a picture is unlike a drawn scene and that the model's answer is a guess.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pruning.demo_model.training.architecture import SIDE, build_model, build_processor
from pruning.demo_model.training.counting import counting_scene, train_counting
from pruning.demo_model.training.language import FeatureCache, train_language
from pruning.demo_model.training.tower import DenseHeads, encode, to_pixels, train_tower
from pruning.demo_model.world.scene import draw, sample_scene, scene_rng
from pruning.engine.environment import processor_and_threads

PHASES = ("windows", "scenes", "language", "counting")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of the phases. A step is one batch; `cached_scenes` pictures are encoded once for the phase `language`, and
    `counted_scenes` for `counting`; accuracy during training is measured on `check_scenes` other ones, and the
    statistics of drawn scenes are those of `familiar_scenes`.
    """

    window_steps: int = 900
    window_scenes: int = 24
    scene_steps: int = 1000
    scene_batch: int = 16
    cached_scenes: int = 20_000
    language_steps: int = 5000
    language_batch: int = 16
    counted_scenes: int = 14_000
    counting_steps: int = 3300
    counting_batch: int = 16
    check_scenes: int = 96
    familiar_scenes: int = 1024


def train(work: Path, out: Path, recipe: Recipe, device: torch.device, begin: Path | None = None) -> None:
    """Run or resume all phases in the folder `work` and write the model to `out`; with `begin`, the folder of a
    finished model, only the last phase.
    """
    work.mkdir(parents=True, exist_ok=True)
    changes = _same_recipe(work, recipe)
    began = time.time()
    processor = build_processor()
    model = build_model(processor.tokenizer).to(device)
    tower, check = model.model.vision_tower, recipe.check_scenes
    if begin is None:
        torch.manual_seed(1)
        heads = DenseHeads().to(device)
        train_tower(tower, "windows", recipe.window_steps, recipe.window_scenes, 3e-3, work, heads, check)
        train_tower(tower, "scenes", recipe.scene_steps, recipe.scene_batch, 2e-3, work, heads, check)
        cache = FeatureCache(work, recipe.cached_scenes)
        cache.fill(tower, device)
        steps, batch = recipe.language_steps, recipe.language_batch
        train_language(model, processor.tokenizer, cache, steps, batch, 2e-3, work, check // 2)
    else:
        model.load_state_dict(type(model).from_pretrained(begin, dtype=torch.float32).state_dict())
    cache = FeatureCache(work, recipe.counted_scenes, counting_scene, "counting")
    cache.fill(tower, device)
    torch.manual_seed(1)
    steps, batch = recipe.counting_steps, recipe.counting_batch
    train_counting(model, processor.tokenizer, cache, steps, batch, 1.2e-3, work, check)
    earlier = json.loads((begin / "training.json").read_text()) if begin else {}
    save(model, processor, out, recipe, changes, work, (time.time() - began) / 60, earlier)


def save(
    model, processor, out: Path, recipe: Recipe, changes: list[str], work: Path, minutes: float, earlier: dict[str, Any]
) -> None:
    """Write weights in float16, processor, statistics of drawn scenes, and the facts of the training; `earlier` are the
    facts of the model that the last phase began with, if it was not trained here.
    """
    out.mkdir(parents=True, exist_ok=True)
    measure_familiarity(model.model.vision_tower, out / "familiarity.safetensors", recipe.familiar_scenes)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    model.float()
    before = ("window", "scene", "cached", "language")  # sizes of the phases that an earlier model went through
    sizes = {name: size for name, size in earlier.get("recipe", {}).items() if name.startswith(before)}
    facts = {
        "recipe": asdict(recipe) | sizes,
        "changes_on_the_way": earlier.get("changes_on_the_way", []) + changes,
        "seeds": {"weights": 0, "heads": 1},
        "minutes_of_this_call": round(minutes, 1),
        "phases": earlier.get("phases", {}) | _phase_minutes(work),
        "machine": processor_and_threads(),
        "device": str(model.device),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1))


def _phase_minutes(work: Path) -> dict[str, float]:
    found = {}
    for phase in PHASES:
        if (work / f"{phase}.pt").exists():
            state = torch.load(work / f"{phase}.pt", map_location="cpu", weights_only=True)
            found[phase] = round(state["seconds"] / 60, 1)
    return found


def _same_recipe(work: Path, recipe: Recipe) -> list[str]:
    """Return earlier lengths of the current phase, as sentences. A folder must not be resumed after any other change,
    because later phases were trained on the result of the changed one.
    """
    note, now = work / "recipe.json", asdict(recipe)
    before = json.loads(note.read_text()) if note.exists() else now | {"changes": []}
    changes = before.pop("changes")
    phase = "counting" if (work / "counting.pt").exists() else "language"
    length = f"{phase}_steps"
    if before | {length: now[length]} != now:
        raise SystemExit(f"{work} holds checkpoints of another recipe; choose another --work folder or delete it.")
    if before != now:
        state = work / f"{phase}.pt"
        done = torch.load(state, weights_only=True)["step"] if state.exists() else 0
        changes.append(f"until {phase} step {done} the schedule was one of {before[length]} steps")
    note.write_text(json.dumps(now | {"changes": changes}))
    return changes


@torch.no_grad()
def measure_familiarity(tower, path: Path, n_scenes: int) -> None:
    """Write mean and inverse covariance of the mean tower features of drawn scenes (`[dim]`, `[dim, dim]`), and the
    largest Mahalanobis distance of a held-out quarter of them.
    """
    device = next(tower.parameters()).device
    pooled = []
    for start in range(0, n_scenes, 32):
        scenes = [sample_scene(scene_rng("train", 3_000_000 + i)) for i in range(start, min(start + 32, n_scenes))]
        pixels = torch.stack([to_pixels(draw(s, SIDE)[0]) for s in scenes]).to(device)
        hidden, _ = encode(tower, pixels)
        pooled.append(hidden[:, 1:].float().mean(1).cpu())
    x = torch.cat(pooled)
    fit, held = x[: n_scenes * 3 // 4], x[n_scenes * 3 // 4 :]
    mean = fit.mean(0)
    covariance = (fit - mean).T @ (fit - mean) / len(fit) + 1e-3 * torch.eye(fit.shape[1]) * fit.var(0).mean()
    precision = torch.linalg.inv(covariance)
    distance = ((held - mean) @ precision * (held - mean)).sum(1).sqrt()
    save_file({"mean": mean, "precision": precision.contiguous(), "farthest": distance.max()[None]}, str(path))
