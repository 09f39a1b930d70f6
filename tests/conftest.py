"""Fixtures of all tests: a tiny model, a picture of noise, and random modules for the trained methods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pruning.methods import METHODS
from pruning.methods import trained_modules as learned
from pruning.methods.trained_modules import Learned
from pruning.models.families.llava import LlavaAdapter
from support.tiny_models import make_tiny_adapter

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def a_module_for_every_random_model(tmp_path_factory) -> Iterator[None]:
    """Methods that must be trained get a random module for models of these widths, whatever their weights are."""
    folder, fits = tmp_path_factory.mktemp("pruners"), learned.fits
    torch.manual_seed(4)
    for method in METHODS.values():
        for dim in (12, 32, 64, 128) if method.module else ():
            module = method.module(dim)
            learned.save(folder / f"{method.key}-{dim}", Learned(method.key, {"dim": dim}, module.state_dict(), {}, {}))
    learned.FOLDERS.append(folder)
    learned.fits = lambda one, info, dim: fits(one, info, dim) if one.made_for else one.shape["dim"] == dim
    yield
    learned.fits = fits
    learned.FOLDERS.remove(folder)


@pytest.fixture(scope="session")
def tiny() -> LlavaAdapter:
    return make_tiny_adapter()


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """A picture wider than high, so that rows and columns cannot be swapped unnoticed."""
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
