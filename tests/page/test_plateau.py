"""Memory and files after many runs: what a page holds on to is bounded."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from app.handlers.explore import Handlers
from app.handlers.requests import RunForm
from app.media.examples import read_examples
from app.serving.middleware import make_room
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings
from pruning.methods import METHODS

RUNS, WARM_UP, EVERY = 200, 80, 20  # after the warm-up the caches are full
RUNS_PER_PICTURE = 4
TAKEN_AWAY = (30, 110, 190)
SLACK_MB = 20.0  # of the allocator and of libraries that are loaded late; encoding a picture takes about one


def resident_mb() -> float:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was given back is not held
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def tensor_mb() -> float:
    """Exactly what all living tensors hold."""
    found = {t.untyped_storage().data_ptr(): t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}
    return sum(t.untyped_storage().nbytes() for t in found.values()) / 2**20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
@pytest.mark.timeout(900)  # half a minute of a quiet processor, and much more of a busy one
def test_memory_and_files_reach_a_plateau_over_200_runs(tmp_path, monkeypatch):
    """Many pictures, questions and visitors, every method, with the bundled model; some runs are taken away."""
    uploads, scratch = tmp_path / "uploads", tmp_path / "scratch"
    uploads.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    handlers = Handlers(Service(Settings(max_new_tokens=2)), read_examples(), 576, uploads)
    draw, methods, held = np.random.default_rng(0), list(METHODS), []
    for number in range(RUNS):
        path, me = uploads / f"{number // RUNS_PER_PICTURE}.png", Visitor(f"page {number}", "10.0.0.1")
        if not path.exists():
            Image.fromarray(draw.integers(0, 255, (192, 192, 3), dtype=np.uint8)).save(path)
        asked = RunForm(f"What color is {path.stem}?", methods[number % len(methods)], 64, "demo")
        *_, (status, _) = handlers.run(SessionState(f"upload:{path}"), asked, me)
        assert status["text"].startswith("Done"), status
        for kind in ("png", "mp4") if number in TAKEN_AWAY else ():
            wish = SimpleNamespace(kind=kind, number=number, source={"kind": "live"})
            assert "data" in handlers.take(wish, me.session)
        if number % EVERY == EVERY - 1:
            held.append((resident_mb(), tensor_mb()))
    resident, tensors = zip(*held[WARM_UP // EVERY - 1 :], strict=True)
    said = "; ".join(f"{mb:.0f} of which tensors {inside:.1f}" for mb, inside in held)
    print(f"every {EVERY} runs, MB: {said}")  # noqa: T201 (pytest -rP shows it)
    assert max(resident) - resident[0] < SLACK_MB, said
    assert max(tensors) - tensors[0] < 1, said
    assert list(scratch.iterdir()) == [], "no export leaves a file"
    assert not handlers.service._holds
    assert not handlers.service._subscribers


def test_uploads_make_room_for_newer_ones(tmp_path):
    for number in range(12):
        folder = tmp_path / f"digest {number}"
        folder.mkdir()
        (folder / "picture.png").write_bytes(bytes(100))
        os.utime(folder / "picture.png", (number, number))
    make_room(tmp_path, most_bytes=10_000, most_files=9)
    assert sorted(int(p.parent.name.split()[1]) for p in tmp_path.rglob("*.png")) == list(range(3, 12))
    make_room(tmp_path, most_bytes=499, most_files=9)
    assert sorted(int(p.parent.name.split()[1]) for p in tmp_path.rglob("*.png")) == list(range(8, 12))
    make_room(tmp_path / "not there yet")
