"""The engine without a page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pruning.cli.parser import main
from pruning.compensation import COMPENSATORS
from pruning.demo_model.training.architecture import build_processor
from pruning.methods import METHODS
from pruning.records.run import RunRecord
from support.paths import ROOT
from support.tiny_models import PATCH, SIDE, tiny_llava

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("cli") / "small"
    tiny_llava().save_pretrained(where)
    build_processor(SIDE, PATCH).save_pretrained(where)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(where / "picture.png")
    return where


def run_args(folder, *more):
    question = "What color is the star?"
    return ["run", str(folder / "picture.png"), question, "--model", str(folder), "--max-new-tokens", "3", *more]


def test_list_names_every_method_parameter_and_model(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["key"] for m in listed["methods"]] == list(METHODS)
    assert [c["key"] for c in listed["compensators"]] == list(COMPENSATORS)
    assert {p["name"] for m in listed["methods"] for p in m["parameters"]} >= {"alpha", "layer", "tau"}
    assert main(["list"]) == 0
    assert "LLaVA-1.5 7B" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_run_writes_a_record(folder, tmp_path, capsys, method):
    out = tmp_path / "record"
    assert main(run_args(folder, "--method", method, "--keep-ratio", "0.4", "--out", str(out))) == 0
    printed = capsys.readouterr().out
    record = RunRecord.load(out)
    assert record.request.method == method
    assert record.pruned.text in printed
    assert "estimated" in printed
    assert "measured once" in printed


def test_run_prints_the_record_for_machines(folder, capsys):
    assert main(run_args(folder, "--json", "--set", "alpha=0", "--set", "normalise=l2")) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["request"]["parameters"] == {"alpha": 0, "normalise": "l2"}
    assert data["variant"] == "alpha = 0, normalise = l2"
    assert "diagnostics" not in data


def test_diagnostics_are_printed_and_saved(folder, tmp_path, capsys):
    out = tmp_path / "record"
    assert main(run_args(folder, "--keep-ratio", "0.25", "--diagnostics", "--json", "--out", str(out))) == 0
    told = json.loads(capsys.readouterr().out)["diagnostics"]
    assert told["findings"]["coverage"]["value"] > 0
    assert len(told["overlaps"]) == len(METHODS) - 2
    found = told["findings"]["effective_rank"]["value"]
    assert RunRecord.load(out).traits.effective_rank == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--keep-ratio", "0"], "above 0 and at most 1"),
        (["--keep-ratio", "nan"], "above 0 and at most 1"),
        (["--keep-ratio", "1.5"], "above 0 and at most 1"),
        (["--method", "fast-v"], "no method 'fast-v'. Known methods: fastv"),
        (["--set", "alpah=1"], "no parameter 'alpah'; it has: alpha"),
        (["--set", "alpha=99"], "allows 0 to 8"),
        (["--set", "alpha=x"], "needs a number"),
        (["--set", "alpha"], "not NAME=VALUE"),
        (["--set", "relevance=magic"], "allows: max over words"),
        (["--positions", "elsewhere"], "method, original or renumbered"),
        (["--model", "nowhere"], "neither a folder nor a hub id"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(folder, capsys, more, sentence):
    assert main(run_args(folder, *more)) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err


def test_a_bad_picture_or_question(folder, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"nothing")
    assert main(["run", str(tmp_path / "x.png"), "What?", "--model", str(folder)]) == 2
    assert "not a picture" in capsys.readouterr().err
    assert main(["run", str(folder / "picture.png"), "  ", "--model", str(folder)]) == 2
    assert "question is empty" in capsys.readouterr().err


def test_select_decides_on_arrays(tmp_path, capsys):
    out = tmp_path / "out.npz"
    arguments = ["select", "resprune", str(GOLDEN / "resprune_a.npz"), "--set", "n_keep=32", "--set", "alpha=0"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "kept int32 [32]" in capsys.readouterr().out
    with np.load(out) as found, np.load(GOLDEN / "resprune_a.npz") as golden:
        assert found["kept"].tolist() == golden["k32_alpha0__kept"].tolist()
    assert main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pick_order"]) == 32


def test_select_refuses_with_a_sentence(tmp_path, capsys):
    assert main(["select", "magic", str(GOLDEN / "resprune_a.npz")]) == 2
    assert "served kinds" in capsys.readouterr().err
    assert main(["select", "resprune", str(tmp_path / "no.npz")]) == 2
    assert "cannot be read as NPZ" in capsys.readouterr().err
    assert main(["select", "resprune", str(GOLDEN / "resprune_a.npz")]) == 2
    assert "needs 'alpha'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--set", "n_keep=abc"], "cannot decide on these inputs"),
        (["--set", "n_keep=10000"], "more tokens than there are"),
        (["--set", "n_keep=0"], "or none"),
        (["--set", "n_keep=4", "--out", "/nowhere/at/all.npz"], "cannot be written"),
    ],
)
def test_select_says_what_is_wrong(capsys, more, sentence):
    assert main(["select", "resprune", str(GOLDEN / "resprune_a.npz"), "--set", "alpha=0.5", *more]) == 2
    assert sentence in capsys.readouterr().err


def test_arrays_that_are_none(tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.zeros(3))
    for content in (b"", b"PK\x03\x04 cut", (tmp_path / "one.npy").read_bytes()):
        (tmp_path / "x.npz").write_bytes(content)
        assert main(["select", "resprune", str(tmp_path / "x.npz")]) == 2
        assert "cannot be read as NPZ" in capsys.readouterr().err
