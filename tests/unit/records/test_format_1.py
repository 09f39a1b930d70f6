"""Files of before format 2, and Python exported then, still open."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from pruning.records.decisions import read_decision
from pruning.records.plan import StructuralPlan
from pruning.records.run import RunRecord

OLD = Path(__file__).parent / "format_1"


@pytest.mark.parametrize("name", ["accm", "planned"])
def test_a_run_of_format_1_opens_and_is_saved_as_format_2(name, tmp_path):
    before = json.loads((OLD / f"{name}.json").read_text())
    record = RunRecord.load(OLD / name)
    assert before["schema_version"] == 1
    assert record.pruned.text == before["pruned"]["text"]
    assert record.full.timing.encode_ms == before["full"]["timing"]["see_ms"]
    record.save(tmp_path / name)
    assert json.loads((tmp_path / f"{name}.json").read_text())["schema_version"] == 2
    again = RunRecord.load(tmp_path / name)
    (data, arrays), (data_again, arrays_again) = record.to_parts(), again.to_parts()
    assert data == data_again
    assert arrays.keys() == arrays_again.keys()
    assert all(
        np.array_equal(arrays[key], arrays_again[key], equal_nan=arrays[key].dtype.kind == "f") for key in arrays
    )


def test_the_third_answer_of_a_format_1_run_is_read():
    before = json.loads((OLD / "accm.json").read_text())["compensated"]
    found = RunRecord.load(OLD / "accm").compensated
    assert found.answer.text == before["answer"]["text"]
    assert found.caption == before["caption"]


def test_a_plan_of_format_1_opens_with_the_digest_that_runs_name():
    plan = StructuralPlan.load(OLD / "plan.zip")
    assert plan.digest == RunRecord.load(OLD / "planned").request.structure


def test_a_decision_file_opens():
    assert read_decision(OLD / "decision.json") == {"kept": [0, 5, 9], "n_tokens": 36}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("runner", ("run", "Compressed")),
        ("pictures", ("read_picture",)),
        ("give_back", ("open_compensator",)),
        ("plans", ("StructuralPlan",)),
        ("help_record", ("Compensation",)),
        ("decision_file", ("read_decision",)),
        ("video", ("read_clip",)),
        ("records", ("RunRequest",)),
        ("models", ("load",)),
    ],
)
def test_modules_that_exported_python_imports_are_there(module, names):
    found = importlib.import_module(f"pruning.{module}")
    assert all(callable(getattr(found, name)) for name in names)
