"""What a click means, without a browser."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.errors import sentence_for
from app.handlers.diagnostics import Diagnosing
from app.handlers.explore import Handlers
from app.handlers.requests import RunForm
from app.media.examples import read_examples
from app.serving import service as service_module
from app.serving.caches import BoundedCache
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings, read_settings
from pruning.errors import BudgetError, RunStopped
from pruning.methods import METHODS
from pruning.records.archive import unpack

EXAMPLES = read_examples()
START = SessionState()


@pytest.fixture
def handlers(tiny, tmp_path) -> Handlers:
    return Handlers(Service(Settings(max_new_tokens=3), load=lambda name, **kwargs: tiny), EXAMPLES, 36, tmp_path)


def ask(handlers, question="What color is the cross?", state=START, method="resprune", count=9, session="me", **kwargs):
    parts = {"model": "demo", "positions": "method", "seed": 0, "parameters": {}} | kwargs
    return list(handlers.run(state, RunForm(question, method, count, **parts), Visitor(session)))


def test_a_run_says_what_it_does_and_ends_with_its_views(handlers):
    events = ask(handlers)
    texts = [e[0]["text"] for e in events]
    assert texts[0].startswith("Encoding the picture")
    assert any("full picture" in t for t in texts)
    assert any("kept visual tokens" in t for t in texts)
    assert texts[-1].startswith("Done in")
    run = events[-1][1]
    canvas, answers, cost = run["canvas"], run["answers"], run["cost"]
    assert (canvas["stops"][-1]["rows"], cost["counted"]["kept_at_end"]) == (9, "9")
    assert canvas["recorded"] is False
    assert canvas["answer_region_kept"]["of"] > 0
    assert answers["question"] == "What color is the cross?"
    assert all("canvas" not in e[1] for e in events[1:-1]), "the canvas is left alone until there is something new"
    assert canvas["attention"]["full"]["shares"]
    assert "reconstructs" in canvas["how"][0]


def test_a_question_without_known_truth_has_no_answer_region(handlers):
    assert ask(handlers, "What do you see?")[-1][1]["canvas"]["answer_region"] is None


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"question": ""}, "The question is empty"),
        ({"question": None}, "not text"),
        ({"question": "x" * 4001}, "the limit is 4000"),
        ({"count": 0}, "allowed are 1 to 36"),
        ({"count": -5}, "allowed are 1 to 36"),
        ({"count": 37}, "allowed are 1 to 36"),
        ({"count": math.nan}, "must be a whole number"),
        ({"count": math.inf}, "must be a whole number"),
        ({"count": None}, "must be a whole number"),
        ({"count": "many"}, "must be a whole number"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"parameters": {"alpha": 99}}, "allows 0 to 8"),
        ({"parameters": {"alpha": math.nan}}, "needs a number"),
        ({"method": "fastv", "parameters": {"layer": 77}}, "allows 1 to 5"),
        ({"method": "vitcop", "count": 35}, "ViTCoP keeps at most"),
        ({"model": "somebody/else"}, "does not serve 'somebody/else'"),
        ({"positions": "nowhere"}, "method, original or renumbered"),
        ({"seed": None}, "seed is None"),
        ({"seed": math.inf}, "whole number from 0"),
        ({"seed": 0.5}, "whole number from 0"),
        ({"seed": 2**40}, "whole number from 0"),
        ({"state": SessionState("upload:/etc/hostname")}, "no longer here"),
        ({"state": SessionState("upload:../../etc/passwd")}, "no longer here"),
        ({"question": "What is </s> this?"}, "reads as a command"),
    ],
)
def test_bad_input_is_one_sentence_and_the_next_run_works(handlers, kwargs, sentence):
    last = ask(handlers, **kwargs)[-1]
    assert last[0]["kind"] == "error"
    assert sentence in last[0]["text"]
    assert last[1] == gr.skip() or last[1]["answers"] == {"state": "restore"}
    assert ask(handlers)[-1][0]["text"].startswith("Done")


def test_an_unexpected_error_is_a_note_and_not_a_trace(handlers, monkeypatch, caplog):
    monkeypatch.setattr(Service, "_run", lambda *a: 1 / 0)
    text = ask(handlers)[-1][0]["text"]
    assert "Something went wrong on our side (note " in text
    assert "ZeroDivision" not in text
    code = text.split("(note ")[1].split(")")[0]
    assert code in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_said_to_whom_it_concerns(handlers, tiny, monkeypatch):
    monkeypatch.setattr("app.serving.worker.POLL_SECONDS", 0.01)
    real, died = tiny.answer, []

    def die_once(*args):
        if not died:
            died.append(1)
            for events in handlers.service._subscribers:  # somebody else's worker dies as well
                events.put(service_module.Event("held_up"))
            raise SystemExit
        return real(*args)

    monkeypatch.setattr(tiny, "answer", die_once)
    events = ask(handlers)
    texts = [e[0]["text"] for e in events]
    assert any(t.endswith("The worker of another run stopped and was started again; yours continues.") for t in texts)
    assert texts[-1].startswith("Done in")
    assert texts[-1].endswith("The worker of this run stopped and was started again.")
    assert events[-1][1]["canvas"]["recorded"] is False
    monkeypatch.setattr(tiny, "answer", lambda *args: exit())
    last = ask(handlers, "Something else?")[-1]
    assert last[0]["text"].startswith("The worker of this run broke off, was started again, and broke off again.")
    assert last[1]["answers"] == {"state": "restore"}
    monkeypatch.setattr(tiny, "answer", real)
    assert ask(handlers, "Something else?")[-1][0]["text"].startswith("Done")


def test_memory_that_runs_out_is_advice(handlers, monkeypatch):
    def full(*args):
        raise MemoryError

    monkeypatch.setattr(Service, "_run", full)
    assert "Not enough memory" in ask(handlers)[-1][0]["text"]
    monkeypatch.undo()


def test_stop_ends_the_run_and_the_answers_come_back(handlers, tiny, monkeypatch):
    started = threading.Event()

    def slow(self, events, stop, *rest):
        started.set()
        while not stop.is_set():
            time.sleep(0.01)
        raise RunStopped

    monkeypatch.setattr(Service, "_run", slow)
    found = []
    runner = threading.Thread(target=lambda: found.extend(ask(handlers, session="a")))
    runner.start()
    started.wait(5)
    assert handlers.stop("somebody else")["text"] == "Ready."
    began = time.monotonic()
    handlers.stop("a")
    runner.join(5)
    assert time.monotonic() - began < 1
    assert found[-1][0]["text"] == "Stopped. Nothing was changed."
    assert found[-1][1] == {"answers": {"state": "restore"}, "of": "example:0"}


def test_leaving_the_page_ends_the_run(handlers, monkeypatch):
    ended = threading.Event()

    def slow(self, events, stop, *rest):
        events.put(service_module.Event("phase", "encode"))
        stop.wait(5)
        ended.set()
        raise RunStopped

    monkeypatch.setattr(Service, "_run", slow)
    events = handlers.run(START, RunForm("What?", "resprune", 9, "demo"), Visitor("b"))
    for _ in range(3):
        next(events)
    events.close()  # what Gradio does when the browser goes away
    assert ended.wait(2)
    assert not handlers.service.stop("b"), "nothing is left of it"


def test_the_tower_runs_once_for_a_picture_and_the_full_answer_once_for_a_question(handlers, tiny):
    calls = []
    handle = tiny.model.model.vision_tower.register_forward_pre_hook(lambda m, a: calls.append(1))
    try:
        for method in ("resprune", "fastv", "visionzip", "vitcop"):
            ask(handlers, method=method)
        assert len(calls) == 1
        phases = [e[0]["text"] for e in ask(handlers, "Another question?")]
        assert len(calls) == 1
        assert any("full picture" in p for p in phases)
    finally:
        handle.remove()


def test_uploads_outside_the_upload_folder_are_not_read(handlers, tmp_path):
    inside, outside = tmp_path / "ok.png", tmp_path.parent / "secret.png"
    for path in (inside, outside):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    assert handlers.bring([str(inside)], START, "a")[0].picture == f"upload:{inside}"
    for path in (outside, tmp_path / ".." / "secret.png", "", "/etc/passwd"):
        state, status, *_ = handlers.bring([str(path)], START, "a")
        assert state == START
        assert status["kind"] == "error"


def test_a_made_up_event_from_a_browser_does_no_harm(handlers):
    for path in ("", "5", "\0", "None", "x" * 5000):
        assert handlers.bring([path], START, "a")[1]["kind"] == "error"
    for number in ("99", "-1", "x", None, 1.5):
        assert handlers.pick_example(number, "fastv", 9, "me")[0].picture.startswith("example:")
    for method, count in ((None, None), ("magic", math.nan), (5, "many")):
        assert handlers.open_example(0, method, count)[4]["canvas"]["recorded"]


def test_examples_open_with_their_recorded_run(handlers):
    for number, example in enumerate(EXAMPLES):
        state, question, suggestions, _, run = handlers.open_example(number, "visionzip", 40)
        assert state.picture == f"example:{number}"
        assert run["example"] == number
        assert run["canvas"]["recorded"] is True
        assert run["canvas"]["method"] == "VisionZip"
        assert run["answers"]["question"] == question == example.questions[0].text
        assert run["answers"]["truth"] == example.questions[0].answer
        assert suggestions["questions"] == [q.text for q in example.questions]


def test_all_recorded_runs_of_an_example_travel_at_once(handlers):
    bundle = json.loads(handlers.recorded(0))
    assert set(bundle["runs"]) == set(EXAMPLES[0].recorded_stops)
    assert bundle["picture"].startswith("data:image/jpeg")
    for method, runs in bundle["runs"].items():
        for count, run in runs.items():
            assert run["canvas"]["pictures"] == [""]
            assert run["random"]["seeds"] == 20
            last = run["canvas"]["stops"][-1]
            if last["part"] != "language model" or last["layer"] == 0:  # cuts inside it may mean the average instead
                assert last["rows"] == int(count), method
    assert handlers.recorded(99) == handlers.recorded("x") == handlers.recorded(0)


def test_random_band_runs_every_seed(handlers):
    ask(handlers)
    events = list(handlers.run_random({"kind": "live"}, Visitor("me")))
    assert "seed 19 of 20" in [e[0]["text"] for e in events][-2]
    band = events[-1][1]["random"]
    assert band["seeds"] == 20
    assert 0 <= band["same"] <= 20
    assert band["answer_region"][0] <= band["answer_region"][1] <= band["answer_region"][2]
    for source, visitor in (({"kind": "live"}, "somebody else"), (None, "nobody"), ("x", "nobody")):
        assert list(handlers.run_random(source, Visitor(visitor)))[-1][0]["kind"] == "error"


def test_going_on_to_another_picture_ends_the_run_without_a_word(handlers, monkeypatch):
    started = threading.Event()

    def slow(self, events, stop, *rest):
        started.set()
        stop.wait(5)
        raise RunStopped

    monkeypatch.setattr(Service, "_run", slow)

    def another_run():
        with handlers.service.hold("a"):
            pass

    for go_on in (lambda: handlers.pick_example(2, "fastv", 9, "a"), another_run):
        started.clear()
        found = []
        runner = threading.Thread(target=lambda into=found: into.extend(ask(handlers, session="a")))
        runner.start()
        assert started.wait(5)
        go_on()
        runner.join(5)
        assert {e[0]["kind"] for e in found} == {"busy"}, "no word about the end"


def test_caches_are_bounded():
    cache = BoundedCache(2)
    for key in "abc":
        cache.put(key, key)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (None, "b", "c")
    cache.get("b")
    cache.put("d", "d")
    assert cache.get("c") is None


def test_sentences():
    assert sentence_for(BudgetError("It is 0.", "Raise it.")) == "It is 0. Raise it."
    assert "note" in sentence_for(KeyError("x"))


def test_settings_come_from_flags():
    assert read_settings([]).host == "127.0.0.1"
    assert read_settings(["--model", "x/y", "--allow-download", "--port", "8000"]) == Settings(
        model="x/y", allow_download=True, port=8000
    )
    with pytest.raises(SystemExit):
        read_settings(["--port", "many"])


def test_diagnostics_of_the_run_that_is_shown_and_what_other_methods_would_keep(handlers):
    diagnosing, live, me = Diagnosing(handlers.service, handlers.runs), {"kind": "live"}, Visitor("me")
    assert "no longer here" in diagnosing.show(SimpleNamespace(source=live, number=3), "me")["problem"]
    ask(handlers)
    payload = diagnosing.show(SimpleNamespace(source=live, number=4), "me")
    assert payload["number"] == 4
    assert payload["overlaps"] == []
    assert [line["value"] for line in payload["lines"] if line["name"] == "effective rank of the picture"] != ["–"]
    events = list(diagnosing.compare(live, me))
    assert any(e[0]["text"] == "Computing which visual tokens FastV would keep…" for e in events)
    assert events[-1][1]["made_for"] == live
    assert "--diagnostics" in events[-1][1]["recipe"]["command"]
    found = diagnosing.show(SimpleNamespace(source=live, number=5), "me")["overlaps"]
    assert len(found) == len(METHODS) - 2
    wish = SimpleNamespace(source=live, number=6, kind="zip", stop=0, dark=False)
    [record] = unpack(base64.b64decode(handlers.take(wish, "me")["data"])).values()
    assert len(record.overlaps) == len(found), "what is taken away has them too"
    for source in ({"kind": "live"}, None, "x", {"kind": "recorded", "example": "x"}):
        assert list(diagnosing.compare(source, Visitor("nobody")))[-1][0]["kind"] == "error"
        assert diagnosing.show(SimpleNamespace(source=source, number=7), "nobody")["problem"]
    recorded = {"kind": "recorded", "example": 0, "method": "visionzip", "count": 64}
    assert diagnosing.show(SimpleNamespace(source=recorded, number=8), "nobody")["lines"]


def test_a_download_of_the_model_is_told(tiny, tmp_path):
    def load(name, *, progress, **kwargs):
        progress(500 * 10**6, 10**9)
        return tiny

    handlers = Handlers(Service(Settings(max_new_tokens=3), load=load), EXAMPLES, 36, tmp_path)
    assert "Downloading the model: 0.5 GB of 1.0 GB (50 %)…" in [e[0]["text"] for e in ask(handlers)]


def test_licence_and_size_stand_beside_the_choice(capsys):
    from app.ui.tabs.explore import _about_model
    from pruning.cli.parser import main

    assert _about_model("smolvlm2-2b") == (
        "2.25 B parameters, 9.0 GB to download; memory: about 6 GB in bf16. Licence: Apache-2.0."
    )
    assert _about_model("demo").endswith("memory: 0.2 GB. Licence: Apache-2.0.")
    assert _about_model("somebody/else") == "Licence: see its model card."
    assert main(["list"]) == 0
    assert "licence: Qwen Research License  (checked: licence: a conversion's card)" in capsys.readouterr().out
