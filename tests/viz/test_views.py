"""What the page shows is what the record says."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.methods import METHODS
from pruning.metrics.agreement import Verdict, verdict
from pruning.metrics.token_fates import DROPPED, GONE, KEPT, MERGED, answer_region_kept, fates_after, landing
from pruning.models.base import RunCallbacks
from pruning.records.run import RunRequest
from viz.page.run import (
    answers_view,
    attention_view,
    canvas_view,
    chart_view,
    cost_view,
    headline,
    picture_url,
    picture_view,
)
from viz.text_diff import first_difference, word_diff


def unpack(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module", params=METHODS)
def record(request, tiny, noise):
    asked = RunRequest("tiny", request.param, 0.4, "What color is the star?", max_new_tokens=3)
    return run(asked, tiny, noise, RunContext(answer_region=np.arange(0, 36, 2), callbacks=RunCallbacks(trace=True)))


def test_canvas_fates_are_the_selections(record):
    view = canvas_view(record, "data:", recorded=False)
    assert view["stops"][0]["rows"] == 36
    gone = np.zeros(36, bool)
    for stop, step in zip(view["stops"][1:], record.steps, strict=True):
        fate = unpack(stop["fate"], "u1")
        assert np.flatnonzero(fate == KEPT).tolist() == step.selection.kept.tolist()
        assert np.flatnonzero(fate == DROPPED).tolist() == step.selection.dropped.tolist()
        assert np.flatnonzero(fate == MERGED).tolist() == step.selection.merged.tolist()
        assert (fate[gone] == GONE).all()
        gone |= fate != KEPT
        assert stop["rows"] == step.selection.n_rows
        if step.selection.scores is not None:
            assert np.array_equal(unpack(stop["score"], "<f4"), step.selection.scores, equal_nan=True)
        if step.why:
            number = unpack(stop["why"]["of"], "u1")
            named = [np.sort(ids).tolist() for ids in step.why.values()]
            assert [np.flatnonzero(number == i).tolist() for i in range(len(named))] == named
            assert stop["why"]["names"] == list(step.why)
        else:
            assert stop["why"] is None
        if stop["merged_into"]:
            assert np.array_equal(unpack(stop["merged_into"], "<i4"), step.selection.merged_into)
    assert view["stops"][-1]["rows"] == record.pruned.visual_per_layer[-1]


def test_fates_follow_a_merge_to_its_end_and_agree_with_the_answer_region(record):
    fate = fates_after(record, len(record.steps))
    assert np.flatnonzero(fate == KEPT).tolist() == record.kept.tolist()
    found = answer_region_kept(record)
    assert found["kept"] == (fate[record.answer_region] == KEPT).sum()
    assert found["merged"] == (fate[record.answer_region] == MERGED).sum()
    place = landing(record, len(record.steps))
    assert np.isin(place[fate == MERGED], record.kept).all(), "merged into something that lives"
    assert (place[fate == DROPPED] == -1).all()


def test_cost_and_chart_say_what_the_record_says(record):
    cost = cost_view(record)
    said = cost["counted"]["kept_at_end"]
    assert int(said.split()[0]) == len(record.kept)
    assert ("[CLS]" in said) == (record.pruned.visual_per_layer[-1] > len(record.kept))
    assert cost["counted"]["mean_entering"] == pytest.approx(np.mean(record.pruned.visual_per_layer))
    assert cost["estimated"]["pruned"] == record.pruned_cost.prefill_flops
    assert cost["computed"]["kv_pruned"] == record.pruned_cost.kv_bytes
    assert cost["measured"]["pruned"]["prune"] == record.pruned.timing.prune_ms
    chart = chart_view(record)
    assert chart["full"] == list(record.full.visual_per_layer)
    assert chart["pruned"] == list(record.pruned.visual_per_layer)
    answers = answers_view(record)
    assert " ".join(w["text"] for w in answers["pruned"]["words"]) == " ".join(record.pruned.text.split())
    assert sum(w["log_prob"] for w in answers["full"]["words"]) == pytest.approx(sum(record.full.log_probs), abs=1e-3)


def test_the_answer_region_is_counted_over_all_stages(record):
    found = answer_region_kept(record)
    assert found["of"] == 18
    assert found["kept"] == len(set(record.kept.tolist()) & set(range(0, 36, 2)))
    assert found["kept"] + found["merged"] <= 18


def test_attention_of_words_is_the_records(record):
    for name in ("full", "pruned"):
        answer = getattr(record, name)
        view = attention_view(answer)
        words = answers_view(record)[name]["words"]
        assert len(view["shares"]) == len(words)
        weights = unpack(view["weights"], "u1").reshape(len(words), 36)
        assert (weights.max(1) == 255).all()
        assert sum(view["shares"]) == pytest.approx(float(answer.attention.astype("f4").sum()), rel=0.02)
        assert np.allclose(view["ratios"][-1], answer.head_ratios[words[-1]["tokens"]].mean(0), atol=1e-3)
        assert view["nearest"] == [answer.nearest[w["tokens"][0]] for w in words]
    nearest = canvas_view(record, "", recorded=False)["nearest"]
    assert unpack(nearest["token"], "<i4").tolist() == record.nearest_kept.tolist()


def test_keeping_everything_says_so(tiny, noise):
    record = run(RunRequest("tiny", "fastv", 1.0, "What?", max_new_tokens=2), tiny, noise)
    assert "nothing to compare" in headline(record)
    assert len(canvas_view(record, "", recorded=False)["stops"]) == 1


def test_a_large_picture_is_shrunk_and_keeps_its_size_in_words():
    wide = np.zeros((30, 4000, 3), np.uint8)
    url, size = picture_url(wide)
    assert size == (4000, 30)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 40_000
    assert picture_view([url], wide, None)["layout"] == {
        "pictures_wh": [[4000, 30]], "names": ["picture 1"], "frames": [[0]], "tiles": [], "views": [],
    }  # fmt: skip


SAME_PAIRS = [("red", "red"), ("Red.", "red"), ("three", "3"), ("a star", "star"), ("", "")]
WORDING_PAIRS = [
    ("a red star", "there is a red star"),
    ("no", "No, there is none."),
    ("star, red", "red star"),
]
DIFFERENT_PAIRS = [
    ("red", "blue"),
    ("yes", "no"),
    ("three", "four"),
    ("yes, a red star", "a red star"),
    ("a red star", "a star"),
    ("there is no star", "there is a star"),
    ("red", ""),
]
PAIRS = [
    *((*p, Verdict.SAME) for p in SAME_PAIRS),
    *((*p, Verdict.WORDING) for p in WORDING_PAIRS),
    *((*p, Verdict.DIFFERS) for p in DIFFERENT_PAIRS),
]


@pytest.mark.parametrize(("full", "pruned", "expected"), PAIRS)
def test_verdict(full, pruned, expected):
    assert verdict(full, pruned) is expected


def test_word_diff_reads_in_order_and_loses_nothing():
    diff = word_diff("a large red star, at the top", "a small red star at the top left")
    assert [(w.text, w.fate) for w in diff] == [
        ("a", "same"), ("large", "gone"), ("small", "new"), ("red", "same"), ("star", "same"),
        ("at", "same"), ("the", "same"), ("top", "same"), ("left", "new"),
    ]  # fmt: skip
    assert first_difference("a large red", "a small red") == 2
    assert first_difference("red", "red") is None
    assert first_difference("red", "red star") == 2
