"""Small modules that pruners decide with, each trained for one model and kept in a folder with its weights and card.

A module is valid only for the visual tokens and text embeddings it was trained on, so its folder holds the identity of
the model. Where no folder fits a model, the method refuses it by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pruning import checkpoints as weights_file
from pruning.checkpoints import CONFIG, alike
from pruning.errors import PrunerUntrainedError
from pruning.interface import ModelInfo

KIND, FORMAT = "pruner", 1
READ = ("tower", "projector", "words")  # parts of a model's identity that a module depends on
FOLDERS = [Path(__file__).parents[2] / "assets" / "models"]  # each of their folders may be one


@dataclass(frozen=True, slots=True)
class Learned:
    """Contents of a folder. `shape`: keyword arguments of the module; `made_for`: identity of the model
    (`models.base.VLMAdapter.identity`); `facts`: how it was trained.
    """

    method: str
    shape: Mapping[str, int]
    weights: Mapping[str, torch.Tensor]
    made_for: Mapping[str, Any]
    facts: Mapping[str, Any]


def save(folder: Path, learned: Learned) -> str:
    """Write a folder that `read` opens; return the weights' sha256."""
    config = {
        "kind": KIND, "format": FORMAT, "method": learned.method, "shape": dict(learned.shape),
        "made_for": dict(learned.made_for), "facts": dict(learned.facts),
    }  # fmt: skip
    return weights_file.write(folder, learned.weights, config)


def read(folder: Path) -> Learned:
    """Return the contents of a folder written by `save`.

    Raises:
        PrunerUntrainedError: if it is damaged, incomplete or newer.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise PrunerUntrainedError(
                f"The pruner in {folder.name} has format {config['format']!r}; this version reads {FORMAT}.",
                "Use the version of PruneScope that wrote it.",
            )
        tensors = weights_file.read(folder, config["sha256"])
        return Learned(config["method"], config["shape"], tensors, config["made_for"], config["facts"])
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise PrunerUntrainedError(
            f"The trained pruner in {folder.name} cannot be read ({error}).", "Copy the whole folder again."
        ) from error


def module_for(
    key: str, title: str, make: Callable[..., torch.nn.Module], info: ModelInfo, dim: int
) -> torch.nn.Module:
    """Return the module trained for a method and a model, in eval mode; the same object every time.

    Args:
        key, title: of the method. make: builds the untrained module from its shape.
        dim: width of the visual tokens that are the module's input, part of every shape.

    Raises:
        PrunerUntrainedError: if there is none for this model, or it is damaged.
    """
    for folder in _folders(key):
        written = (folder / CONFIG).stat().st_mtime_ns
        if fits(_read(folder, written), info, dim):
            return _built(folder, written, make)
    raise PrunerUntrainedError(
        f"{title} decides with a small module that is trained for one model; there is none for {info.name}.",
        "Choose the bundled model, or a method without training.",
    )


def _folders(key: str) -> list[Path]:
    """Return the folders of modules for this method, for any model."""
    configs = sorted(config for place in FOLDERS for config in place.glob(f"*/{CONFIG}"))
    return [config.parent for config in configs if _method_of(config, config.stat().st_mtime_ns) == key]


@lru_cache(maxsize=64)
def _method_of(config: Path, written: int) -> str | None:
    """Return the method that a folder is for, or None for other folders; cached, since every decision needs it."""
    del written  # as in `_read`
    try:
        said = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("method") if isinstance(said, dict) and said.get("kind") == KIND else None


def fits(learned: Learned, info: ModelInfo, dim: int) -> bool:
    """Return whether a module was trained on this model's tower, projector and word embeddings."""
    if learned.shape["dim"] != dim or info.identity is None:  # the identity of a large model takes a second
        return False
    mine = info.identity()
    return all(alike(learned.made_for.get(part, ()), mine[part]) for part in READ)


@lru_cache(maxsize=16)
def _read(folder: Path, written: int) -> Learned:
    del written  # part of the key: a folder that was written again is read again
    return read(folder)


@lru_cache(maxsize=16)
def _built(folder: Path, written: int, make: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    learned = _read(folder, written)
    try:
        module = make(**learned.shape)
        module.load_state_dict(dict(learned.weights))
    except (TypeError, RuntimeError) as error:
        raise PrunerUntrainedError(
            f"The trained pruner in {folder.name} does not fit its own description: {str(error).splitlines()[0]}",
            "Copy the whole folder again.",
        ) from error
    return module.eval().requires_grad_(False)
