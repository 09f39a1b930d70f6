"""The walk-through of a new method in docs/extending.md: its file is a method, and keeps what it says."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
import torch

from pruning import methods
from support.paths import ROOT
from support.world import World, drive

GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_the_method_of_the_guide_keeps_the_largest_norms(monkeypatch):
    code = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "class L2Norm" in block)
    module = ModuleType("pruning.methods.l2norm")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/extending.md", "exec"), module.__dict__)
    world = World.make((6, 6))
    found = methods._class_in("l2norm")
    [step] = drive(found(keep_ratio=0.25), world)
    assert set(step.decision.keep.tolist()) == set(world.features.norm(dim=-1).topk(9).indices.tolist())
    assert torch.equal(step.decision.scores, world.features.norm(dim=-1))
    assert set(found.explanation()) == {"Idea", "Paper", "Stage", "Needs", "Symbols", "Differs", "Cost"}


def test_a_file_without_its_key_is_named():
    with pytest.raises(LookupError, match=r"staged\.py has no class with key = 'staged'"):
        methods._class_in("staged")
