"""Published budgets say what they mean in every layer, and a run shows that it was meant so."""

from __future__ import annotations

import json

import pytest

from app.handlers.budgets import budgets
from app.handlers.explore import Handlers
from app.media.examples import read_examples
from app.serving.service import Service
from app.session import SessionState
from app.settings import Settings
from pruning.budget import n_keep
from pruning.cli import budgets as budgets_cli
from pruning.cli.parser import main
from pruning.engine.run import run
from pruning.interface import ModelInfo, Signal
from pruning.methods import METHODS
from pruning.methods.published_budgets import meaning, presets
from pruning.metrics.agreement import random_band
from pruning.records.run import RunRecord, RunRequest
from support.paths import ROOT
from viz.export.recipe import figures_of
from viz.page.run import cost_view

LLAVA_7B = ModelInfo("7B", 24, 22, 32, 1024, 4096, 4096, 11008, 4096, signals=frozenset(Signal))
PICTURE = str(ROOT / "assets" / "examples" / "digit.jpg")


def test_published_counts_and_ratios():
    assert presets(576) == (192, 128, 64)
    assert presets(2880) == (640, 320, 160)
    assert presets(345) == (115, 77, 38)  # 33.3, 22.2 and 11.1 %
    assert presets(2) == (1,)


@pytest.mark.parametrize(
    ("method", "count", "parameters", "text"),
    [
        ("resprune", 64, {}, "64 in every layer"),
        ("fastv", 64, {}, "average over layers 96.0: 576 in layers 0-1, 64 in layers 2-31"),
        (
            "fastv",
            64,
            {"budget": "average over layers"},
            "average over layers 64.1: 576 in layers 0-1, 30 in layers 2-",
        ),
        (
            "pyramiddrop",
            72,
            {},
            "average over layers 270.0: 576 in layers 0-7, 288 in layers 8-15, 144 in layers 16-23",
        ),
        ("prumerge", 64, {"budget": "outliers"}, "the picture decides how many stay; by the share it would be: 64 in"),
    ],
)
def test_sixty_four_is_not_one_quantity(method, count, parameters, text):
    assert meaning(METHODS[method].from_parameters(count / 576, parameters), LLAVA_7B, 576).text.startswith(text)


def test_a_budget_that_cannot_be_met_says_why():
    said = meaning(METHODS["vitcop"](keep_ratio=0.999), LLAVA_7B, 576)
    assert (said.per_layer, said.average) == ((), None)
    assert "ViTCoP keeps at most" in said.text
    assert meaning(METHODS["vitcop"](keep_ratio=1), LLAVA_7B, 576).text == "all in every layer"


def test_requested_kept_distinct_and_average_are_the_records(tiny, noise, tmp_path):
    record = run(RunRequest("tiny", "visionzip", 0.4, "What color?", max_new_tokens=1), tiny, noise)
    rows = record.steps[-1].selection.n_rows
    assert record.counts == {"requested": n_keep(0.4, 36), "kept": rows, "distinct": len(record.kept), "average": rows}
    assert record.counts["distinct"] == record.counts["kept"] - 1  # VisionZip feeds [CLS]
    assert json.loads(record.save(tmp_path / "r").read_text())["counts"] == record.counts
    assert RunRecord.load(tmp_path / "r").counts == record.counts
    assert record.counts.items() <= cost_view(record)["counted"].items()
    assert figures_of(record)["requested_kept_distinct"] == [
        record.counts[k] for k in ("requested", "kept", "distinct")
    ]


def test_the_random_band_says_its_average(tiny, noise):
    """What cuts late reads more than random pruning of the same share."""
    runs = [
        run(RunRequest("tiny", m, 0.25, "What?", max_new_tokens=1), tiny, noise) for m in ("random_baseline", "fastv")
    ]
    band = random_band(runs[:1])
    assert band["average"] == 9
    assert runs[1].counts["average"] == 18 != band["average"]


def test_budgets_on_the_command_line(tiny, monkeypatch, capsys):
    monkeypatch.setattr(budgets_cli, "load", lambda *args, **kwargs: tiny)
    assert main(["budgets", PICTURE, "--method", "fastv"]) == 0
    printed = capsys.readouterr().out
    assert "36 visual tokens of this picture, 6 layers" in printed
    assert "     4: average over layers 14.7: 36 in layers 0-1, 4 in layers 2-5\n" in printed
    assert main(["budgets", PICTURE, "--budget", "37"]) == 2
    assert "this picture has 36 visual tokens on this model. Choose 1 to 36." in capsys.readouterr().err


@pytest.fixture
def handlers(tiny, tmp_path) -> Handlers:
    return Handlers(Service(Settings(), load=lambda name, **kwargs: tiny), read_examples(), 576, tmp_path)


def told(handlers, method="fastv", own=None, model="demo"):
    return budgets(handlers, SessionState(), method, model, own or {}, "me")


def test_the_page_says_the_models_own_count_where_it_is_known(handlers):
    assert told(handlers)["total"] == 576
    other = told(handlers, model="llava-1.5-7b")
    assert (other["total"], other["presets"]) == (0, [])
    assert "press Run" in other["note"]
    handlers.service.adapter("demo")
    view = told(handlers)
    assert (view["total"], view["scale"]) == (36, 576)
    assert [(p["count"], p["slider"]) for p in view["presets"]] == [(12, 192), (8, 128), (4, 64)]
    assert view["presets"][2]["text"] == "average over layers 14.7: 36 in layers 0-1, 4 in layers 2-5"
    assert told(handlers, own={"layer": 3})["presets"][2]["text"].startswith(
        "average over layers 20.0: 36 in layers 0-2"
    )
    assert "No file with a decision" in told(handlers, "imported")["note"]
