"""The recorded runs are what today's code and weights would do; else: `python -m pruning.demo_model record`."""

from __future__ import annotations

import base64
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from app.handlers.explore import Handlers
from app.media.examples import ASSETS, Example, read_examples
from app.serving.service import Service
from app.session import SessionState
from app.settings import Settings
from pruning.compensation.checkpoint import save
from pruning.demo_model.examples import record_examples, record_more
from pruning.engine.compensate import open_compensator
from pruning.engine.plan import make_plan
from pruning.engine.run import answer_in_full, encode_image, run
from pruning.engine.session import RunContext
from pruning.methods import METHODS
from pruning.models import load
from pruning.models.base import RunCallbacks
from pruning.records.archive import names_in, read_one, unpack, unpack_run
from pruning.records.plan import PlanRequest
from support.tiny_models import tiny_parts

EXAMPLES = {e.key: e for e in read_examples()}


@pytest.fixture(scope="module")
def demo():
    return load("demo")


@pytest.mark.parametrize("key", EXAMPLES)
def test_recordings_are_not_stale(demo, key):
    example = EXAMPLES[key]
    request = example.recording("resprune", 64).request
    prompt = demo.prompt(example.picture, request.question)
    encoded, _ = encode_image(demo, prompt)
    full = answer_in_full(demo, prompt, encoded, 0.0, request.max_new_tokens, RunCallbacks())
    for number, method in enumerate(METHODS):
        if method not in example.recorded_stops:  # the next test says which
            continue
        count = (18, 64, 192)[number % 3]
        if count not in example.recorded_stops[method]:
            count = example.recorded_stops[method][-2]
        record = example.recording(method, count)
        again = run(
            record.request,
            demo,
            example.picture,
            RunContext(answer_region=record.answer_region, encoded=encoded, baseline=full),
        )
        assert again.request == record.request, "the picture is the one that was recorded"
        assert again.variant == record.variant
        assert [s.stage for s in again.steps] == [s.stage for s in record.steps]
        for new, old in zip(again.steps, record.steps, strict=True):
            both = np.intersect1d(new.selection.kept, old.selection.kept)
            assert len(both) >= 0.97 * len(old.selection.kept), f"{method} at {count}: other tokens are kept now"
        assert again.full.text == record.full.text
        assert again.pruned.text == record.pruned.text, f"{method} at {count}"


def test_what_is_recorded_beside_the_methods_is_not_stale(demo):
    for example in EXAMPLES.values():
        for name in example.more:
            record = example.recorded_more(name)
            if name == "words":
                again = run(record.request, demo, example.picture, compensator=open_compensator("accm", demo))
                assert again.compensated.caption == record.compensated.caption
                assert again.compensated.answer.text == record.compensated.answer.text
            else:
                assert record.structure is not None
            assert record.full.text == example.recording("resprune", 64).full.text


def test_a_run_with_words_and_one_with_a_plan_are_recorded_and_opened(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pruning.demo_model.examples.MAX_NEW_TOKENS", 2)
    captioner, gates = tmp_path / "captioner", tmp_path / "gates.zip"
    record_more(tiny, ASSETS / "examples", tmp_path, captioner, gates)
    assert "tiny: no run with words: there is no captioner at" in capsys.readouterr().out
    static = read_one(tmp_path / "redundancy.more.zip", "plan").structure
    assert static.request["calibration"] == "the example pictures"
    save(captioner, tiny_parts(tiny))
    make_plan(tiny, PlanRequest("tiny", score="magnitude", heads=0.5)).save(gates)
    record_more(tiny, ASSETS / "examples", tmp_path, captioner, gates)
    monkeypatch.setattr(Example, "more_archive", property(lambda self: tmp_path / f"{self.key}.more.zip"))
    handlers = Handlers(Service(Settings()), list(EXAMPLES.values()), 576, tmp_path)
    opened = {}
    for number, example in enumerate(EXAMPLES.values()):
        state, _, suggestions, _, _ = handlers.open_example(number, "resprune", 64)
        assert [m["name"] for m in suggestions["more"]] == example.more
        for name in example.more:
            question, status, opened[name] = handlers.open_more(name, state, "me")
            assert (question, status["kind"]) == (example.questions[0].text, "idle")
            source = opened[name]["recipe"]["source"]
            made = handlers.take(SimpleNamespace(kind="zip", stop=1, number=1, source=source), "me")
            record = unpack_run(base64.b64decode(made["data"]))[0]
            assert (record.compensated is None) == (name == "plan")
            assert (record.structure is None) == (name == "words")
            assert record.structure is None or record.structure.title != static.title, "trained gates come first"
            assert example.more_archive.stat().st_size < 60_000
    assert opened["words"]["compensation"]["next_words"]
    assert "heads" in opened["plan"]["canvas"]["weights"]
    for state in (SessionState("example:1"), SessionState("upload:x")):
        assert handlers.open_more("words", state, "me")[1]["kind"] == "error"


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_method_is_recorded_for_every_example(method):
    stops = [example.recorded_stops.get(method, []) for example in EXAMPLES.values()]
    if not any(stops):
        pytest.skip(f"{method} is not recorded; `python -m pruning.demo_model record --method {method}` does it")
    assert all(64 in counts for counts in stops)


def test_recordings_are_those_of_methods_in_the_order_of_their_table():
    for example in EXAMPLES.values():
        assert list(example.recorded_stops) == [m for m in METHODS if m in example.recorded_stops]


def parts(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist()}


def test_recording_one_method_leaves_the_others_as_they_are(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pruning.demo_model.examples.MAX_NEW_TOKENS", 2)
    monkeypatch.setattr("pruning.demo_model.examples.RECORDED_COUNTS", (9, 18))
    archive = tmp_path / "tiny.zip"
    record_examples(tiny, ASSETS / "examples", tmp_path, ["fastv", "random_baseline"])
    before, band = parts(archive), (tmp_path / "tiny.random.json").read_bytes()
    assert names_in(archive) == [f"{m}-{c}" for m in ("fastv", "random_baseline") for c in (9, 18)]
    record_examples(tiny, ASSETS / "examples", tmp_path, ["divprune"])
    after = parts(archive)
    assert names_in(archive) == [f"{m}-{c}" for m in ("divprune", "fastv", "random_baseline") for c in (9, 18)]
    assert {name: after[name] for name in before} == before
    assert (tmp_path / "tiny.random.json").read_bytes() == band
    monkeypatch.setattr("pruning.demo_model.examples.RECORDED_COUNTS", (9,))
    record_examples(tiny, ASSETS / "examples", tmp_path, ["fastv"])
    assert names_in(archive) == ["divprune-9", "fastv-9", "random_baseline-9"]
    assert unpack(archive.read_bytes())["fastv-9"].request.method == "fastv"


def test_an_example_opens_with_a_sentence_for_a_method_that_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(Example, "recorded_stops", {"visionzip": [64]})
    handlers = Handlers(Service(Settings()), read_examples(), 576, tmp_path)
    _, _, _, status, run = handlers.open_example(0, "fastv", 64)
    assert status["text"] == "No run of FastV is recorded for this example. Press Run."
    assert run["canvas"]["method"] == "VisionZip"
    assert "Press Run to repeat it live" in handlers.open_example(0, "visionzip", 64)[3]["text"]
    assert list(json.loads(handlers.recorded(0))["runs"]) == ["visionzip"]


def test_the_examples_know_their_answers():
    for example in EXAMPLES.values():
        record = example.recording("resprune", 576)
        assert example.truth(record.request.question)
