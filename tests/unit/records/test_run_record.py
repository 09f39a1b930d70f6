"""A record is complete, consistent, and comes back from disk as it went there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.errors import BudgetError, PruningError, RecordFormatError
from pruning.methods import METHODS
from pruning.methods.published_budgets import meaning
from pruning.records.run import RunRecord, RunRequest
from pruning.records.selection import CLS_SOURCE, Selection
from support.paths import ROOT


def request(method="vitcop", **kwargs) -> RunRequest:
    return RunRequest("tiny", method, 0.4, "What color is the star?", max_new_tokens=3, **kwargs)


@pytest.fixture(scope="module")
def record(tiny, noise) -> RunRecord:
    return run(request(), tiny, noise, RunContext(answer_region=np.array([3, 4, 9])))


def same(a: RunRecord, b: RunRecord) -> bool:
    (data, arrays), (other, others) = a.to_parts(), b.to_parts()
    return (
        json.loads(json.dumps(data)) == json.loads(json.dumps(other))
        and arrays.keys() == others.keys()
        and all(np.array_equal(arrays[k], others[k], equal_nan=arrays[k].dtype.kind == "f") for k in arrays)
    )


@pytest.mark.parametrize("method", METHODS)
def test_round_trip(tiny, noise, tmp_path, method):
    made = run(request(method), tiny, noise)
    said = meaning(METHODS[method](keep_ratio=0.4), tiny.info, 36)
    assert said.per_layer == made.pruned.visual_per_layer, "what is said before a run is what its layers read"
    assert said.average == made.counts["average"]
    made.save(tmp_path / "r")
    back = RunRecord.load(tmp_path / "r.json")
    assert same(made, back)
    assert same(RunRecord.load(tmp_path / "r.npz"), back)


def test_reasons_name_kept_tokens_each_once(tiny, noise):
    step = run(request("vispruner"), tiny, noise).steps[0]
    assert np.array_equal(np.sort(np.concatenate(list(step.why.values()))), step.selection.kept)
    kept, dropped = step.selection.kept, step.selection.dropped
    for why in ({"one": kept, "other": kept[:1]}, {"one": dropped[:1]}):
        with pytest.raises(RecordFormatError, match="each once"):
            replace(step, why=why)


def test_a_record_is_read_without_torch(record, tmp_path):
    record.save(tmp_path / "r")
    code = (
        "import sys; from pathlib import Path;"
        "from pruning.records.run import RunRecord; from viz.page.run import canvas_view;"
        f"r = RunRecord.load(Path({str(tmp_path / 'r')!r})); canvas_view(r, '', recorded=True);"
        "assert not {'torch', 'transformers', 'gradio'} & set(sys.modules); print(len(r.kept))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == str(len(record.kept)), done.stderr


def test_a_record_cannot_be_changed(record):
    with pytest.raises(ValueError, match="read-only"):
        record.steps[0].selection.kept[0] = 5
    with pytest.raises(AttributeError):
        record.positions = "x"


def test_what_was_asked_is_in_the_record(record, noise):
    assert len(record.request.image_digest) == 64
    assert record.request.key() == RunRequest(**json.loads(record.request.key())).key()
    assert record.environment["torch"]
    assert record.method_title == "ViTCoP"
    assert record.full.timing.prefill_ms > 0
    assert len(record.pruned.visual_per_layer) == 6


@pytest.mark.parametrize("damage", ["json", "npz", "missing npz", "newer", "field", "array", "list"])
def test_a_damaged_record_says_so(record, tmp_path, damage):
    path = record.save(tmp_path / "r")
    data = json.loads(path.read_text())
    arrays = dict(np.load(tmp_path / "r.npz"))
    if damage == "json":
        path.write_text(path.read_text()[:200])
    elif damage == "npz":
        (tmp_path / "r.npz").write_bytes(b"PK nothing")
    elif damage == "missing npz":
        (tmp_path / "r.npz").unlink()
    elif damage == "newer":
        path.write_text(json.dumps(data | {"schema_version": 99}))
    elif damage == "field":
        del data["full"]["text"]
        path.write_text(json.dumps(data))
    elif damage == "array":
        del arrays["step0.kept"]
        np.savez(tmp_path / "r.npz", **arrays)
    else:
        path.write_text("[]")
    with pytest.raises(RecordFormatError):
        RunRecord.load(path)


def selection(**changes) -> Selection:
    parts = {
        "n_total": 6, "alive": [0, 1, 2, 4], "kept": [1, 4], "merged_into": [4, -1, -1, -1, -1, -1],
        "scores": None, "order": [1, 4],
    }  # fmt: skip
    return Selection(**{**parts, **changes})


def test_fates_are_derived():
    s = selection(order=[CLS_SOURCE, 4, 1])
    assert s.dropped.tolist() == [2]
    assert s.merged.tolist() == [0]
    assert s.n_rows == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kept": [4, 1]}, "ascending"),
        ({"kept": [1, 6], "order": [1, 6]}, "0..5"),
        ({"kept": [1, 3], "order": [1, 3]}, "must have been alive"),
        ({"merged_into": [2, -1, -1, -1, -1, -1]}, "merged into kept"),
        ({"merged_into": [4]}, "6 entries"),
        ({"scores": [1.0]}, "6 entries"),
        ({"order": [1]}, "every kept token once"),
        ({"order": [1, 1]}, "every kept token once"),
    ],
)
def test_an_inconsistent_selection_dies_at_birth(changes, sentence):
    with pytest.raises(RecordFormatError, match=sentence):
        selection(**changes)


def test_a_bad_request_dies_at_birth():
    with pytest.raises(BudgetError):
        RunRequest("m", "fastv", 0.0, "q")
    with pytest.raises(RecordFormatError, match="positions"):
        RunRequest("m", "fastv", 0.5, "q", positions="somewhere")


def test_names_with_dots_are_whole_names(record, tmp_path):
    first, second = record.save(tmp_path / "resprune-0.11"), record.save(tmp_path / "resprune-0.25")
    assert (first.name, second.name) == ("resprune-0.11.json", "resprune-0.25.json")
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert same(RunRecord.load(first), RunRecord.load(tmp_path / "resprune-0.25"))


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"seed": 2**70}, {"seed": 1.5}, {"seed": True}, {"max_new_tokens": 0}, {"max_new_tokens": 10**9}],
    ids=str,
)
def test_a_request_says_what_it_allows(wrong):
    with pytest.raises(RecordFormatError, match="whole number from"):
        RunRequest("demo", "fastv", 0.5, "What?", **wrong)


def change(name, value):
    def apply(data, arrays):
        if name in arrays:
            arrays[name] = value
        else:
            part, _, key = name.partition("/")
            (data[part] if key else data)[key or part] = value

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        change("answer_region", np.array([10**6])),
        change("answer_region", np.zeros((2, 2))),
        change("full/visual_per_layer", []),
        change("full/log_probs", []),
        change("layout/tiles", [{"box_xyxy": [float("nan")] * 4, "grid_hw": [6, 6], "model_wh": [48, 48]}]),
        change("layout/tiles", [{"box_xyxy": [0, 0, 9, 9], "grid_hw": [30000, 30000], "model_wh": [48, 48]}]),
        change("full_cost/prefill_flops", -1),
    ],
)
def test_values_that_cannot_be_are_refused(record, damage):
    data, arrays = record.to_parts()
    arrays["answer_region"] = np.arange(4)
    data = json.loads(json.dumps(data))
    damage(data, arrays)
    with pytest.raises(PruningError):
        RunRecord.from_parts(data, arrays)
