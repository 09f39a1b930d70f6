"""Our decisions equal the published ones, case by case. Provenance and flags: README.md and index.json beside this."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pruning.arrays import KINDS, select
from pruning.errors import ParameterError

FOLDER = Path(__file__).parent
FILES = json.loads((FOLDER / "index.json").read_text())["files"]
CASES = [(f, c) for f in FILES for c in f["cases"] if not c.get("quirk") and not c.get("official_raises")]
SERVED = [(f, c) for f, c in CASES if f["kind"] in KINDS]


def partition(labels: np.ndarray) -> list[int]:
    """Labels renumbered by first appearance; -1 stays."""
    encoded: dict[int, int] = {}
    return [-1 if v < 0 else encoded.setdefault(int(v), len(encoded)) for v in labels.ravel()]


def differs(mode: str, want: np.ndarray, got: np.ndarray) -> bool:
    if mode == "exact set":
        return not np.array_equal(np.sort(want, -1), np.sort(got, -1))
    if mode.startswith("exact partition"):
        return partition(want) != partition(got)
    if mode.startswith("exact"):
        return want.shape != got.shape or not np.array_equal(want, got)
    finite = np.isfinite(want)
    if want.shape != got.shape or not np.array_equal(finite, np.isfinite(got)):
        return True
    return np.abs(want[finite] - got[finite]).max(initial=0) > 1e-4 * np.abs(want[finite]).max(initial=1e-12)


@pytest.mark.parametrize(("file", "case"), SERVED, ids=lambda x: x.get("file", x.get("name")))
def test_selection_equals_the_published_one(file, case):
    with np.load(FOLDER / file["file"], allow_pickle=False) as z:
        inputs = {name: z[name] for name in file["inputs"]}
        before = {name: value.copy() for name, value in inputs.items()}
        got = select(file["kind"], inputs, case["params"])
        compared = [n for n in case["outputs"] if n in got]
        wrong = [n for n in compared if differs(case["outputs"][n]["compare"], z[case["outputs"][n]["array"]], got[n])]
    assert not wrong
    assert set(compared) == set(case["outputs"]), "every published output of a served kind is compared"
    assert all(np.array_equal(before[n], inputs[n]) for n in inputs), "inputs must not be modified"


def test_files_are_the_published_ones():
    for file in FILES:
        assert hashlib.sha256((FOLDER / file["file"]).read_bytes()).hexdigest() == file["sha256"], file["file"]


def test_every_published_kind_is_served_and_another_one_says_so():
    assert {f["kind"] for f in FILES} <= set(KINDS)
    with pytest.raises(NotImplementedError, match="served kinds"):
        select("not_one", {}, {})


def test_fastv_keeps_the_largest_of_the_last_row():
    attention = np.zeros((2, 10), np.float32)
    attention[:, 2:8] = [[0.1, 0.5, 0.0, 0.2, 0.3, 0.0], [0.1, 0.1, 0.0, 0.6, 0.1, 0.0]]
    got = select("fastv", {"last_token_attention": attention, "image_start": 2, "image_length": 6}, {"n_keep": 2})
    assert got["kept"].tolist() == [1, 3]
    assert got["position_ids_out"].tolist() == [0, 1, 3, 5, 8, 9]
    half = select(
        "fastv", {"last_token_attention": attention, "image_start": 2, "image_length": 6}, {"prune_ratio": 0.5}
    )
    assert len(half["kept"]) == 3


def test_a_missing_input_is_named():
    with pytest.raises(ParameterError, match="visual_features"):
        select("resprune", {"text_embeddings": np.ones((1, 4))}, {"n_keep": 1, "alpha": 0.0})
