"""The bench runs, and says what it measured. How fast anything is, is never asserted."""

from __future__ import annotations

import json
import re

import pytest
import torch

from pruning.benchmarks import speed as bench_module
from pruning.benchmarks.published_order import ORDERS
from pruning.benchmarks.speed import table
from pruning.cli.parser import main
from pruning.methods import METHODS
from pruning.models.loading.random_model import Shape


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench_module, "SMALL", Shape(3, 64, 128, 4))
    monkeypatch.setattr(bench_module, "GRIDS", ((6, 6), (8, 10)))
    monkeypatch.setattr(bench_module, "DIM", 64)
    monkeypatch.setattr(bench_module, "COUNTS", (64,))


def test_every_question_is_answered_and_threads_are_given_back(small, tmp_path, capsys):
    threads = torch.get_num_threads()
    assert main(["bench", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path / "speed.json")]) == 0
    assert torch.get_num_threads() == threads
    found = json.loads((tmp_path / "speed.json").read_text())
    assert set(found["selection"]) == set(METHODS)
    assert all(found["selection"][key]["over_published_order"] > 0 for key in ORDERS)
    for model in ("bundled", "random 0.15 B"):
        [row] = found["prefill"][model]
        assert row["kept"] == 64
        assert 0 < row["work_ratio"] < 0.2
        assert row["time_over_work"] == pytest.approx(row["time_ratio"] / row["work_ratio"], rel=0.01)
        assert row["engine_over_bare"] > 0
        assert found["recording"][model]["engine_over_plain"] > 0
    assert set(found["memory"]["random 0.15 B"]) >= {"full", "random_baseline", "uniform_grid"}, (
        "these refuse no budget"
    )
    assert found["environment"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{12}\+?", found["environment"]["commit"])
    printed = capsys.readouterr().out
    refused = {key for key, row in found["selection"].items() if "refused" in row}
    assert all(METHODS[key].module for key in refused)  # not trained for random weights
    assert all(METHODS[key].title in printed for key in set(METHODS) - refused)
    assert table(found) in printed
