"""Save and load a trained captioner and selector as a folder: `config.json`, `model.safetensors`, and a card.

The folder says for which model it was made: a captioner reads one tower's features in one tokenizer's words, and a
selector one language model's text states. Opened for another model, it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pruning import checkpoints as weights_file
from pruning.checkpoints import CONFIG, alike
from pruning.compensation.captioner import Captioner, CaptionerShape
from pruning.compensation.selector import Selector, SelectorShape
from pruning.errors import CompensatorUnavailableError

KIND, FORMAT = "accm", 1
ADVICE = "Give the folder that `python -m pruning train-accm --out` wrote."


@dataclass(slots=True)
class Parts:
    """What a folder holds. `selector` is None after a warm start alone; `facts` tell how it was trained."""

    captioner: Captioner
    selector: Selector | None
    made_for: dict[str, Any]
    facts: dict[str, Any]


def save(folder: Path, parts: Parts) -> str:
    """Write a folder that `load` opens; returns the weights' sha256."""
    modules = {"captioner": parts.captioner, "selector": parts.selector}
    weights = {
        f"{name}.{key}": value
        for name, module in modules.items() if module is not None
        for key, value in module.state_dict().items()
    }  # fmt: skip
    config = {
        "kind": KIND,
        "format": FORMAT,
        "captioner": asdict(parts.captioner.shape),
        "selector": None if parts.selector is None else asdict(parts.selector.shape),
        "made_for": parts.made_for,
        "facts": parts.facts,
    }
    return weights_file.write(folder, weights, config)


def is_captioner(folder: Path) -> bool:
    """Whether a folder says that it is one, whatever its weights are."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))["kind"] == KIND
    except (OSError, ValueError, LookupError, TypeError):
        return False


def load(folder: Path, device: torch.device | str = "cpu") -> Parts:
    """Read a folder written by `save`, ready for use.

    Raises:
        CompensatorUnavailableError: for a folder that is not a captioner, is incomplete, damaged or newer.
    """
    config = _read_config(folder)
    try:
        found = weights_file.read(folder, config.get("sha256"))
    except ValueError as error:
        raise CompensatorUnavailableError(
            f"The weights in {folder.name} are not the ones its {CONFIG} describes.", "Copy the whole folder again."
        ) from error
    except (OSError, SafetensorError) as error:
        raise CompensatorUnavailableError(
            f"The captioner's weights in {folder.name} cannot be read ({error}).", ADVICE
        ) from error
    try:
        captioner = Captioner(CaptionerShape(**config["captioner"]))
        _fill(captioner, found, "captioner.")
        selector = None
        if config["selector"] is not None:
            selector = Selector(SelectorShape(**config["selector"]))
            _fill(selector, found, "selector.")
        made_for, facts = dict(config["made_for"]), dict(config["facts"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CompensatorUnavailableError(
            f"The captioner in {folder.name} does not fit its own description: {str(error).splitlines()[0]}", ADVICE
        ) from error
    for module in (captioner, selector):
        if module is not None:
            module.to(device).eval().requires_grad_(False)
    return Parts(captioner, selector, made_for, facts)


def check_made_for(parts: Parts, name: str, identity: Mapping[str, Any]) -> None:
    """See that a folder belongs to a model. `identity` has the keys `vision_dim`, `vocabulary`, `tower`, `words`.

    Raises:
        CompensatorUnavailableError: naming what does not fit.
    """
    advice = "Train one for this model with `python -m pruning train-accm`, or choose the model that it was made for."
    width = parts.captioner.shape.vision_dim
    if width != identity["vision_dim"]:
        raise CompensatorUnavailableError(
            f"This captioner reads tokens of width {width}; the tower of {name} gives {identity['vision_dim']}.", advice
        )
    if parts.made_for.get("vocabulary") != identity["vocabulary"]:
        raise CompensatorUnavailableError(f"This captioner speaks another vocabulary than {name}.", advice)
    if not alike(parts.made_for.get("tower", ()), identity["tower"]):
        raise CompensatorUnavailableError(f"This captioner was trained on another vision tower than {name}'s.", advice)
    if parts.selector is not None and not alike(parts.made_for.get("words", ()), identity["words"]):
        raise CompensatorUnavailableError(
            f"This selector was trained on the text states of another language model than {name}'s.", advice
        )


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CompensatorUnavailableError(f"There is no captioner at {folder.name}: it is not a folder.", ADVICE)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompensatorUnavailableError(
            f"{folder.name} is not a captioner: its {CONFIG} cannot be read.", ADVICE
        ) from error
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise CompensatorUnavailableError(f"{folder.name} is not a captioner: its {CONFIG} is of another kind.", ADVICE)
    if config.get("format") != FORMAT:
        raise CompensatorUnavailableError(
            f"The captioner in {folder.name} has format {config.get('format')!r}; this version reads {FORMAT}.",
            "Use the version of PruneScope that wrote it.",
        )
    return config


def _fill(module: torch.nn.Module, found: dict[str, torch.Tensor], prefix: str) -> None:
    module.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
